"""Each engine in its turn, whatever it has to do."""

from collections.abc import Sequence
from weakref import WeakKeyDictionary

from router.call import Call
from router.fleet.backend import Backend
from router.routing.policies.weights import Weights


class RoundRobin:
    """The engine whose turn is longest ago; holds its order while engines come and go."""

    def __init__(self) -> None:
        self._turn = 0
        self._taken: WeakKeyDictionary[Backend, int] = WeakKeyDictionary()

    def pick(self, candidates: Sequence[Backend], call: Call) -> Backend:
        """The candidate that was picked least recently."""
        return min(candidates, key=self._last_turn)

    def took(self, call: Call, engine: Backend) -> None:
        """It has had its turn."""
        self._turn += 1
        self._taken[engine] = self._turn

    def weigh(self, candidates: Sequence[Backend], call: Call) -> Weights[float]:
        """Their last turns; of those that had none, the first."""
        return Weights([self._last_turn(engine) for engine in candidates], {})

    def _last_turn(self, engine: Backend) -> int:
        return self._taken.get(engine, 0)
