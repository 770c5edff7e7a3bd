"""The better of two engines drawn at random: nearly as even as the best of all, without a herd.

Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", 1996: where several gateways share a fleet and
none sees the whole load, the best of all draws all of them to one engine; the better of two does not.
"""

import random
from collections.abc import Sequence

from router.call import Call
from router.fleet.backend import Backend
from router.routing.policies.burden import slowness_for_pick, weighed, works
from router.routing.policies.weights import Weights


class PowerOfTwo:
    """The less loaded of two candidates drawn without replacement."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def pick(self, candidates: Sequence[Backend], call: Call) -> Backend:
        """The better of two draws; the only candidate where there is one."""
        loads = works(candidates, call, slowness_for_pick(candidates, self._rng))
        drawn = self._rng.sample(range(len(candidates)), k=min(2, len(candidates)))
        return candidates[min(drawn, key=loads.__getitem__)]

    def took(self, call: Call, engine: Backend) -> None:
        """Its load tells."""

    def weigh(self, candidates: Sequence[Backend], call: Call) -> Weights[tuple[float, float]]:
        """Their work; which two are compared is drawn."""
        return weighed(candidates, call)
