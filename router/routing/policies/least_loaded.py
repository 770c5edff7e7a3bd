"""The engine with the least to do, by this gateway's own exact accounting."""

import random
from collections.abc import Sequence

from router.call import Call
from router.fleet.backend import Backend
from router.routing.policies.burden import slowness_for_pick, weighed, works
from router.routing.policies.weights import Weights


class LeastLoaded:
    """Least work; ties at random, so that gateways side by side do not all pick the same one."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def pick(self, candidates: Sequence[Backend], call: Call) -> Backend:
        """The candidate with the least work."""
        loads = works(candidates, call, slowness_for_pick(candidates, self._rng))
        least = min(loads)
        return self._rng.choice([engine for engine, load in zip(candidates, loads, strict=True) if load == least])

    def took(self, call: Call, engine: Backend) -> None:
        """Its load tells."""

    def weigh(self, candidates: Sequence[Backend], call: Call) -> Weights[tuple[float, float]]:
        """Their work."""
        return weighed(candidates, call)
