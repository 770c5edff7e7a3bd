"""What the edge is built with, for tests: limits, a census, and a record of what was turned away."""

from dataclasses import dataclass, field
from typing import Any

from router.edge.body_memory import BodyMemory
from router.edge.census import Census
from router.edge.guarded import Guards
from router.edge.request_ids import RequestIds
from router.settings.edge import Edge


@dataclass
class TurnedAway:
    """An `EdgeObserver` that remembers."""

    reasons: list[str] = field(default_factory=list)
    codes: list[str] = field(default_factory=list)

    def shed(self, reason: str) -> None:
        """Part of `EdgeObserver`."""
        self.reasons.append(reason)

    def refused(self, code: str) -> None:
        """Part of `EdgeObserver`."""
        self.codes.append(code)


def body_memory(max_bytes: int = 1 << 20) -> BodyMemory:
    """Memory for bodies that nobody watches."""
    return BodyMemory(max_bytes, TurnedAway())


def guards(
    observer: TurnedAway | None = None,
    *,
    connections: int = 10,
    per_address: int | None = None,
    draining: bool = False,
    **limits: Any,
) -> Guards:
    """Guards with the default limits; `limits` override those."""
    observer = observer or TurnedAway()
    census = Census(connections, per_address, observer)
    return Guards(Edge(**limits), 60.0, census, observer, RequestIds(), lambda: draining)
