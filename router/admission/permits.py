"""How much may one engine have at once? A permit is the right to one request, or to a share of a long prompt.

A decode engine serves all its streams in each step, so every request there weighs one permit. A prefill engine computes
prompts one after the other, so a request weighs by its tokens; one that is longer than all permits together weighs all
of them, so that it gets in when the engine is free.
"""

import asyncio
import math
from collections.abc import Mapping, Sequence

from router.admission.line import Line
from router.fleet.backend import Backend
from router.settings.admission import Admission
from router.settings.engines import Role

FULL_S = 1.0
"""How long an engine that answers 503 is left alone: it looks idle otherwise, and draws what others have room for."""


def answering_pool(backend: Backend) -> Role:
    """In which line those wait who could be served by an engine: what answers, alone or not, is one pool to them."""
    return Role.PREFILL if backend.role is Role.PREFILL else Role.DECODE


def concerned_pools(backend: Backend) -> tuple[Role, ...]:
    """In which lines those wait to whom it matters that an engine comes or goes: what answers may also prefill."""
    return (Role.PREFILL,) if backend.role is Role.PREFILL else (Role.DECODE, Role.PREFILL)


class Permit:
    """The right to one request of some weight on one engine; given back once, by whoever holds it."""

    __slots__ = ("_permits", "backend", "open", "weight")

    def __init__(self, permits: "Permits", backend: Backend, weight: int) -> None:
        self.backend = backend
        self.weight = weight
        self.open = True
        self._permits = permits

    def release(self) -> None:
        """Give the permit back; a second time does nothing."""
        if not self.open:
            return
        self.open = False
        self._permits.back(self)

    def __repr__(self) -> str:
        return f"<Permit {self.backend.id} {'open' if self.open else 'released'}>"


class Permits:
    """Counts permits per engine against the limit of its pool; a limit of 0 is none.

    `line` hears of those that are given back. An engine that says itself that it is full has no room for a moment.
    """

    def __init__(self, settings: Admission, line: Line | None = None) -> None:
        self._line = line
        self._full: dict[Backend, asyncio.TimerHandle] = {}
        self._tokens_per_permit = settings.prefill_permit_tokens
        self._limits: Mapping[Role, int] = {
            Role.PREFILL: settings.prefill_permits,
            Role.DECODE: settings.decode_permits,
            Role.AGGREGATED: settings.decode_permits,
        }
        self._taken: dict[Role, dict[Backend, int]] = {role: {} for role in Role}
        self._requests: dict[Backend, int] = {}

    def has_room(self, backend: Backend, prompt_tokens: int) -> bool:
        """Whether one more request, with a prompt so long, may go there."""
        return bool(self.with_room((backend,), prompt_tokens))

    def with_room(self, pool: Sequence[Backend], prompt_tokens: int) -> Sequence[Backend]:
        """The engines of a pool that may get one more request, with a prompt so long: all asked about at once."""
        role = pool[0].role if pool else Role.DECODE
        limit, taken = self._limits[role], self._taken[role]
        if limit and taken:
            most = limit - self._weight(role, prompt_tokens)
            if max(taken.values()) > most:  # else there is room on all, as a rule
                pool = [backend for backend in pool if taken.get(backend, 0) <= most]
        return [backend for backend in pool if backend not in self._full] if self._full else pool

    def take(self, backend: Backend, prompt_tokens: int) -> Permit:
        """A permit for an engine that has room."""
        assert self.with_room((backend,), prompt_tokens), f"no permit left for {backend!r}"
        weight = self._weight(backend.role, prompt_tokens)
        taken = self._taken[backend.role]
        taken[backend] = taken.get(backend, 0) + weight
        self._requests[backend] = self._requests.get(backend, 0) + 1
        return Permit(self, backend, weight)

    def back(self, permit: Permit) -> None:
        """A permit has been given back."""
        backend = permit.backend
        taken = self._taken[backend.role]
        taken[backend] -= permit.weight
        self._requests[backend] -= 1
        if not self._requests[backend]:  # engines come and go: nothing of one that is gone is kept
            del taken[backend], self._requests[backend]
        if self._line is not None and self._limits[backend.role]:
            self._line.freed(backend.models, answering_pool(backend))

    def note_full(self, backend: Backend) -> None:
        """The engine said that it has no room; who waits is told when it is asked again."""
        if (before := self._full.pop(backend, None)) is not None:
            before.cancel()
        self._full[backend] = asyncio.get_running_loop().call_later(FULL_S, self._try_again, backend)

    def _try_again(self, backend: Backend) -> None:
        del self._full[backend]
        if self._line is not None:
            self._line.call_first(backend.models, answering_pool(backend))

    def prompt_computed(self, backend: Backend) -> None:
        """An engine that computed a prompt in prefill's stead has room for another: who waits for prefill may go."""
        if self._line is not None:
            self._line.call_first(backend.models, Role.PREFILL)

    def _weight(self, role: Role, prompt_tokens: int) -> int:
        if role is not Role.PREFILL or prompt_tokens <= self._tokens_per_permit:
            return 1
        limit, weight = self._limits[role], -(-prompt_tokens // self._tokens_per_permit)
        return min(weight, limit) if limit else weight

    def limit(self, backend: Backend) -> int:
        """Permits that there are for one engine; 0: there is no limit."""
        return self._limits[backend.role]

    def taken(self, backend: Backend) -> int:
        """Permits out for one engine."""
        return self._taken[backend.role].get(backend, 0)

    def requests(self, backend: Backend) -> int:
        """Requests that hold permits for one engine."""
        return self._requests.get(backend, 0)

    @property
    def all_requests(self) -> int:
        """Those of all engines, also of engines that have left the fleet."""
        return sum(self._requests.values())

    def of_pool(self, backends: Sequence[Backend]) -> tuple[float, int]:
        """Free and taken permits over some engines of one pool; infinitely many are free where there is no limit.

        What is free on engines that may not be used is left out, as nobody can have it: a pool of which a part is out
        is full when the others are. What is taken there still counts.
        """
        taken = sum(self.taken(backend) for backend in backends)
        if any(not self.limit(backend) for backend in backends):
            return math.inf, taken
        usable = [backend for backend in backends if backend.standing.usable]
        return float(sum(self.limit(backend) - self.taken(backend) for backend in usable)), taken

    def __repr__(self) -> str:
        return f"<Permits {sum(sum(taken.values()) for taken in self._taken.values())} taken>"
