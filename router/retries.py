"""Once more, elsewhere? A failed try is judged, and the next one set up, until an answer begins or tries are spent.

    what failed, before anything of an answer went out        | what is done                        | whose fault
    ----------------------------------------------------------+-------------------------------------+------------------
    prefill: refused, lost, 5xx, timeout, no good hand-over   | another prefill engine; at the end  | the engine's
                                                              | as `on_prefill_unavailable` says    |
    decode: refused, lost, 5xx, timeout, no good answer       | again from the start, elsewhere     | the engine's
    any: 503, an engine that has no room                      | the same; it is full for a second   | nobody's
    decode: a first event that tells of a failure, after a    | again from the start, another pair  | the pair's
    hand-over                                                 |                                     |
    any: the gateway may open no more files               | as if refused, after a pause        | nobody's
    any: an answer too large, or the request's time over      | is the end                          | nobody's
    an engine's 4xx                                           | is the answer                       | nobody's

A hand-over is never used for a second try. Tries are bounded per request, by its total time, and by a budget over all
requests; one lost connection a request is free, as a killed engine takes many at once.
"""

import asyncio
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from router.errors import (
    ConnectFailed,
    ConnectionLost,
    EngineError,
    EngineFault,
    EngineTimeout,
    ErrorEvent,
    Leg,
    OutOfFiles,
    OutOfTime,
    OversizedAnswer,
)
from router.exchange.budget import RetryBudget
from router.fleet.backend import Backend
from router.fleet.fleet import Fleet
from router.fleet.pairs import Pairs
from router.routing.route import Route
from router.settings.exchange import Retries as Rules
from router.telemetry.events import Clock, Journey, RouteKind

LOST = (ConnectFailed, ConnectionLost)

Notice = Callable[[Backend], None]


@dataclass(slots=True)
class Tries:
    """What a request has behind it: the engines that failed it, and how often each leg did.

    `local`: no hand-over any more; decode computing the prompt itself is always right.
    """

    model: str
    avoid: frozenset[Backend] = frozenset()
    failed: int = 0
    failed_prefills: int = 0
    lost_connection: bool = False
    local: bool = False


@dataclass(frozen=True, slots=True)
class Retries:
    """Judges how tries ended, and says whether there is another.

    `notice` hears of each engine whose state changed, `full` of each that has no room.
    """

    fleet: Fleet
    pairs: Pairs
    rules: Rules
    fails_without_prefill: bool
    total_s: float
    clock: Clock
    rng: random.Random
    notice: Notice
    full: Notice
    budgets: Mapping[Leg, RetryBudget]

    def begin(self, model: str, now: float) -> Tries:
        """A request for `model` is about to be tried."""
        for budget in self.budgets.values():
            budget.request(now)
        return Tries(model)

    def worked(self, route: Route, journey: Journey) -> None:
        """An answer has begun: the engines did their part."""
        now = self.clock()
        if route.prefill is not None and journey.route is RouteKind.DISAGGREGATED:
            self._tell(route.prefill, route.prefill.standing.worked(now))
            self.pairs.worked(route.prefill.id, route.decode.id)
        self._tell(route.decode, route.decode.standing.worked(now))

    async def after(self, fault: EngineFault, route: Route, tries: Tries, journey: Journey) -> None:
        """Count a failed try, and wait until the next is due; raises the fault when there is none."""
        self._judge(fault, route, journey)
        if journey.committed_at is not None or not self._again(fault, route, tries, journey):
            raise fault
        if not isinstance(fault, LOST) or isinstance(fault, OutOfFiles):
            await asyncio.sleep(self.rng.uniform(self.rules.min_pause_s, self.rules.max_pause_s))

    def _judge(self, fault: EngineFault, route: Route, journey: Journey) -> None:
        """Count a fault against whom it tells of."""
        now = self.clock()
        engine = route.prefill if fault.leg is Leg.PREFILL else route.decode
        assert engine is not None
        if route.prefill is not None and self._is_the_pairs(fault, journey):
            self.pairs.failed(route.prefill.id, route.decode.id, now)
        elif isinstance(fault, OutOfFiles):
            pass
        elif isinstance(fault, EngineError) and fault.overloaded:
            self.full(engine)
        elif isinstance(fault, ConnectFailed):
            self._tell(engine, engine.standing.refused(now))
        elif not isinstance(fault, OversizedAnswer | OutOfTime):  # of which the request may be the reason
            spare = self.fleet.can_spare(engine)
            silent = isinstance(fault, EngineTimeout) and not engine.progress.since(fault.waited_since)
            self._tell(engine, engine.standing.failed(fault.reason, now, can_be_spared=spare, silent=silent))

    def _is_the_pairs(self, fault: EngineFault, journey: Journey) -> bool:
        """A hand-over that decode could not load; once an answer has begun, it could."""
        handed_over = journey.route is RouteKind.DISAGGREGATED and journey.committed_at is None
        return handed_over and fault.leg is Leg.DECODE and isinstance(fault, ErrorEvent)

    def _tell(self, engine: Backend, changed: bool) -> None:
        if changed:
            self.notice(engine)

    def _again(self, fault: EngineFault, route: Route, tries: Tries, journey: Journey) -> bool:
        """Whether there is another try, which `tries` then is set for."""
        after = self._after_prefill if fault.leg is Leg.PREFILL else self._after_decode
        again = not self._is_the_end(fault, journey) and after(fault, route, tries, journey)
        if again:
            journey.retried(fault.leg or Leg.DECODE, fault.reason)
        else:
            fault.tries_used_up = journey.retries > 0
        return again

    def _is_the_end(self, fault: EngineFault, journey: Journey) -> bool:
        """Whether no other engine could do better: the answer is too large, or the request's time over."""
        over = self.clock() >= journey.received_at + self.total_s
        return over or isinstance(fault, OversizedAnswer | OutOfTime)

    def _allowed(self, fault: EngineFault, leg: Leg, failed: int, tries: Tries) -> bool:
        """Whether limits and budget leave one more try."""
        limit = self.rules.prefill_tries if leg is Leg.PREFILL else self.rules.decode_tries
        if failed >= limit:
            return False
        if isinstance(fault, LOST) and not tries.lost_connection:
            tries.lost_connection = True
            return True
        return self.budgets[leg].take(self.clock())

    def _after_prefill(self, fault: EngineFault, route: Route, tries: Tries, journey: Journey) -> bool:
        """Another prefill engine; where there is none left, decode computes the prompt, or the request fails."""
        assert route.prefill is not None
        tries.failed_prefills += 1
        tries.avoid |= {route.prefill}
        others = self.fleet.snapshot(tries.model, tries.avoid).prefill
        if others and self._allowed(fault, Leg.PREFILL, tries.failed_prefills, tries):
            return True
        if self.fails_without_prefill:
            return False
        tries.local = True
        journey.fell_back(fault.reason, fault.detail)
        return True

    def _after_decode(self, fault: EngineFault, route: Route, tries: Tries, journey: Journey) -> bool:
        """Another decode engine; where there is none, the same one, without a hand-over."""
        tries.failed += 1
        if not self._allowed(fault, Leg.DECODE, tries.failed, tries):
            return False
        others = self.fleet.snapshot(tries.model, tries.avoid | {route.decode})
        if others.decode or others.aggregated:
            tries.avoid |= {route.decode}
        else:
            tries.local = True
        return True
