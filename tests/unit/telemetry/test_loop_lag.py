import asyncio
import time

from prometheus_client import CollectorRegistry

from router.telemetry import loop_lag
from router.telemetry.loop_lag import LoopLag


async def test_a_stalled_loop_shows() -> None:
    registry = CollectorRegistry()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(LoopLag(registry).run())
        await asyncio.sleep(loop_lag.INTERVAL_S / 2)
        time.sleep(2 * loop_lag.INTERVAL_S)  # noqa: ASYNC251 - the stall that is to be seen
        await asyncio.sleep(loop_lag.INTERVAL_S / 2)
        task.cancel()
    seen = registry.get_sample_value("pd_router_loop_lag_seconds_sum")
    assert seen is not None
    assert loop_lag.INTERVAL_S <= seen < 1
    assert registry.get_sample_value("pd_router_loop_lag_seconds_count") == 1
