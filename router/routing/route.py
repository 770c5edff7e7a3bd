"""Where a request goes, and why."""

from dataclasses import dataclass

from router.fleet.backend import Backend
from router.settings import Role
from router.telemetry.events import RouteKind


@dataclass(frozen=True, slots=True)
class Route:
    """The engine that answers, the one that prefills for it (or None), and the reason's name."""

    kind: RouteKind
    decode: Backend
    prefill: Backend | None
    reason: str


@dataclass(frozen=True, slots=True)
class Shortage:
    """No route now: `pool` has no usable engine, or (`saturated`) no room on those it has."""

    pool: Role
    saturated: bool
    reason: str
