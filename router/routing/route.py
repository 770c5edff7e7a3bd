"""Where a request goes, and why."""

from dataclasses import dataclass

from router.fleet.backend import Backend
from router.settings import Role
from router.telemetry.events import RouteKind


@dataclass(frozen=True, slots=True)
class Route:
    """The engine that answers, the one that prefills for it (or None), and the reason's name.

    `decode_cached_tokens` and `prefill_cached_tokens` of the prompt are thought to be on them already.
    """

    kind: RouteKind
    decode: Backend
    prefill: Backend | None
    reason: str
    decode_cached_tokens: int = 0
    prefill_cached_tokens: int = 0

    @property
    def cached_tokens(self) -> int:
        """What the engine that computes the prompt need not compute."""
        return self.decode_cached_tokens if self.prefill is None else self.prefill_cached_tokens


@dataclass(frozen=True, slots=True)
class Shortage:
    """No route now: `pool` has no usable engine, or (`saturated`) no room on those it has."""

    pool: Role
    saturated: bool
    reason: str
