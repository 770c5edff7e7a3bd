"""Engines that have no room, and clients that ask again: tries must not become the load."""

import asyncio
import random
import time
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import count

import pytest

from router.sim.faults import Fault
from tests.support.client import Verdict
from tests.support.fault_rows import CLIENTS, Trial, scaled, trial

pytestmark = pytest.mark.timeout(120)

WINDOW_S = 10.0
REQUEST_S = 1.0
"""A request may be tried for so long after it was made."""
BOUND = 1.25
SDK_TRIES = 3


async def ask_as_an_sdk(here: Trial, number: int, rng: random.Random) -> None:
    """Again after a 5xx, with growing pauses, unless the answer says not to."""
    for tried in range(SDK_TRIES):
        reply = await here.ask(here.some_body(rng, number))
        if reply is None or reply.status < 500 or reply.headers.get("x-should-retry") == "false":
            return
        await asyncio.sleep(0.5 * 2**tried * rng.uniform(0.75, 1))


async def test_f24_half_of_decode_has_no_room_and_clients_ask_again() -> None:
    for_s = scaled(15, 60)
    async with trial("F24", "half of decode says 503, SDKs ask again", decode=4, fronts=True, leaks=None) as here:
        for fleet in here.decode[:2]:
            await fleet.add("decode", Fault("status", status=503, path="/v1/chat/completions"))
        await keep_asking_for(here, for_s)
        assert (here.row.lost, here.row.wrong) == (0, 0)
        assert here.verdicts[Verdict.RIGHT] > 0
        asked_at = sorted(reply.asked_at for reply in here.replies)
        for pool in (here.prefill, here.decode):
            tried_at = sorted(at for fleet in pool for at in here.front(fleet).asked_at)
            assert most_tries_per_request(asked_at, tried_at) <= BOUND


async def keep_asking_for(here: Trial, for_s: float) -> None:
    """Clients of an SDK, for a while."""
    numbers, until_s = count(), time.monotonic() + for_s

    async def keep_asking(seed: int) -> None:
        rng = random.Random(seed)
        while time.monotonic() < until_s:
            await ask_as_an_sdk(here, next(numbers), rng)
            await asyncio.sleep(rng.uniform(0, 0.4))

    async with asyncio.TaskGroup() as group:
        for seed in range(CLIENTS):
            group.create_task(keep_asking(seed))


def most_tries_per_request(asked_at: Sequence[float], tried_at: Sequence[float]) -> float:
    """In the 10 s in which there were most, of the requests that were under way in them."""
    spans = [(at, at + WINDOW_S) for at in asked_at if at + WINDOW_S <= asked_at[-1]]
    return max(within(tried_at, start, end) / within(asked_at, start - REQUEST_S, end) for start, end in spans)


def within(times: Sequence[float], start: float, end: float) -> int:
    """How many of them are in between."""
    return bisect_right(times, end) - bisect_left(times, start)
