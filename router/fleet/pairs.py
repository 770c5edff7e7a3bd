"""Can these two engines hand over to each other? Pairs that cannot, though each of them works, are left alone a while.

A hand-over may fail between two healthy engines: a firewall, another fabric, another version. Neither is at fault, so
neither is taken out; the pair is, for `quarantine_s`, once it failed `failures` times within that time.
"""

from collections import deque
from collections.abc import Iterator
from typing import Any

from router.settings import PairRules


class Pairs:
    """Failed hand-overs by prefill and decode engine. Times are monotonic seconds."""

    def __init__(self, rules: PairRules) -> None:
        self._rules = rules
        self._failures: dict[tuple[str, str], deque[float]] = {}
        self._until: dict[tuple[str, str], float] = {}

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

    def usable(self, prefill: str, decode: str, now: float) -> bool:
        """Whether the two may be tried."""
        if not self._until:
            return True
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

    def forget(self, engine: str) -> None:
        """An engine is a new one: what was known of its pairs is void."""
        self._failures = {pair: times for pair, times in self._failures.items() if engine not in pair}
        self._until = {pair: until for pair, until in self._until.items() if engine not in pair}

    def __repr__(self) -> str:
        return f"<Pairs {len(self._until)} quarantined>"
