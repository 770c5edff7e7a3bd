"""The engine with the least to do, by this gateway's own exact accounting."""

import random
from collections.abc import Sequence

from router.call import Call
from router.fleet.backend import Backend
from router.routing.policies.burden import works


class LeastLoaded:
    """Least work; ties at random, so that gateways side by side do not all pick the same one."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def pick(self, candidates: Sequence[Backend], call: Call) -> Backend:
        """The candidate with the least work."""
        loads = works(candidates)
        least = min(loads)
        return self._rng.choice([engine for engine, load in zip(candidates, loads, strict=True) if load == least])
