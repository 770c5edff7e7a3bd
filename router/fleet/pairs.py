"""Can these two engines hand over to each other? Pairs that cannot, though each of them works, are left alone a while.

A hand-over may fail between two healthy engines: a firewall, another fabric, another version. Neither is at fault, so
neither is taken out; the pair is, for `quarantine_s`, once it failed `failures` times within that time. Two that have
yet to meet can, but others are preferred.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from router.settings.fleet import PairRules

Life = tuple[int, str | None]
"""Which of its lives an engine is in, and the id under which it last handed over."""


@dataclass(frozen=True, slots=True)
class Meeting:
    """The last warm-up of a pair: when, in which lives of the two, what was wrong, and when it is due again."""

    at: float
    lives: tuple[Life, Life]
    fault: str | None
    again_at: float


class Pairs:
    """Failed hand-overs by prefill and decode engine. Times are monotonic seconds.

    `cold` are those that are about to be warmed up, `meetings` how that went for the others.
    """

    def __init__(self, rules: PairRules) -> None:
        self._rules = rules
        self._failures: dict[tuple[str, str], deque[float]] = {}
        self._until: dict[tuple[str, str], float] = {}
        self.cold: set[tuple[str, str]] = set()
        self.meetings: dict[tuple[str, str], Meeting] = {}

    def failed(self, prefill: str, decode: str, now: float) -> bool:
        """A hand-over between the two failed; tells whether the pair is now left alone."""
        failures = self._failures.setdefault((prefill, decode), deque(maxlen=self._rules.failures))
        failures.append(now)
        if len(failures) < self._rules.failures or now - failures[0] > self._rules.quarantine_s:
            return False
        self._until[prefill, decode] = now + self._rules.quarantine_s
        failures.clear()
        return True

    def worked(self, prefill: str, decode: str) -> None:
        """A hand-over between the two worked."""
        if self._failures:
            self._failures.pop((prefill, decode), None)

    @property
    def any_left_alone(self) -> bool:
        """Whether there are pairs at all that may not be usable: seldom, and then no pair need be looked up."""
        return bool(self._until)

    def usable(self, prefill: str, decode: str, now: float) -> bool:
        """Whether the two may be tried."""
        until = self._until.get((prefill, decode))
        if until is not None and now >= until:
            del self._until[prefill, decode]
            return True
        return until is None

    def quarantined(self, now: float) -> Iterator[dict[str, Any]]:
        """The pairs that are left alone, and for how long still."""
        for (prefill, decode), until in self._until.items():
            if until > now:
                yield {"prefill": prefill, "decode": decode, "for_s": round(until - now, 1)}

    def met(self, prefill: str, decode: str, meeting: Meeting) -> None:
        """The two have been warmed up, or could not be."""
        self.meetings[prefill, decode] = meeting
        self.cold.discard((prefill, decode))

    def warm_ups(self, now: float) -> dict[str, Any]:
        """How many pairs have met, how many are about to, and which could not hand over."""
        failed = [
            {"prefill": prefill, "decode": decode, "why": met.fault, "ago_s": round(now - met.at, 1)}
            for (prefill, decode), met in self.meetings.items()
            if met.fault
        ]
        return {"warm": len(self.meetings) - len(failed), "cold": len(self.cold), "failed": failed}

    def forget(self, engine: str) -> None:
        """An engine is a new one: what was known of its pairs is void."""
        self._failures = {pair: times for pair, times in self._failures.items() if engine not in pair}
        self._until = {pair: until for pair, until in self._until.items() if engine not in pair}
        self.cold = {pair for pair in self.cold if engine not in pair}
        self.meetings = {pair: met for pair, met in self.meetings.items() if engine not in pair}

    def __repr__(self) -> str:
        return f"<Pairs {len(self._until)} quarantined>"
