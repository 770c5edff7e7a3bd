"""Where do engines and one router run, and when are they ready to be asked?"""

import asyncio
import subprocess
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx

from bench.compare.processes import await_free_port, running
from bench.compare.routers import Place, Router, url
from bench.faults.clients import Clients, a_body
from bench.faults.engines import Engine, Engines, engines
from bench.faults.fates import Fate

READY_WITHIN_S = 60
TRIES_AT_ONCE = 12


class NotReady(Exception):
    """A router that does not serve an unbroken fleet, or engines that do not start."""


@dataclass(frozen=True, slots=True)
class Stand:
    """Where trials take place: ports, and cores of routers and engines; None is any."""

    place: Place
    router_core: int | None = None
    engine_core: int | None = None


@asynccontextmanager
async def serving(
    stand: Stand, router: Router, flags: Mapping[str, Sequence[str]], http: httpx.AsyncClient
) -> AsyncIterator[Engines]:
    """New engines, with further `flags` by role, and a router that serves them while the block lasts.

    Raises `NotReady`.
    """
    place = stand.place
    with engines(place, flags, stand.engine_core) as fleet:
        await _await_engines(http, [*fleet.prefill, *fleet.decode])
        await_free_port(place.port)
        log = place.folder / f"{router.name.replace(' ', '-')}.log"
        with running(router.command, stand.router_core, log, router.cwd) as process:
            await _await_router(process, http, place, fleet)
            yield fleet


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
