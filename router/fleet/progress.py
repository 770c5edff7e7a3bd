"""Does an engine still do anything? What it counts of its own work tells, also while it owes no stream a byte.

An engine that is computing a long prompt, or a whole answer that is not streamed, says nothing for as long as that
takes; one that hangs says nothing for ever, and may answer `/health` all the while. Its counters tell them apart.
"""

import math
from dataclasses import replace

from router.engines.gauges import Gauges


class Progress:
    """Signs of work of one engine, and when it was last asked for them.

    `last_at` and `read_at` (monotonic seconds) are None for an engine that shows no counters.
    """

    def __init__(self) -> None:
        self.gauges: Gauges | None = None
        self.read_at: float | None = None
        self.last_at: float | None = None

    def note(self, gauges: Gauges, at: float) -> None:
        """The counters as they were at a moment; other ones than last time are a sign of work.

        Requests that come and wait are none: they do so in an engine that hangs as well.
        """
        if self.gauges is None or replace(gauges, waiting=self.gauges.waiting) != self.gauges:
            self.last_at = at
        self.gauges, self.read_at = gauges, at

    def since(self, at: float) -> bool:
        """Whether there was a sign of work after a moment."""
        return self.last_at is not None and self.last_at > at

    def worked_at(self) -> float:
        """When the last sign of work was; of an engine that shows none, nobody can say that it stopped."""
        return math.inf if self.last_at is None else self.last_at

    def __repr__(self) -> str:
        return f"<Progress {self.last_at} {self.gauges}>"
