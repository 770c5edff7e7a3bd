"""One router, one scenario: what became of the requests, and what was left on the engines?"""

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import httpx

from bench.compare.routers import Router, url
from bench.faults.clients import Clients
from bench.faults.engines import Engine, Engines
from bench.faults.scenarios import Scenario, Site
from bench.faults.stand import Stand, serving

LEFT_OVER_AFTER_S = 2


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


async def trial(stand: Stand, router: Router, scenario: Scenario, number: int) -> Result:
    """Start engines and a router, let the scenario happen, and read the engines' books. Raises `NotReady`."""
    async with (
        httpx.AsyncClient(timeout=10, trust_env=False) as http,
        serving(stand, router, scenario.flags, http) as fleet,
    ):
        before = await _books(http, fleet)
        clients = Clients(url(stand.place.port), scenario.patience_s)
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
