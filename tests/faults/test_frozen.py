"""Engines that stand still while `/health` is green, as when the process behind a living HTTP server is stopped."""

import asyncio
import time
from statistics import median
from typing import Any

import pytest

from tests.support.client import Verdict
from tests.support.fault_rows import Trial, p99, scaled, trial
from tests.support.fleet import FleetProcess, until

pytestmark = pytest.mark.timeout(120)

TIMER_S = 1.0
BACK_WITHIN_S = 5
"""After a longer freeze, as long as that: the time that an engine is out doubles with each request that it fails."""
SETTINGS: dict[str, Any] = {
    "timeouts": {"prefill_timeout_s": TIMER_S, "first_event_timeout_s": TIMER_S, "stream_idle_s": TIMER_S},
    "scrapes": {"interval_s": TIMER_S / 5},
}


async def freeze_for_a_while(here: Trial, fleet: FleetProcess, frozen_s: float) -> None:
    """Its front goes on to answer probes."""
    front, client = here.front(fleet), here.here.client
    for path in ("/health", "/v1/models"):
        front.own_answers[path] = (await client.get(f"http://127.0.0.1:{front.engine_port}{path}")).content
    fleet.freeze()
    await asyncio.sleep(frozen_s)
    fleet.thaw()


async def back_within_s(here: Trial, fleet: FleetProcess) -> float:
    """How long it takes from the thaw until the engine is one among others again."""
    began = time.monotonic()
    await until(lambda: here.state(fleet) == "up", f"{here.state(fleet)} engine to be up", within_s=70)
    return time.monotonic() - began


async def test_f06_a_prefill_engine_is_frozen() -> None:
    frozen_s = scaled(4, 40)
    async with trial(
        "F06", "1 of 3 prefill engines frozen, /health green", prefill=3, fronts=True, leaks=None, **SETTINGS
    ) as here:
        async with here.loading():
            await asyncio.sleep(1)
            await freeze_for_a_while(here, here.prefill[0], frozen_s)
            back_s = await back_within_s(here, here.prefill[0])
        assert here.verdicts == {Verdict.RIGHT: here.row.tried}
        assert p99(here.ttft_s()) <= TIMER_S + 1 + median(here.ttft_s())  # which is nothing on a machine at rest
        assert back_s <= max(BACK_WITHIN_S, frozen_s)


async def test_f07_a_decode_engine_is_frozen() -> None:
    frozen_s = scaled(4, 40)
    async with trial(
        "F07", "1 of 3 decode engines frozen, /health green", decode=3, fronts=True, leaks=None, **SETTINGS
    ) as here:
        async with here.loading():
            await asyncio.sleep(1)
            await freeze_for_a_while(here, here.decode[0], frozen_s)
            back_s = await back_within_s(here, here.decode[0])
        assert (here.row.lost, here.row.wrong) == (0, 0)
        assert p99(here.ttft_s()) <= TIMER_S + 1 + median(here.ttft_s())  # which is nothing on a machine at rest
        assert back_s <= max(BACK_WITHIN_S, frozen_s)
