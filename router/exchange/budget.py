"""How often may requests be tried again? In proportion to the requests there are: retries must not become the load.

A fleet that fails every request would otherwise get each of them three times. One retry after a lost connection is
free for each request: an engine that is killed takes many requests at once, and they must all go elsewhere.
"""

from collections import deque

from router.settings.exchange import Retries


class RetryBudget:
    """Requests and retries of the last `window_s`, for one pool. Times are monotonic seconds."""

    def __init__(self, rules: Retries) -> None:
        self._rules = rules
        self._requests: deque[float] = deque()
        self._retries: deque[float] = deque()

    def request(self, now: float) -> None:
        """One more request has come."""
        self._requests.append(now)
        self._forget(self._requests, now)

    def take(self, now: float) -> bool:
        """Whether one more retry is within the budget; it is taken if so."""
        self._forget(self._requests, now)
        self._forget(self._retries, now)
        allowed = len(self._requests) * self._rules.share + self._rules.reserve
        if len(self._retries) + 1 > allowed:
            return False
        self._retries.append(now)
        return True

    def _forget(self, times: deque[float], now: float) -> None:
        oldest = now - self._rules.window_s
        while times and times[0] <= oldest:
            times.popleft()

    def __repr__(self) -> str:
        return f"<RetryBudget {len(self._retries)} retries of {len(self._requests)} requests>"
