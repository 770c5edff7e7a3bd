"""What a fault cost the clients: a load that goes on while something breaks, and a row of figures about it.

Engines are processes of their own, so that they can be killed and stopped; the gateway is in the test's process, so
that what it holds can be looked at.
"""

import asyncio
import itertools
import math
import os
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import orjson

from router.call import Api
from router.sim.config import SimConfig
from tests.support.client import Asker, Reply, Verdict, WrongText, ask, asker, judge, request
from tests.support.fleet import QUIET_WITHIN_S, FleetProcess, Member, Site, fleet_process, gateway_over
from tests.support.front import Front, front_of

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
    """A fault and what became of the requests.

    `lost`: no answer, or a silently cut one. `wrong`: a text that is not the right one. `leaked`: what the gateway
    holds and KV blocks that living engines hold 2 s after the last request, and hand-overs that only their lease ended.
    Clients that leave are among the tried, and nowhere else.
    """

    id: str
    fault: str
    tried: int = 0
    complete: int = 0
    errors: int = 0
    lost: int = 0
    wrong: int = 0
    leaked: int = 0


ROWS: list[Row] = []


@dataclass
class Trial:
    """A fleet of processes, a gateway over them and the tally of a load. Engines are in the order of their roles."""

    prefill: Sequence[FleetProcess]
    decode: Sequence[FleetProcess]
    here: Site
    row: Row
    fronts: Mapping[str, Front]
    replies: list[Reply] = field(default_factory=list)
    verdicts: Counter[Verdict] = field(default_factory=Counter)
    why_lost: Counter[str] = field(default_factory=Counter)

    async def load(
        self,
        requests: int,
        *during: tuple[float, Happening],
        clients: int = CLIENTS,
        **body: Any,
    ) -> None:
        """So many requests by some clients; each of `during` happens once its share of them has been begun."""
        numbers, waiting = iter(range(requests)), sorted(during, key=lambda at: at[0])

        async def keep_asking(seed: int) -> None:
            rng = random.Random(seed)
            for number in numbers:
                while waiting and number >= waiting[0][0] * requests:
                    if (happening := waiting.pop(0)[1]()) is not None:
                        await happening
                await self.ask(self.some_body(rng, number) | body)

        async with asyncio.TaskGroup() as group:
            for seed in range(clients):
                group.create_task(keep_asking(seed))

    @asynccontextmanager
    async def loading(self, *, clients: int = CLIENTS, pause_s: float = 0.25, **body: Any) -> AsyncIterator[None]:
        """Some clients ask again and again while the block lasts, each with a pause after an answer."""
        numbers, over = itertools.count(), asyncio.Event()

        async def keep_asking(seed: int) -> None:
            rng = random.Random(seed)
            while not over.is_set():
                await self.ask(self.some_body(rng, next(numbers)) | body)
                await asyncio.sleep(rng.uniform(0, 2 * pause_s))

        async with asyncio.TaskGroup() as group:
            for seed in range(clients):
                group.create_task(keep_asking(seed))
            yield
            over.set()

    def some_body(self, rng: random.Random, number: int) -> dict[str, Any]:
        """A streamed chat with a prompt of its own, which begins with its number."""
        text = f"{number} " + " ".join(rng.choices(("river", "stone", "market", "garden"), k=30))
        messages = [{"role": "user", "content": text}]
        return {"model": "sim-8b", "messages": messages, "stream": True, "max_tokens": 12}

    async def ask(self, body: dict[str, Any]) -> Reply | None:
        """One request, judged; None when it was lost."""
        self.row.tried += 1
        try:
            async with asyncio.timeout(30):
                reply = await ask(self.here.url, body, Api.CHAT)
            verdict = judge(reply, body)
        except WrongText:
            self.row.wrong += 1
            return None
        except (AssertionError, OSError, TimeoutError, EOFError) as error:
            self.row.lost += 1
            self.why_lost[str(error)[:80] or type(error).__name__] += 1
            return None
        self.replies.append(reply)
        self.verdicts[verdict] += 1
        self.row.complete += verdict is Verdict.RIGHT
        self.row.errors += verdict is not Verdict.RIGHT
        return reply

    @asynccontextmanager
    async def leaving(self, body: dict[str, Any]) -> AsyncIterator[Asker]:
        """A client that has asked and leaves with the block."""
        self.row.tried += 1
        async with asker(self.here.url) as client:
            client.send(request(Api.CHAT, body))
            yield client

    def ttft_s(self) -> list[float]:
        """How long those that were answered right waited for the first of it."""
        return [reply.first_at - reply.asked_at for reply in self.replies if reply.status == 200 and reply.first_at]

    async def totals(self, of: Sequence[FleetProcess]) -> Counter[str]:
        """The sums of the ledgers of engines that live."""
        summed = Counter[str]()
        for ledger in await self._ledgers(of):
            summed.update(ledger["totals"])
        return summed

    async def blocks_in_use(self) -> int:
        """KV blocks that living engines hold for requests."""
        ledgers = await self._ledgers((*self.prefill, *self.decode))
        return sum(ledger["outstanding"].get("blocks_in_use", 0) for ledger in ledgers)

    async def leaks(self) -> Counter[str]:
        """What is left 2 s after the last request, by name; less is waited for when nothing is."""
        loop = asyncio.get_running_loop()
        by = loop.time() + QUIET_WITHIN_S
        left = await self._held()
        while left.total() and loop.time() < by:
            await asyncio.sleep(0.05)
            left &= await self._held()  # a probe that is under way now was not before
        left["expired"] = (await self.totals(self.prefill))["expired"]
        return +left

    async def _held(self) -> Counter[str]:
        return Counter(self.here.held() | {"blocks": await self.blocks_in_use()})

    def state(self, fleet: FleetProcess) -> str:
        """What the gateway thinks of an engine."""
        (member,) = fleet.members
        return next(b.standing.state.value for b in self.here.app.fleet.backends if b.url == member.url)

    def front(self, fleet: FleetProcess) -> Front:
        """The front of an engine."""
        (member,) = fleet.members
        return self.fronts[member.url]

    async def _ledgers(self, of: Sequence[FleetProcess]) -> list[dict[str, Any]]:
        return [ledger for fleet in of if fleet.process.returncode is None for ledger in await fleet.ledgers()]


