"""A request's presence on one engine: counted from grant to settlement, whatever happens in between.

A lease holds the load it counted, not a name to look up, and settles once: a second settlement is refused by being
ignored, so that every path may settle, and the first outcome stands.
"""

from types import TracebackType
from typing import TYPE_CHECKING, Self

from router.errors import Outcome, RequestError
from router.fleet.standing import State

if TYPE_CHECKING:
    from router.fleet.backend import Backend


class Lease:
    """One request on one backend; a context manager that settles by how its block ended, unless settled before."""

    __slots__ = ("_local_tokens", "_tokens", "_trial", "backend", "outcome")

    def __init__(self, backend: "Backend", tokens: int, *, local_tokens: int = 0) -> None:
        self.backend = backend
        self.outcome: Outcome | None = None
        self._tokens = tokens
        self._local_tokens = local_tokens
        backend.load.local_tokens += self._local_tokens
        self._trial = backend.standing.state is State.TRIAL
        if self._trial:
            backend.standing.on_trial += 1
        backend.load.requests += 1
        backend.load.ever += 1
        backend.load.tokens += tokens

    def prompt_computed(self) -> None:
        """The answer has begun: what is left is a stream among others."""
        self.backend.load.local_tokens -= self._local_tokens
        self._local_tokens = 0

    def settle(self, outcome: Outcome) -> None:
        """The engine is done with the request."""
        if self.outcome is not None:
            return
        self.outcome = outcome
        self.prompt_computed()
        if self._trial:
            self.backend.standing.on_trial -= 1
        self.backend.load.requests -= 1
        self.backend.load.tokens -= self._tokens

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.settle(outcome_of(error))

    def __repr__(self) -> str:
        return f"<Lease {self.backend.id} {self._tokens} tokens {self.outcome or 'open'}>"


def outcome_of(error: BaseException | None) -> Outcome:
    """How a block ended; cancellation means that the client left."""
    if error is None:
        return Outcome.OK
    if isinstance(error, RequestError):
        return error.outcome
    return Outcome.CLIENT_GONE if not isinstance(error, Exception) else Outcome.INTERNAL_ERROR
