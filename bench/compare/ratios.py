"""How sure is a ratio of two routers? Paired by round, the median, and an interval for it without any distribution.

Figures of a shared machine move with its neighbours, and move for both routers of a round. The interval is that of
the sign test: between the k-th smallest and the k-th largest of n pairs lies the median with probability
1 - 2 P(Binomial(n, 1/2) < k).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb
from statistics import median

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Estimate:
    """A median with its interval; `confidence` is what few rounds allow, up to 95 % and a little more."""

    median: float
    low: float
    high: float
    confidence: float

    def text(self, digits: int) -> str:
        """`0.87 (0.84-0.91)`."""
        return f"{self.median:.{digits}f} ({self.low:.{digits}f} to {self.high:.{digits}f})"


def estimate(values: Sequence[float]) -> Estimate:
    """The median of at least one value, and the narrowest interval that has the confidence; else lowest to highest."""
    ordered = sorted(values)
    n = len(ordered)
    ranks = [k for k in range(1, (n + 1) // 2 + 1) if coverage(n, k) >= CONFIDENCE]
    k = max(ranks, default=1)
    return Estimate(median(ordered), ordered[k - 1], ordered[n - k], coverage(n, k))


def coverage(n: int, k: int) -> float:
    """Probability that the median lies between the k-th smallest and the k-th largest of n."""
    return max(0.0, 1 - sum(comb(n, i) for i in range(k)) / float(2 ** (n - 1)))


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> Estimate:
    """Ours over theirs, pair by pair."""
    return estimate([a / b for a, b in zip(ours, theirs, strict=True)])


def differences(ours: Sequence[float], theirs: Sequence[float]) -> Estimate:
    """Ours less theirs, pair by pair."""
    return estimate([a - b for a, b in zip(ours, theirs, strict=True)])
