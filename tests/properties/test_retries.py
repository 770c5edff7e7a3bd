"""Requests that fail in every way: however bad it is, retries do not become the load."""

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from router.errors import (
    BadHandoff,
    ConnectFailed,
    ConnectionLost,
    EngineError,
    EngineFault,
    EngineTimeout,
    ErrorEvent,
    Leg,
    OversizedAnswer,
)
from router.fleet.fleet import Fleet
from router.retries import LOST, Tries
from router.routing.route import Route
from router.settings.engines import Role
from router.telemetry.events import Journey, Observers, RouteKind
from tests.properties.profile import machine
from tests.support.builders import MODEL, a_backend, a_retries

FAULTS: list[Callable[[], EngineFault]] = [
    lambda: ConnectFailed("x"),
    lambda: ConnectionLost("x"),
    lambda: EngineError("x"),
    lambda: EngineError("x", 503),
    lambda: EngineTimeout("x"),
    lambda: ErrorEvent("x"),
    lambda: BadHandoff("x"),
    lambda: OversizedAnswer("x"),
]
SHARE, RESERVE, WINDOW_S = 0.25, 2, 10.0


@dataclass
class Request:
    """What a request has been through."""

    tries: Tries
    journey: Journey
    began_at: float
    retried: int = 0


class Load(RuleBasedStateMachine):
    """Requests that live beside each other on three engines a pool."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.prefill = [a_backend(Role.PREFILL, port) for port in (1, 2, 3)]
        self.decode = [a_backend(Role.DECODE, port) for port in (4, 5, 6)]
        rules: dict[str, Any] = {"share": SHARE, "reserve": RESERVE, "window_s": WINDOW_S}
        self.retries = a_retries(Fleet([*self.prefill, *self.decode]), lambda: self.now, **rules)
        self.living: list[Request] = []
        self.begun: list[float] = []
        self.paid: list[tuple[Leg, float]] = []
        self.attempts = dict.fromkeys(Leg, 0)
        self.free = 0

    @rule(count=st.sampled_from([1, 1, 5]))
    def arrive(self, count: int) -> None:
        for _ in range(count):
            journey = Journey("r", "chat", self.now, lambda: self.now, Observers())
            self.living.append(Request(self.retries.begin(MODEL, self.now), journey, self.now))
            self.begun.append(self.now)

    @rule(pause_s=st.sampled_from([0.1, 1.0, 9.0, 11.0]))
    def time_passes(self, pause_s: float) -> None:
        self.now += pause_s

    @precondition(lambda self: self.living)
    @rule(which=st.integers(0, 20), fault=st.sampled_from(FAULTS), leg=st.sampled_from(Leg), times=st.integers(1, 4))
    def fails(self, which: int, fault: Callable[[], EngineFault], leg: Leg, times: int) -> None:
        request = self.living[which % len(self.living)]
        for _ in range(times):
            if request in self.living and not self._again(request, fault(), leg):
                self.living.remove(request)

    @precondition(lambda self: self.living)
    @rule(which=st.integers(0, 20))
    def is_answered(self, which: int) -> None:
        self.living.pop(which % len(self.living))
        self.attempts[Leg.DECODE] += 1

    def _again(self, request: Request, fault: EngineFault, leg: Leg) -> bool:
        tries = request.tries
        prefill = None if tries.local else next((b for b in self.prefill if b not in tries.avoid), None)
        decode = next(b for b in self.decode if b not in tries.avoid)
        kind = RouteKind.LOCAL if prefill is None else RouteKind.DISAGGREGATED
        leg = Leg.DECODE if prefill is None else leg
        self.attempts[leg] += 1
        request.journey.chosen(kind, "why", decode.id, prefill.id if prefill else None)
        was_free, was_local = tries.lost_connection, tries.local
        after = self.retries.after(fault.in_leg(leg), Route(kind, decode, prefill, "why"), tries, request.journey)
        if not _returns(after):
            assert fault.tries_used_up is (request.retried > 0)
            return False
        request.retried += 1
        assert request.journey.retries == request.retried <= 3 + 2
        if tries.lost_connection and not was_free:
            assert isinstance(fault, LOST)
            self.free += 1
        elif leg is Leg.DECODE or tries.local is was_local:
            self.paid.append((leg, self.now))
            self._is_within_share_and_reserve(leg)
        return True

    def _is_within_share_and_reserve(self, leg: Leg) -> None:
        """Those of the window that ends with a retry."""
        begun = sum(at > self.now - WINDOW_S for at in self.begun)
        made = sum(of is leg and at > self.now - WINDOW_S for of, at in self.paid)
        assert made <= begun * SHARE + RESERVE

    @invariant()
    def decode_is_tried_once_a_request_and_as_often_as_retries_allow(self) -> None:
        paid = sum(leg is Leg.DECODE for leg, _ in self.paid)
        assert self.attempts[Leg.DECODE] <= len(self.begun) + paid + self.free

    @invariant()
    def one_lost_connection_a_request_is_free(self) -> None:
        assert self.free <= len(self.begun)


def _returns(work: Coroutine[Any, Any, None]) -> bool:
    """Whether work that waits for nothing but its turn ends without an engine's fault."""
    try:
        while True:
            work.send(None)
    except StopIteration:
        return True
    except EngineFault:
        return False


TestLoad = machine(Load, examples=60, steps=50)
