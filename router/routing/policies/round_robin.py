"""Each engine in its turn, whatever it has to do."""

from collections.abc import Sequence
from weakref import WeakKeyDictionary

from router.call import Call
from router.fleet.backend import Backend


class RoundRobin:
    """The engine whose turn is longest ago; holds its order while engines come and go."""

    def __init__(self) -> None:
        self._turn = 0
        self._taken: WeakKeyDictionary[Backend, int] = WeakKeyDictionary()

    def pick(self, candidates: Sequence[Backend], call: Call) -> Backend:
        """The candidate that was picked least recently."""
        chosen = min(candidates, key=lambda backend: self._taken.get(backend, 0))
        self._turn += 1
        self._taken[chosen] = self._turn
        return chosen
