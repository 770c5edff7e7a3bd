import asyncio
import time

import pytest
from prometheus_client import CollectorRegistry, Histogram

from router.telemetry import loop_lag
from router.telemetry.loop_lag import LoopLag
from tests.support.virtual_time import virtual_time


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


@pytest.mark.parametrize("busy", [0, 5])
@virtual_time
async def test_the_wait_behind_what_is_ready_counts_and_nobody_looks_after_the_end(
    busy: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def observe(_: Histogram, lag_s: float) -> None:
        seen.append(f"lag {lag_s:.1f}")

    seen: list[str] = []
    monkeypatch.setattr(Histogram, "observe", observe)
    loop, looking = asyncio.get_running_loop(), LoopLag(CollectorRegistry())
    task = loop.create_task(looking.run())
    await asyncio.sleep(0)
    looking._next.cancel()
    for _ in range(busy):
        loop.call_soon(seen.append, "work")
    looking._queue(loop, loop.time() - 1)
    await asyncio.sleep(0)
    assert seen == ["work"] * busy + ["lag 1.0"]
    task.cancel()
    await asyncio.wait([task])
    await asyncio.sleep(3 * loop_lag.INTERVAL_S)
    assert len(seen) == busy + 1
