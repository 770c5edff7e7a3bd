"""Hand-overs that come too late, and engines that cannot hand over to each other though each of them works."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from router.sim.config import SimConfig
from router.sim.faults import Fault
from tests.support.client import Verdict
from tests.support.fault_rows import Trial, scaled, trial
from tests.support.fleet import until

pytestmark = pytest.mark.timeout(120)

LEASE_S = 3.0
LIMIT_S = LEASE_S / 3
PREFILL = SimConfig(role="prefill", lease_s=LEASE_S, kv_blocks=256)
"""With so few blocks, those that were freed are soon another prompt's."""
DECODE = SimConfig(role="decode", decode_step_s=0.005, lease_s=LEASE_S)
ENGINES = {"kv_lease_s": LEASE_S}
BLOCKS = 16
"""A prompt has no more."""
PROBES = {"interval_s": 0.2, "down_interval_s": 0.1, "timeout_s": 0.2}


async def test_f10_a_hand_over_is_long_on_its_way() -> None:
    requests = scaled(120, 1000)
    pools: dict[str, Any] = {"prefill": [PREFILL], "decode": [DECODE] * 2}
    async with trial(
        "F10", "hand-overs come past the age limit, delayed", **pools, fronts=True, engines=ENGINES
    ) as here:
        front = here.front(here.prefill[0])
        front.hold_answer_s = lambda: LIMIT_S + 0.5
        front.hold_probe_s = lambda: LIMIT_S + 0.5
        await here.load(requests)
        assert here.verdicts == {Verdict.RIGHT: requests}
        await assert_none_was_used(here)


async def test_f10_a_prefill_engine_freezes_with_its_answers_and_thaws() -> None:
    """All of it, `/health` too. Behind a `/health` that goes on to answer, the age of a hand-over is not seen."""
    pools: dict[str, Any] = {"prefill": [PREFILL], "decode": [DECODE] * 2}
    rounds = scaled(1, 5)
    leaks = 40 * rounds  # leases that end while the engine is frozen are over when it thaws
    settings: dict[str, Any] = {"engines": ENGINES, "probes": PROBES}
    async with trial("F10", "the same, frozen and thawed", **pools, fronts=True, leaks=leaks, **settings) as here:
        (fleet,) = here.prefill
        for _ in range(rounds):
            await fleet.add("prefill", Fault("late_answer", delay_s=0.5, count=40))
            async with asyncio.TaskGroup() as group:
                loading = group.create_task(here.load(40))
                await issued(here, 40)
                fleet.freeze()
                await asyncio.sleep(LEASE_S + 1)
                fleet.thaw()
                await loading
            await until(lambda: here.state(fleet) == "up", "up", within_s=5)
            await here.load(40)
        assert here.verdicts == {Verdict.RIGHT: here.row.tried}
        await assert_none_was_used(here)


@contextmanager
def a_port() -> Iterator[int]:
    """A port that is free when the block ends."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


async def issued(here: Trial, count: int) -> None:
    """Wait until prefill has as many hand-overs to give."""
    async with asyncio.timeout(10):
        while (await here.totals(here.prefill))["issued"] % (2 * count) < count:  # noqa: ASYNC110 - another process's
            await asyncio.sleep(0.02)


async def assert_none_was_used(here: Trial) -> None:
    """No decode engine pulled what was over, and none computed a text from it."""
    prefill, decode = await here.totals(here.prefill), await here.totals(here.decode)
    assert (prefill["pulled_late"], decode["wrong_texts"]) == (0, 0)


async def test_f19_one_pair_cannot_hand_over() -> None:
    decode = SimConfig(role="decode", decode_step_s=0.005, handshake_timeout_s=0.3)
    with a_port() as there, a_port() as nowhere:
        pass
    prefill = [SimConfig(role="prefill", side_channel_port=there), SimConfig(role="prefill")]
    pools: dict[str, Any] = {"prefill": prefill, "decode": [decode] * 2}
    leaks = 3 * BLOCKS  # a decode engine that cannot tell prefill anything cannot give back either
    async with trial("F19", "1 of 4 pairs cannot hand over", **pools, fronts=True, leaks=leaks) as here:
        told, heard = (b'"remote_port":%d' % port for port in (there, nowhere))
        here.front(here.decode[0]).change = lambda data: data.replace(told, heard)
        await here.load(100, clients=1)
        failed = await here.here.metric("pd_router_retries_total", reason="error_event")
        await here.load(scaled(600, 5000))
        assert here.verdicts == {Verdict.RIGHT: here.row.tried}
        assert failed <= 3
        assert await here.here.metric("pd_router_retries_total") == failed
        pulled = [(await here.totals([fleet]))["pulled"] for fleet in here.prefill]
        answered = [(await here.totals([fleet]))["completed"] for fleet in here.decode]
        assert min(pulled, answered) > [here.row.tried // 5] * 2
        assert {here.state(fleet) for fleet in (*here.prefill, *here.decode)} == {"up"}
