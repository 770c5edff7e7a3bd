"""Until when was work on an engine certainly not finished? What it says it has in hand, beside what was sent to it.

An answer in hand says nothing of how long ago it was made: an engine that froze and thawed, or whose answers come late,
delivers old work as if it were new, and may answer `/health` at once all the while. What proves that a prompt was still
in the engine at a moment is that the engine then had all that it had been sent: as many requests waiting and running
as the gateway had there. One fewer, and any of them may have been finished long ago.

Requests of others make an engine look busier. With several gateways in front of one, an answer that is late can hide
behind them.
"""


class Unfinished:
    """Proofs of one engine, in monotonic seconds."""

    def __init__(self) -> None:
        self._last = float("-inf")

    def note(self, at: float, in_engine: int, sent: int) -> None:
        """What an engine answered to a question asked at `at`, and all requests that it may have had from then on."""
        if sent and in_engine >= sent:
            self._last = max(self._last, at)

    def until(self, sent_at: float) -> float:
        """The latest moment at which work sent at `sent_at` was certainly not finished: at worst, when it was sent."""
        return max(sent_at, self._last)

    def __repr__(self) -> str:
        return f"<Unfinished until {self._last:.1f}>"
