"""How late is the event loop? Everything the gateway does waits at least this long for its turn."""

import asyncio

from prometheus_client import CollectorRegistry, Histogram

from router.telemetry.metrics import PREFIX

INTERVAL_S = 0.1

LAG_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
"""From a timer's own accuracy to a stall that clients see."""


class LoopLag:
    """Looks again and again how late a timer fires."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._lag_s = Histogram(
            f"{PREFIX}_loop_lag_seconds",
            "How late a timer of the event loop fired, looked at ten times a second.",
            registry=registry,
            buckets=LAG_BUCKETS_S,
        )

    async def run(self) -> None:
        """Look until cancelled."""
        self._loop = asyncio.get_running_loop()
        self._arm()
        try:
            await asyncio.Event().wait()
        finally:
            self._timer.cancel()

    def _arm(self) -> None:
        """A timer that arms itself: a task that sleeps costs three times as much."""
        self._due = self._loop.time() + INTERVAL_S
        self._timer = self._loop.call_at(self._due, self._look)

    def _look(self) -> None:
        self._lag_s.observe(max(0.0, self._loop.time() - self._due))
        self._arm()
