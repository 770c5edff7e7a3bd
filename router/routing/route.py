"""Where a request goes, and why."""

from dataclasses import dataclass, field

from router.fleet.backend import Backend
from router.routing.disaggregation import Reason
from router.settings.engines import Role
from router.telemetry.events import RouteKind


@dataclass(frozen=True, slots=True)
class Route:
    """The engine that answers, the one that prefills for it (or None), and the reason's name.

    `decode_cached_tokens` and `prefill_cached_tokens` of the prompt are thought to be on them already. `passed_over`
    is the engine to which a hand-over came into question by its time, and is not made; whoever answers then.
    """

    kind: RouteKind
    decode: Backend
    prefill: Backend | None
    reason: str
    decode_cached_tokens: int = 0
    prefill_cached_tokens: int = 0
    passed_over: Backend | None = field(default=None, compare=False)

    @property
    def cached_tokens(self) -> int:
        """What the engine that computes the prompt need not compute."""
        return self.decode_cached_tokens if self.prefill is None else self.prefill_cached_tokens

    @property
    def draws_on(self) -> tuple[Role, ...]:
        """The pools whose room it takes: that of prefill too where only its being full sends the prompt to decode."""
        novel = self.prefill is not None or self.reason == Reason.PREFILL_SATURATED
        return (Role.DECODE, Role.PREFILL) if novel else (Role.DECODE,)


@dataclass(frozen=True, slots=True)
class Shortage:
    """No route now: `pool` has no usable engine, or (`saturated`) no room on those it has."""

    pool: Role
    saturated: bool
    reason: str
