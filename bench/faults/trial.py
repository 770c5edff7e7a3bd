"""One router, one scenario: what became of the requests, and what was left on the engines?"""

import asyncio
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import httpx

from bench.compare.processes import await_free_port, running
from bench.compare.routers import Place, Router, url
from bench.faults.clients import Clients, a_body
from bench.faults.engines import Engine, Engines, engines
from bench.faults.fates import Fate
from bench.faults.scenarios import Scenario, Site

READY_WITHIN_S = 60
TRIES_AT_ONCE = 12
LEFT_OVER_AFTER_S = 2


class NotReady(Exception):
    """A router that does not serve an unbroken fleet, or engines that do not start."""


@dataclass(frozen=True, slots=True)
class Result:
    """A trial's figures. What is held and runs is that of 2 s after the last request ended."""

    router: str
    scenario: str
    round: int
    fates: dict[str, int]
    slowest_s: float
    prefills: int
    """Prompts computed on prefill engines and kept for a hand-over."""
    sent: int
    """Requests that reached engines, of either role; a release is one too."""
    handoffs_held: int
    """Prompts whose KV a prefill engine still held, or gave up only because its lease had ended."""
    blocks_held: int
    still_running: int

    @property
    def tried(self) -> int:
        """How many requests were made."""
        return sum(self.fates.values())


@dataclass(frozen=True, slots=True)
class Stand:
    """Where trials take place: ports, and cores of routers and engines; None is any."""

    place: Place
    router_core: int | None = None
    engine_core: int | None = None


async def trial(stand: Stand, router: Router, scenario: Scenario, number: int) -> Result:
    """Start engines and a router, let the scenario happen, and read the engines' books. Raises `NotReady`."""
    place = stand.place
    with engines(place, scenario.flags, stand.engine_core) as fleet:
        async with httpx.AsyncClient(timeout=10, trust_env=False) as http:
            await _await_engines(http, [*fleet.prefill, *fleet.decode])
            await_free_port(place.port)
            log = place.folder / f"{router.name}.log"
            with running(router.command, stand.router_core, log, router.cwd) as process:
                await _await_router(process, http, place, fleet)
                before = await _books(http, fleet)
                clients = Clients(url(place.port), scenario.patience_s)
                await scenario.script(Site(fleet, clients, http))
                await asyncio.sleep(LEFT_OVER_AFTER_S)
                after = await _books(http, fleet)
    return result(router.name, scenario.id, number, clients, Books(before, after))


@dataclass(frozen=True, slots=True)
class Books:
    """What the engines of each role said before and after, summed: (prefill, decode)."""

    before: tuple[Counter[str], Counter[str]]
    after: tuple[Counter[str], Counter[str]]

    def gained(self, name: str, roles: Sequence[int] = (0, 1)) -> int:
        """By how much a total has grown."""
        return sum(self.after[role][name] - self.before[role][name] for role in roles)


def result(router: str, scenario: str, number: int, clients: Clients, books: Books) -> Result:
    """The figures of a trial."""
    prefill, decode = books.after
    return Result(
        router=router,
        scenario=scenario,
        round=number,
        fates={str(fate): count for fate, count in sorted(clients.fates.items())},
        slowest_s=round(clients.slowest_s, 3),
        prefills=books.gained("issued", [0]),
        sent=books.gained("arrived"),
        handoffs_held=prefill["handoffs_open"] + books.gained("expired", [0]),
        blocks_held=prefill["blocks_in_use"],
        still_running=sum(role["requests_running"] + role["requests_waiting"] for role in (prefill, decode)),
    )


async def _books(http: httpx.AsyncClient, fleet: Engines) -> tuple[Counter[str], Counter[str]]:
    async def summed(role: Sequence[Engine]) -> Counter[str]:
        return sum([await engine.books(http) for engine in role], Counter())

    return await summed(fleet.prefill), await summed(fleet.decode)


async def _await_engines(http: httpx.AsyncClient, fleet: Sequence[Engine]) -> None:
    for engine in fleet:
        async for _ in _tries(engine.process, engine.url):
            try:
                await engine.books(http)
                break
            except httpx.TransportError:
                pass


async def _await_router(
    process: subprocess.Popen[bytes], http: httpx.AsyncClient, place: Place, fleet: Engines
) -> None:
    """Ask until all answers are right and every engine was asked."""
    everyone = [*fleet.prefill, *fleet.decode]
    round_ = 0
    async for _ in _tries(process, url(place.port)):
        round_ += 1
        warm = Clients(url(place.port), READY_WITHIN_S)
        async with asyncio.TaskGroup() as group:
            for number in range(TRIES_AT_ONCE):
                group.create_task(warm.ask(a_body(f"warm {round_} {number}")))
        all_asked = all([(await engine.books(http))["arrived"] for engine in everyone])
        if warm.fates == {Fate.RIGHT: TRIES_AT_ONCE} and all_asked:
            return


async def _tries(process: subprocess.Popen[bytes], what: str) -> AsyncIterator[None]:
    """Now and again until the time is over. Raises `NotReady` then, and when the process has ended."""
    clock = asyncio.get_running_loop().time
    until_s = clock() + READY_WITHIN_S
    while process.poll() is None and clock() < until_s:
        yield
        await asyncio.sleep(0.3)
    raise NotReady(f"{what} is not ready after {READY_WITHIN_S} s, or has ended")
