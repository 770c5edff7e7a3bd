"""When has a connection waited too long? One moment per connection, to a client or an engine, that moves as it likes.

Arming and cancelling a timer for each request costs more than the request's parsing. Here the timer stays armed when
its moment moves away, and looks again when it fires: few timers fire at all, however many requests pass.
"""

import asyncio
from collections.abc import Callable


class Deadline:
    """Calls `passed` once the moment that was set last has come. Times are those of the loop, in seconds."""

    __slots__ = ("_armed_for", "_due", "_handle", "_loop", "_passed")

    def __init__(self, loop: asyncio.AbstractEventLoop, passed: Callable[[], None]) -> None:
        self._loop = loop
        self._passed = passed
        self._due: float | None = None
        self._armed_for = 0.0
        self._handle: asyncio.TimerHandle | None = None

    def set_after(self, wait_s: float) -> None:
        """Move the moment to `wait_s` from now."""
        self.set_at(self._loop.time() + wait_s)

    def set_at(self, due: float) -> None:
        """Move the moment."""
        self._due = due
        if self._handle is None:
            self._arm(due)
        elif due < self._armed_for:
            self._handle.cancel()
            self._arm(due)

    def clear(self) -> None:
        """There is no such moment for now; an armed timer is left to find that out."""
        self._due = None

    def close(self) -> None:
        """Never call again, and let go of the timer."""
        self._due = None
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _arm(self, due: float) -> None:
        self._armed_for = due
        self._handle = self._loop.call_at(due, self._fired)

    def _fired(self) -> None:
        self._handle = None
        if self._due is None:
            return
        if self._loop.time() < self._due:
            self._arm(self._due)
        else:
            self._due = None
            self._passed()
