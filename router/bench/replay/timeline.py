"""Virtual time: what happens when, in order, as fast as it can be computed."""

import heapq
from collections.abc import Callable
from itertools import count

Event = Callable[[], None]


class Timeline:
    """Events by their times; of equal ones the first that was planned comes first."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._events: list[tuple[float, int, Event]] = []
        self._numbers = count()

    def at(self, at_s: float, event: Event) -> None:
        """Plan an event, which cannot be in the past."""
        assert at_s >= self.now_s, f"{at_s} is over at {self.now_s}"
        heapq.heappush(self._events, (at_s, next(self._numbers), event))

    def run(self) -> None:
        """Let everything happen."""
        while self._events:
            self.now_s, _, event = heapq.heappop(self._events)
            event()
