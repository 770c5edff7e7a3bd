"""When was an engine certainly alive? An unbroken chain of proofs, each a moment at which it must have been running.

A frozen engine that thaws answers everything at once, old work included, so that an answer in hand says nothing of how
long ago it was made. A chain of answered probes without a gap does: while it holds, the engine cannot have been frozen
for longer than the gap.
"""


class Liveness:
    """Proofs of life of one engine, in monotonic seconds; proofs further apart than `gap_s` break the chain."""

    def __init__(self, gap_s: float) -> None:
        self._gap_s = gap_s
        self._chain_from = float("-inf")
        self._last = float("-inf")

    def prove(self, at: float) -> None:
        """The engine was running at some moment after `at`: the time at which an answered probe was sent."""
        if at - self._last > self._gap_s:
            self._chain_from = at
        self._last = max(self._last, at)

    def alive_at(self, sent_at: float) -> float:
        """The latest moment at which work sent at `sent_at` can certainly not have been lying finished for long."""
        return max(sent_at, self._last) if self._chain_from <= sent_at else sent_at
