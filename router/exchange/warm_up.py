"""Engines meet before requests need them to: a first handshake may take seconds, for which somebody has to wait.

Whenever an engine is new to the gateway (started, restarted, added), one tiny prompt is handed over between it and each
engine that it may pair with, beside the requests and one at a time on every engine. Until then requests go over other
pairs, where there are any.
"""

import asyncio
import logging
import math
from collections.abc import Callable, Iterator
from uuid import uuid4

from router.errors import EngineError, EngineFault, EngineRefusal, EngineTimeout, Leg
from router.exchange.rehearsal import Rehearsal, common_model
from router.fleet.backend import Backend
from router.fleet.fleet import Fleet
from router.fleet.pairs import Life, Meeting, Pairs
from router.fleet.standing import State
from router.settings.engines import Role
from router.supervision import LastResort, Tasks
from router.telemetry.events import Clock, WarmUpObserver

log = logging.getLogger(__name__)

LOOK_S = 2.0
"""Pause between looks for engines that have become others without a probe that failed."""

RETRY_S = 15.0
"""Before a pair that could not hand over is tried once more; a side channel may open later than the API."""

Pair = tuple[Backend, Backend]
Match = Callable[[Backend, Backend], bool]


class WarmUps:
    """Warms up the pairs of `fleet` that `may_pair`."""

    def __init__(
        self, fleet: Fleet, pairs: Pairs, rehearsal: Rehearsal, may_pair: Match, clock: Clock, observer: WarmUpObserver
    ) -> None:
        self._fleet = fleet
        self._pairs = pairs
        self._rehearsal = rehearsal
        self._may_pair = may_pair
        self._clock = clock
        self._observer = observer
        self._tasks = Tasks()
        self._waiting: set[Pair] = set()
        self._under_way: set[Pair] = set()
        self._busy: set[Backend] = set()
        self._running = False

    async def run(self) -> None:
        """Warm up what is cold until cancelled."""
        self._running = True
        last_resort = LastResort("warm-ups")
        try:
            while True:
                with last_resort.turn():
                    self.look()
                await asyncio.sleep(LOOK_S)
        finally:
            self._running = False
            await self._tasks.close()
            self._pairs.cold.clear()

    @property
    def open(self) -> int:
        """Warm-ups under way."""
        return len(self._tasks)

    def look(self) -> None:
        """Start what is due, as far as both engines are free for it; the rest follows when they are."""
        if not self._running:
            return
        due = dict(self._due())
        self._pairs.cold = {(prefill.id, decode.id) for (prefill, decode), again in due.items() if not again}
        self._waiting = due.keys() - self._under_way
        for pair in due:
            self._start(pair)

    def _start(self, pair: Pair) -> None:
        if pair in self._waiting and self._busy.isdisjoint(pair):
            self._waiting.remove(pair)
            self._under_way.add(pair)
            self._busy.update(pair)
            self._tasks.spawn(self._meet(*pair), f"warm-up {pair[0].id} {pair[1].id}")

    def _due(self) -> Iterator[tuple[Pair, bool]]:
        """Pairs to be warmed up, and whether they have been tried already."""
        now, meetings = self._clock(), self._pairs.meetings
        up = [b for b in self._fleet.backends if b.standing.state is State.UP and not b.standing.drained]
        decode = [(b, _life(b)) for b in up if b.role is Role.DECODE]
        for first, life in [(b, _life(b)) for b in up if b.role is Role.PREFILL]:
            for second, other_life in decode:
                met = meetings.get((first.id, second.id))
                known = met is not None and met.lives == (life, other_life)
                if (not known or (met and now >= met.again_at)) and self._can_meet(first, second):
                    yield (first, second), known

    def _can_meet(self, prefill: Backend, decode: Backend) -> bool:
        return self._may_pair(prefill, decode) and common_model(prefill, decode) is not None

    async def _meet(self, prefill: Backend, decode: Backend) -> None:
        try:
            outcome, fault, again_s = await self._rehearse(prefill, decode)
        finally:
            self._busy -= {prefill, decode}
            self._under_way.remove((prefill, decode))
        self._observer.warmed_up(outcome)
        if prefill in self._fleet.backends and decode in self._fleet.backends:
            now, lives = self._clock(), (_life(prefill), _life(decode))
            self._pairs.met(prefill.id, decode.id, Meeting(now, lives, fault, now + again_s))
        for other in self._fleet.backends:
            self._start((prefill, other))
            self._start((other, decode))

    async def _rehearse(self, prefill: Backend, decode: Backend) -> tuple[str, str | None, float]:
        """What came of it: the name it is counted under, what was wrong, and when to try again."""
        model = common_model(prefill, decode)
        assert model is not None
        try:
            await self._rehearsal.of(prefill, decode, model, f"{uuid4().hex}-warm-up")
        except EngineRefusal as refusal:
            return "refused", refusal.message, math.inf
        except EngineFault as fault:
            facts = {"prefill": prefill.id, "decode": decode.id, "leg": fault.leg, "why": fault.detail}
            log.warning("a pair could not be warmed up", extra={"facts": facts})
            if _is_the_pairs(fault):
                self._pairs.failed(prefill.id, decode.id, self._clock())
            return fault.reason, f"{fault.leg}: {fault.detail}", RETRY_S
        return "ok", None, math.inf


def _life(backend: Backend) -> Life:
    """Changes when the engine becomes another: it came back, or hands over under another engine id."""
    return backend.standing.lives, next(reversed(list(backend.kv_peers)), None)


def _is_the_pairs(fault: EngineFault) -> bool:
    """Whether decode could not load what prefill held; whether an engine works at all, probes and requests tell."""
    broken = isinstance(fault, EngineTimeout) or (isinstance(fault, EngineError) and not fault.overloaded)
    return fault.leg is Leg.DECODE and broken
