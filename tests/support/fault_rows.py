"""What a fault cost the clients: a load that goes on while something breaks, and a row of figures about it.

Engines are processes of their own, so that they can be killed; the gateway is in the test's process, so that what it
holds can be looked at.
"""

import asyncio
import os
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import orjson

from router.call import Api
from router.sim.config import SimConfig
from tests.support.client import Reply, Verdict, ask, judge
from tests.support.fleet import FleetProcess, Site, fleet_process, gateway_over, until

Happening = Callable[[], Awaitable[None] | None]

CLIENTS = 40
FULL = os.environ.get("FAULTS_FULL") == "1"
PACE: dict[str, Any] = {"time_scale": 0.1, "decode_step_s": 0.05}
NO_LIMIT = {"prefill_permits": 0, "decode_permits": 0}


def scaled(ci: int, full: int) -> int:
    """How much of something: a little, or all that a row is about, with `FAULTS_FULL=1`."""
    return full if FULL else ci


@dataclass
class Row:
    """A fault and what became of the requests. `lost`: no answer, a silently cut one, or a wrong text."""

    id: str
    fault: str
    tried: int = 0
    complete: int = 0
    errors: int = 0
    lost: int = 0
    leaked: int = 0


ROWS: list[Row] = []


@dataclass
class Trial:
    """A fleet of processes, a gateway over them and the tally of a load. Engines are in the order of their roles."""

    prefill: Sequence[FleetProcess]
    decode: Sequence[FleetProcess]
    here: Site
    row: Row
    replies: list[Reply] = field(default_factory=list)
    verdicts: Counter[Verdict] = field(default_factory=Counter)

    async def load(
        self, requests: int, *during: tuple[float, Callable[[], Awaitable[None] | None]], **body: Any
    ) -> None:
        """So many requests by 40 clients; each of `during` happens once its share of them has been begun."""
        numbers, waiting = iter(range(requests)), sorted(during, key=lambda at: at[0])

        async def keep_asking(seed: int) -> None:
            rng = random.Random(seed)
            for number in numbers:
                while waiting and number >= waiting[0][0] * requests:
                    if (happening := waiting.pop(0)[1]()) is not None:
                        await happening
                await self.ask(self.some_body(rng, number) | body)

        async with asyncio.TaskGroup() as group:
            for seed in range(CLIENTS):
                group.create_task(keep_asking(seed))

    def some_body(self, rng: random.Random, number: int) -> dict[str, Any]:
        """A streamed chat with a prompt of its own."""
        text = f"{number} " + " ".join(rng.choices(("river", "stone", "market", "garden"), k=30))
        messages = [{"role": "user", "content": text}]
        return {"model": "sim-8b", "messages": messages, "stream": True, "max_tokens": 12}

    async def ask(self, body: dict[str, Any]) -> None:
        """One request, judged."""
        self.row.tried += 1
        try:
            async with asyncio.timeout(30):
                reply = await ask(self.here.url, body, Api.CHAT)
            verdict = judge(reply, body)
        except (AssertionError, OSError, TimeoutError, EOFError):
            self.row.lost += 1
            return
        self.replies.append(reply)
        self.verdicts[verdict] += 1
        self.row.complete += verdict is Verdict.RIGHT
        self.row.errors += verdict is not Verdict.RIGHT

    async def totals(self, of: Sequence[FleetProcess]) -> Counter[str]:
        """The sums of the ledgers of engines that live."""
        summed = Counter[str]()
        for fleet in of:
            if fleet.process.returncode is None:
                for ledger in await fleet.ledgers():
                    summed.update(ledger["totals"])
        return summed

    def state(self, fleet: FleetProcess) -> str:
        """What the gateway thinks of an engine."""
        (member,) = fleet.members
        return next(b.standing.state.value for b in self.here.app.fleet.backends if b.url == member.url)


Listed = Callable[[Sequence[FleetProcess]], None]


def list_engines(file: Path, engines: Sequence[FleetProcess]) -> None:
    """Write the list that the gateway reads, in one step."""
    new = file.with_suffix(".new")
    new.write_bytes(orjson.dumps([asdict(fleet.members[0]) for fleet in engines]))
    new.replace(file)


@asynccontextmanager
async def trial(
    id_: str, fault: str, *, prefill: int = 2, decode: int = 2, listed: Listed | None = None, **sections: Any
) -> AsyncIterator[Trial]:
    """A trial whose row is kept; at its end the gateway must hold nothing.

    The gateway's settings name the engines, unless `listed` lists them elsewhere.
    """
    row = Row(id_, fault)
    async with AsyncExitStack() as held:

        async def engines(role: Any, count: int) -> list[FleetProcess]:
            return await asyncio.gather(
                *(held.enter_async_context(fleet_process(SimConfig(role=role, **PACE))) for _ in range(count))
            )

        pools = await engines("prefill", prefill), await engines("decode", decode)
        members = [fleet.members[0] for pool in pools for fleet in pool]
        if listed is not None:
            listed([fleet for pool in pools for fleet in pool])
            members = []
        here = await held.enter_async_context(gateway_over(members, **({"admission": NO_LIMIT} | sections)))
        made = Trial(*pools, here, row)
        try:
            yield made
            await until(lambda: not here.held(), here.held, within_s=5)
            here.assert_audited()
        finally:
            row.leaked = sum(here.held().values())
            ROWS.append(row)
