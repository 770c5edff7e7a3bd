"""More comes than there is room for: does what is served stay as much, and are the others told at once?"""

import asyncio

import pytest

from tests.support.client import Verdict
from tests.support.fault_rows import FULL, scaled
from tests.support.gateway_process import gateway_process, lines_of
from tests.support.process_rows import Load, engines, row, share

pytestmark = pytest.mark.timeout(240)

PERMITS, ANSWER_S = 8, 0.2
CAPACITY_PER_S = PERMITS / ANSWER_S
GOODPUT, P99_S = (0.95, 0.02) if FULL else (0.7, 0.1)
"""What is aimed at takes a core for the gateway alone; the smaller row may share two with much other work."""


async def test_f23_ten_times_more_than_there_is_room_for() -> None:
    admission = {"decode_permits": PERMITS, "prefill_permits": 0, "queue_timeout_s": 1}
    async with (
        row("F23", "ten times more requests than there is room for") as load,
        engines(decode_step_s=ANSWER_S / 12 * 10) as fleet,
        gateway_process(fleet.members, admission=admission) as gateway,
    ):
        load.url = gateway.url
        over, for_s = asyncio.Event(), scaled(8, 60)
        asking = asyncio.gather(load.clients(2 * PERMITS, over))
        peak_per_s = await goodput_per_s(load, for_s=8)
        over.set()
        await asking
        before_bytes = gateway.memory_bytes()
        asking = asyncio.gather(load.arrivals(10 * CAPACITY_PER_S, for_s + 1))
        good_per_s = await goodput_per_s(load, for_s)
        await asking
        told_s, grown_bytes = load.took_s[Verdict.REFUSED], gateway.memory_bytes("VmHWM") - before_bytes
        rejected_s = [line["total_s"] for line in lines_of(gateway.log, "request") if line["status"] == 503]
        print(f"{peak_per_s:.1f} answers/s, {good_per_s:.1f} under ten times the load; {grown_bytes / 1e6:+.1f} MB")
        print(f"{len(told_s)} rejects, p50 and p99 in ms, in the gateway and at the client: ", end="")
        print([round(share(times_s, of) * 1e3, 1) for times_s in (rejected_s, told_s) for of in (0.5, 0.99)])
        load.row.leaked = len(await gateway.quiet())
        assert (load.lost, load.row.leaked) == ([], 0)
        assert good_per_s >= GOODPUT * peak_per_s
        assert share(rejected_s, 0.99) <= P99_S
        assert grown_bytes <= 100e6


async def goodput_per_s(load: Load, for_s: float) -> float:
    """Complete answers in a second, after one to begin in."""
    await asyncio.sleep(1)
    before = load.row.complete
    await asyncio.sleep(for_s)
    return (load.row.complete - before) / for_s
