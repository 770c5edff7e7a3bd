"""What a request needs of its engines, had all at once or not at all, and given back however its request ends."""

from types import TracebackType
from typing import Self

from router.admission.permits import Permit, Permits
from router.errors import Outcome
from router.fleet.backend import Backend
from router.fleet.lease import Lease, outcome_of


class Grant:
    """Permit and lease on the engine that answers and, for a disaggregated request, on the one that prefills.

    A context manager that settles what is still open, by how its block ended. The prefill engine is let go as soon as
    its leg is over, long before the answer is. `cached_tokens` are there already on the engine that computes the
    prompt.
    """

    def __init__(
        self, permits: Permits, decode: Backend, prefill: Backend | None, prompt_tokens: int, cached_tokens: int = 0
    ) -> None:
        novel_tokens = prompt_tokens - cached_tokens
        self._permits = permits
        self._local = prefill is None
        local_tokens = novel_tokens if self._local else 0
        self._decode = (permits.take(decode, prompt_tokens), decode.lease(prompt_tokens, local_tokens=local_tokens))
        self._prefill: tuple[Permit, Lease] | None = None
        if prefill is not None:
            self._prefill = (permits.take(prefill, novel_tokens), prefill.lease(novel_tokens))

    def settle_prefill(self, outcome: Outcome) -> None:
        """The prefill leg is over."""
        if self._prefill is not None and self._prefill[1].outcome is None:
            _give_back(self._prefill, outcome)

    def answer_began(self) -> None:
        """The engine that answers has the prompt computed."""
        lease = self._decode[1]
        lease.prompt_computed()
        if self._local:
            self._permits.prompt_computed(lease.backend)

    def settle(self, outcome: Outcome) -> None:
        """The request is over."""
        self.settle_prefill(outcome)
        _give_back(self._decode, outcome)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.settle(outcome_of(error))

    def __repr__(self) -> str:
        return f"<Grant {self._prefill and self._prefill[1]} {self._decode[1]}>"


def _give_back(held: tuple[Permit, Lease], outcome: Outcome) -> None:
    permit, lease = held
    permit.release()
    lease.settle(outcome)
