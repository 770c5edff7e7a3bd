"""How late is the event loop? Everything the gateway does waits at least this long for its turn."""

import asyncio

from prometheus_client import CollectorRegistry, Histogram

from router.telemetry.metrics import PREFIX

INTERVAL_S = 0.1

LAG_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
"""From a timer's own accuracy to a stall that clients see."""


class LoopLag:
    """Looks again and again how late a timer fires."""

    _next: asyncio.Handle

    def __init__(self, registry: CollectorRegistry) -> None:
        self._lag_s = Histogram(
            f"{PREFIX}_loop_lag_seconds",
            "How late a timer of the event loop fired, looked at ten times a second.",
            registry=registry,
            buckets=LAG_BUCKETS_S,
        )

    async def run(self) -> None:
        """Look until cancelled."""
        self._arm(asyncio.get_running_loop())
        try:
            await asyncio.Event().wait()
        finally:
            self._next.cancel()

    def _arm(self, loop: asyncio.AbstractEventLoop) -> None:
        """A timer that arms itself: a task that sleeps costs three times as much."""
        due = loop.time() + INTERVAL_S
        self._next = loop.call_at(due, self._queue, loop, due)

    def _queue(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        """Wait behind what is ready, as everything does: loops run timers first."""
        self._next = loop.call_soon(self._look, loop, due)

    def _look(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        self._lag_s.observe(max(0.0, loop.time() - due))
        self._arm(loop)
