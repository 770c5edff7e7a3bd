"""How many requests may one engine have at once? A permit is the right to one of them."""

import math
from collections.abc import Mapping, Sequence

from router.admission.line import Line
from router.fleet.backend import Backend
from router.settings import Admission, Role


def answering_pool(backend: Backend) -> Role:
    """In which line those wait who could be served by an engine: what answers, alone or not, is one pool to them."""
    return Role.PREFILL if backend.role is Role.PREFILL else Role.DECODE


class Permit:
    """The right to one request on one engine; given back once, by whoever holds it."""

    __slots__ = ("_permits", "backend", "open")

    def __init__(self, permits: "Permits", backend: Backend) -> None:
        self.backend = backend
        self.open = True
        self._permits = permits

    def release(self) -> None:
        """Give the permit back; a second time does nothing."""
        if not self.open:
            return
        self.open = False
        self._permits.back(self.backend)

    def __repr__(self) -> str:
        return f"<Permit {self.backend.id} {'open' if self.open else 'released'}>"


class Permits:
    """Counts permits per engine against the limit of its pool; a limit of 0 is none.

    `line` hears of those that are given back.
    """

    def __init__(self, settings: Admission, line: Line | None = None) -> None:
        self._line = line
        self._limits: Mapping[Role, int] = {
            Role.PREFILL: settings.prefill_permits,
            Role.DECODE: settings.decode_permits,
            Role.AGGREGATED: settings.decode_permits,
        }
        self._taken: dict[Backend, int] = {}

    def has_room(self, backend: Backend) -> bool:
        """Whether one more request may go there."""
        limit = self._limits[backend.role]
        return limit == 0 or self._taken.get(backend, 0) < limit

    def take(self, backend: Backend) -> Permit:
        """A permit for an engine that has room."""
        assert self.has_room(backend), f"no permit left for {backend!r}"
        self._taken[backend] = self._taken.get(backend, 0) + 1
        return Permit(self, backend)

    def back(self, backend: Backend) -> None:
        """A permit has been given back."""
        self._taken[backend] -= 1
        if self._line is not None and self._limits[backend.role]:
            self._line.freed(backend.models, answering_pool(backend))

    def taken(self, backend: Backend) -> int:
        """Permits out for one engine."""
        return self._taken.get(backend, 0)

    @property
    def total(self) -> int:
        """Permits out for all engines, also those that have left the fleet."""
        return sum(self._taken.values())

    def of_pool(self, backends: Sequence[Backend]) -> tuple[float, int]:
        """Free and taken permits over some engines of one pool; infinitely many are free where there is no limit."""
        taken = sum(self.taken(backend) for backend in backends)
        limits = [self._limits[backend.role] for backend in backends]
        return (math.inf if 0 in limits else float(sum(limits) - taken)), taken

    def __repr__(self) -> str:
        return f"<Permits {sum(self._taken.values())} taken>"
