"""May an engine be used? A small state machine over probe results.

UNKNOWN --good--> UP --`down_after` bad in a row--> DOWN --`up_after` good in a row--> UP
UNKNOWN --bad--> DOWN
"""

from enum import StrEnum

from router.settings import Probes


class State(StrEnum):
    """UNKNOWN engines have not answered yet and are not used."""

    UNKNOWN = "unknown"
    UP = "up"
    DOWN = "down"


class Standing:
    """State of one engine, since when (monotonic seconds) and why."""

    def __init__(self, rules: Probes, now: float) -> None:
        self._rules = rules
        self._good = 0
        self._bad = 0
        self.state = State.UNKNOWN
        self.since = now
        self.why = "not probed yet"

    @property
    def usable(self) -> bool:
        """Whether requests may be sent to it."""
        return self.state is State.UP

    def good_probe(self, now: float) -> bool:
        """The engine answered well; tells whether its state changed."""
        self._good, self._bad = self._good + 1, 0
        if self.state is State.UNKNOWN or (self.state is State.DOWN and self._good >= self._rules.up_after):
            return self._enter(State.UP, "probes answered", now)
        return False

    def bad_probe(self, why: str, now: float) -> bool:
        """The engine answered badly or not; tells whether its state changed."""
        self._good, self._bad = 0, self._bad + 1
        if self.state is State.UNKNOWN or (self.state is State.UP and self._bad >= self._rules.down_after):
            return self._enter(State.DOWN, why, now)
        return False

    def _enter(self, state: State, why: str, now: float) -> bool:
        self.state, self.why, self.since = state, why, now
        return True

    def __repr__(self) -> str:
        return f"<Standing {self.state.value}: {self.why}>"
