"""The legs of requests to scripted engines, without a client: an exchange, and what it told its observers."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson

from router.call import Api, Call, Trace, parse
from router.errors import Outcome
from router.exchange.exchange import Exchange, Legs
from router.exchange.pool import Connections
from router.exchange.release import Releases
from router.fleet.backend import Backend
from router.settings.engines import BackendSettings, Role
from router.settings.exchange import HandoffSettings, Timeouts
from router.settings.fleet import Probes
from router.telemetry.events import Journey, Observers
from tests.support.gateway import body, eventually
from tests.support.scripted_engine import Script, ScriptedEngine, scripted_engine


@dataclass
class Told:
    """What became of hand-overs, counted."""

    counts: Counter[str] = field(default_factory=Counter)

    def released(self, reason: str) -> None:
        """Part of `ReleaseObserver`."""
        self.counts[f"released {reason}"] += 1

    def stranded(self, reason: str) -> None:
        """Part of `ReleaseObserver`."""
        self.counts[f"stranded {reason}"] += 1


@dataclass
class Stand:
    """Two engines and an exchange between them."""

    prefill: ScriptedEngine
    decode: ScriptedEngine
    legs: Legs
    connections: Connections
    releases: Releases
    exchange: Exchange
    told: Told
    prefill_outcomes: list[Outcome]
    journey: Journey

    async def ask(self, **fields: Any) -> bytes:
        """Both legs of one request; the content of a complete answer, or the first events of a stream."""
        async with self.exchange.open(call(**fields), self.legs, self.journey) as opened:
            return opened.body

    async def at_rest(self) -> None:
        """Wait until nothing is under way any more, and see that nothing is held."""
        await eventually(lambda: not self.releases.open, within_s=10)
        await asyncio.sleep(0.01)
        pools = self.connections._pools.values()
        assert sum(pool.open - pool.idle for pool in pools) == 0
        assert self.prefill.open + self.decode.open == self.connections.open


def call(**fields: Any) -> Call:
    """A completion."""
    return parse(Api.COMPLETIONS, orjson.dumps(body(**fields)), Trace("id-1"))


@asynccontextmanager
async def stand(
    prefill: Script,
    decode: Script,
    *,
    handoff: HandoffSettings | None = None,
    max_answer_bytes: int = 1 << 20,
    **timeouts: float,
) -> AsyncIterator[Stand]:
    """A stand whose engines answer by scripts. Made in a loop on virtual time, waits end at once."""
    clock = asyncio.get_running_loop().time
    async with AsyncExitStack() as held:
        engines = [await held.enter_async_context(scripted_engine(script)) for script in (prefill, decode)]
        backends = [
            Backend(BackendSettings(url=engine.url, role=role), Probes(), now=0)
            for engine, role in zip(engines, (Role.PREFILL, Role.DECODE), strict=True)
        ]
        told, outcomes = Told(), list[Outcome]()
        connections = Connections(connect_s=1)
        held.callback(connections.close)
        releases = Releases(connections, handoff or HandoffSettings(), told)
        held.push_async_callback(releases.close)
        exchange = Exchange(connections, releases, Timeouts(**timeouts), max_answer_bytes=max_answer_bytes, clock=clock)
        legs = Legs(backends[1], backends[0], outcomes.append)
        journey = Journey("id-1", "completions", clock(), clock, Observers())
        yield Stand(engines[0], engines[1], legs, connections, releases, exchange, told, outcomes, journey)
