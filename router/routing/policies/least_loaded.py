"""The engine with the least to do, by this gateway's own exact accounting."""

import random
from collections.abc import Sequence

from router.call import Call
from router.fleet.backend import Backend
from router.routing.policies.weights import Weights
from router.settings import Role


def work(backend: Backend) -> tuple[float, float]:
    """What an engine has to do, comparable inside its pool.

    A prefill engine's work is its tokens: it computes prompts one after the other. A decode engine's is its streams:
    each step serves all of them, and a prompt's length matters less. That of an engine in its slow start counts more.
    """
    load, share = backend.load, backend.standing.share
    first, second = (load.tokens, load.requests) if backend.role is Role.PREFILL else (load.requests, load.tokens)
    return first / share, second / share


def work_of(candidates: Sequence[Backend]) -> Weights[tuple[float, float]]:
    """The work of several, and what it is made of."""
    parts: dict[str, Sequence[object]] = {
        "requests": [backend.load.requests for backend in candidates],
        "tokens": [backend.load.tokens for backend in candidates],
        "share": [backend.standing.share for backend in candidates],
    }
    return Weights([work(backend) for backend in candidates], parts)


STREAM_TOKENS = 500
"""What a stream costs beside its KV, as KV: 15 us a step, and 31 ns for each token (fitted to an H200)."""

KV_WORTH = 0.2
"""What holding a token costs a decode engine, against computing one: 31 ns a step over some 350 steps of an answer are
11 us; a prefill engine needs 27 to 50 us for a token."""


def pending_tokens(engines: Sequence[Backend]) -> list[float]:
    """What each engine of a pool has to do, in tokens to be computed, comparable with those of a prompt."""
    loads = [engine.load for engine in engines]
    if engines[0].role is Role.PREFILL:
        return [load.tokens for load in loads]
    return [KV_WORTH * (load.tokens + STREAM_TOKENS * load.requests) for load in loads]


class LeastLoaded:
    """Least work; ties at random, so that gateways side by side do not all pick the same one."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def pick(self, candidates: Sequence[Backend], call: Call) -> Backend:
        """The candidate with the least work."""
        least = min(map(work, candidates))
        return self._rng.choice([backend for backend in candidates if work(backend) == least])

    def took(self, call: Call, engine: Backend) -> None:
        """Its load tells."""

    def weigh(self, candidates: Sequence[Backend], call: Call) -> Weights[tuple[float, float]]:
        """Their work."""
        return work_of(candidates)
