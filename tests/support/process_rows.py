"""Rows about the gateway's own life: it runs as a process of its own, under a load that checks every answer."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from router.call import Api
from router.sim.config import SimConfig
from tests.support.client import Verdict, ask, judge
from tests.support.fault_rows import ROWS, Row
from tests.support.fleet import FleetProcess, fleet_process

WORDS = ("river", "stone", "market", "garden")


@dataclass
class Load:
    """Requests to a gateway, judged and counted in a row. `url` may change as gateways come and go."""

    row: Row
    url: str = ""
    verdicts: Counter[Verdict] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    """What became of those that got no answer, a cut one, or a wrong text."""
    took_s: dict[Verdict, list[float]] = field(default_factory=lambda: {verdict: [] for verdict in Verdict})

    async def ask(self, body: dict[str, Any]) -> Verdict | None:
        """One request on a connection of its own, judged; None when it was lost."""
        loop = asyncio.get_running_loop()
        since = loop.time()
        self.row.tried += 1
        try:
            async with asyncio.timeout(60):
                verdict = judge(await ask(self.url, body, Api.CHAT), body)
        except (AssertionError, OSError, TimeoutError, EOFError) as error:
            self.row.lost += 1
            self.lost.append(repr(error))
            return None
        self.took_s[verdict].append(loop.time() - since)
        self.verdicts[verdict] += 1
        self.row.complete += verdict is Verdict.RIGHT
        self.row.errors += verdict is not Verdict.RIGHT
        return verdict

    async def all_at_once(self, bodies: Sequence[dict[str, Any]]) -> None:
        """All of these."""
        await asyncio.gather(*map(self.ask, bodies))

    async def clients(self, count: int, over: asyncio.Event, **body: Any) -> None:
        """So many clients, each of which asks again when it is answered, until it is `over`."""

        async def keep_asking(seed: int) -> None:
            rng = random.Random(seed)
            while not over.is_set():
                await self.ask(some_body(rng, f"{seed}.{self.row.tried}") | body)

        async with asyncio.TaskGroup() as group:
            for seed in range(count):
                group.create_task(keep_asking(seed))

    async def arrivals(self, per_s: float, for_s: float, **body: Any) -> None:
        """So many requests a second, whatever became of those before."""
        loop, rng = asyncio.get_running_loop(), random.Random(0)
        at, end = loop.time(), loop.time() + for_s
        async with asyncio.TaskGroup() as group:
            while at < end:
                await asyncio.sleep(at - loop.time())
                group.create_task(self.ask(some_body(rng, str(self.row.tried)) | body))
                at += rng.expovariate(per_s)


def some_body(rng: random.Random, name: str, **more: Any) -> dict[str, Any]:
    """A streamed chat with a prompt of its own."""
    messages = [{"role": "user", "content": f"{name} " + " ".join(rng.choices(WORDS, k=30))}]
    return {"model": "sim-8b", "messages": messages, "stream": True, "max_tokens": 12} | more


def share(values: Sequence[float], of: float) -> float:
    """The value below which a share of them is."""
    return sorted(values)[min(len(values) - 1, int(len(values) * of))]


@asynccontextmanager
async def row(id_: str, fault: str) -> AsyncIterator[Load]:
    """A row that is kept, and a load to fill it."""
    made = Load(Row(id_, fault))
    try:
        yield made
    finally:
        ROWS.append(made.row)


@asynccontextmanager
async def engines(prefill: int = 1, decode: int = 1, **config: Any) -> AsyncIterator[FleetProcess]:
    """Engines in one process; `config` is that of each."""
    fields: dict[str, Any] = {"time_scale": 0.1, "decode_step_s": 0.05} | config
    configs = [SimConfig(role="prefill", **fields)] * prefill + [SimConfig(role="decode", **fields)] * decode
    async with fleet_process(*configs) as fleet:
        yield fleet


async def kept_by(fleet: FleetProcess, within_s: float) -> tuple[float, list[str]]:
    """What engines still hold for requests once that is nothing, or when the time is over; and after how long."""
    loop = asyncio.get_running_loop()
    since = loop.time()
    while kept := [name for ledger in await fleet.ledgers() for name in ledger["outstanding"]]:
        if loop.time() > since + within_s:
            break
        await asyncio.sleep(0.05)
    return loop.time() - since, kept
