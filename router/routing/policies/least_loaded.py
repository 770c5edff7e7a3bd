"""The engine with the least to do, by this gateway's own exact accounting."""

import random
from collections.abc import Sequence

from router.call import Call
from router.fleet.backend import Backend
from router.settings import Role


def work(backend: Backend) -> tuple[float, float]:
    """What an engine has to do, comparable inside its pool.

    A prefill engine's work is its tokens: it computes prompts one after the other. A decode engine's is its streams:
    each step serves all of them, and a prompt's length matters less. That of an engine in its slow start counts more.
    """
    load, share = backend.load, backend.standing.share
    first, second = (load.tokens, load.requests) if backend.role is Role.PREFILL else (load.requests, load.tokens)
    return first / share, second / share


class LeastLoaded:
    """Least work; ties at random, so that gateways side by side do not all pick the same one."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def pick(self, candidates: Sequence[Backend], call: Call) -> Backend:
        """The candidate with the least work."""
        least = min(map(work, candidates))
        return self._rng.choice([backend for backend in candidates if work(backend) == least])