def p99(values: Sequence[float]) -> float:
    """The value that one in a hundred is above."""
    return sorted(values)[math.ceil(0.99 * len(values)) - 1]


Listed = Callable[[Sequence[FleetProcess]], None]


def list_engines(file: Path, engines: Sequence[FleetProcess]) -> None:
    """Write the list that the gateway reads, in one step."""
    new = file.with_suffix(".new")
    new.write_bytes(orjson.dumps([asdict(fleet.members[0]) for fleet in engines]))
    new.replace(file)


@asynccontextmanager
async def trial(
    id_: str,
    fault: str,
    *,
    prefill: int | Sequence[SimConfig] = 2,
    decode: int | Sequence[SimConfig] = 2,
    fronts: bool = False,
    listed: Listed | None = None,
    leaks: int | None = 0,
    **sections: Any,
) -> AsyncIterator[Trial]:
    """A trial whose row is kept; at its end nothing must be held.

    `leaks`: how much of KV may be; None: what the gateway knows that it could not give back. The gateway's settings
    name the engines, unless `listed` lists them elsewhere. With `fronts`, it reaches each engine through one.
    """
    async with AsyncExitStack() as held:
        first, second = await _engines(held, "prefill", prefill), await _engines(held, "decode", decode)
        between: dict[str, Front] = {}
        if fronts:
            first = [await _behind_a_front(held, fleet, between) for fleet in first]
            second = [await _behind_a_front(held, fleet, between) for fleet in second]
        members = [fleet.members[0] for fleet in (*first, *second)]
        if listed is not None:
            listed((*first, *second))
            members = []
        here = await held.enter_async_context(gateway_over(members, **({"admission": NO_LIMIT} | sections)))
        made = Trial(first, second, here, Row(id_, fault), between)
        try:
            yield made
        finally:
            left = await made.leaks()
            made.row.leaked = left.total()
            ROWS.append(made.row)
        assert left.keys() <= {"blocks", "expired"}, left
        assert left.total() <= leaks if leaks is not None else await _knows_of_leaks(here) or not left, left
        here.assert_audited()


async def _knows_of_leaks(here: Site) -> bool:
    """Whether the gateway has counted KV that it could not give back, or prefills that ended without naming theirs."""
    stranded = await here.metric("pd_router_kv_stranded_total")
    return bool(stranded + await here.metric("pd_router_retries_total", pool="prefill"))


async def _engines(held: AsyncExitStack, role: Any, configs: int | Sequence[SimConfig]) -> Sequence[FleetProcess]:
    if isinstance(configs, int):
        configs = [SimConfig(role=role, **PACE)] * configs
    return await asyncio.gather(*(held.enter_async_context(fleet_process(config)) for config in configs))


async def _behind_a_front(held: AsyncExitStack, fleet: FleetProcess, fronts: dict[str, Front]) -> FleetProcess:
    """The same engine, at the address of its front."""
    (member,) = fleet.members
    front = await held.enter_async_context(front_of(member.url))
    fronts[front.url] = front
    return replace(fleet, members=[Member(front.url, member.role)])
