"""Two hundred streams at once, for as long as one likes: every answer right, nothing lost, nothing left, nothing grown.

`ENDURANCE_S` says how many seconds; 60 and more show growth, the default shows that it works.
"""

import asyncio
import gc
import os
import random
from collections import Counter
from pathlib import Path

import pytest

from router.call import Api
from router.sim.config import SimConfig
from tests.support.client import Verdict, ask, judge
from tests.support.fleet import FleetProcess, Site, fleet_process, gateway_over

SECONDS = float(os.environ.get("ENDURANCE_S", "8"))
LONG_S = 30
"""From here on memory must have stopped growing; before, it is still being warmed up."""

STREAMS = 200
GROWTH_BYTES = 6 << 20
"""What a process that had its warm-up may grow: its allocator keeps some of each peak, and the test's own client lives
in it too. A leak of 1 KB a request would be 10 MB in a minute."""

NO_LIMIT = {"prefill_permits": 0, "decode_permits": 0}
"""Every request is handed over: none stays on decode for want of a prefill permit."""

pytestmark = pytest.mark.timeout(SECONDS * 2 + 60)


def resident_bytes() -> int:
    """Memory of this process: gateway and clients; the engines have their own."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def keep_asking(url: str, number: int, until_s: float, verdicts: Counter[Verdict]) -> None:
    """One client after the other, each with a prompt of its own."""
    rng = random.Random(number)
    while asyncio.get_running_loop().time() < until_s:
        words = " ".join(rng.choices(("river", "stone", "market", "garden"), k=rng.randint(5, 60)))
        messages = [{"role": "user", "content": f"{number} {rng.random()} {words}"}]
        body = {"model": "sim-8b", "messages": messages, "stream": True, "max_tokens": rng.randint(4, 32)}
        verdicts[judge(await ask(url, body, Api.CHAT), body)] += 1


async def run(fleet: FleetProcess, here: Site) -> tuple[Counter[Verdict], int]:
    """All streams, for the time; what came of them, and by how much memory grew after a third of it."""
    verdicts: Counter[Verdict] = Counter()
    until_s = asyncio.get_running_loop().time() + SECONDS
    async with asyncio.TaskGroup() as group:
        for number in range(STREAMS):
            group.create_task(keep_asking(here.url, number, until_s, verdicts))
        await asyncio.sleep(SECONDS / 3)
        gc.collect()
        warm_bytes = resident_bytes()
    gc.collect()
    return verdicts, resident_bytes() - warm_bytes


async def test_two_hundred_streams_are_all_answered_right_and_leave_nothing() -> None:
    configs = [SimConfig(role=role, decode_step_s=0.02) for role in ("prefill", "prefill", "decode", "decode")]
    async with fleet_process(*configs) as fleet, gateway_over(fleet.members, admission=NO_LIMIT) as here:
        verdicts, grown_bytes = await run(fleet, here)
        totals = [ledger["totals"] for ledger in await fleet.ledgers()]
        print(f"{verdicts.total()} answers in {SECONDS:g} s, {grown_bytes / 1e6:+.1f} MB; {totals[0]}")
        assert verdicts == {Verdict.RIGHT: verdicts.total()}
        assert verdicts.total() >= STREAMS
        assert sum(total["issued"] for total in totals[:2]) == verdicts.total()
        assert sum(total["pulled"] for total in totals) == verdicts.total()
        assert sum(total["wrong_texts"] + total["expired"] + total["pulled_again"] for total in totals) == 0
        assert not any(here.held().values())
        assert SECONDS < LONG_S or grown_bytes < GROWTH_BYTES
