"""Engines that come and go faster than anybody can tell, ones that are others after a restart, a clock that jumps."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any
from unittest.mock import patch

import pytest

from router.fleet.standing import Standing, State
from router.sim.faults import Fault
from tests.support.client import Verdict
from tests.support.fault_rows import Trial, scaled, trial
from tests.support.fleet import FleetProcess, until

pytestmark = pytest.mark.timeout(120)

SCALE = 4
"""The times that say how fast an engine's state may change, and that of its flapping, are this much shorter."""

SCALED: dict[str, Any] = {
    "probes": {"interval_s": 2 / SCALE, "down_interval_s": 0.5 / SCALE},
    "ejection": {"first_s": 5 / SCALE, "longest_s": 60 / SCALE},
}
Flapping = Callable[[Trial, FleetProcess, float], Awaitable[None]]
CHANGES_PER_S = 1 / 5 * SCALE
HOUR_S = 3600


@asynccontextmanager
async def state_changes(here: Trial, fleet: FleetProcess) -> AsyncIterator[list[State]]:
    """The states that an engine enters while the block lasts."""
    (url,) = (member.url for member in fleet.members)
    backend = next(b for b in here.here.app.fleet.backends if b.url == url)
    entered: list[State] = []
    enter = Standing._enter

    def note(standing: Standing, state: State, why: str, now: float) -> bool:
        if standing is backend.standing:
            entered.append(state)
        return enter(standing, state, why, now)

    with patch.object(Standing, "_enter", note):
        yield entered


async def flap(here: Trial, fleet: FleetProcess, for_s: float) -> None:
    """Half a period there, half a period gone: connections are reset and refused."""
    front = here.front(fleet)
    until_s = time.monotonic() + for_s
    while time.monotonic() < until_s:
        front.shut()
        await asyncio.sleep(0.5 / SCALE)
        await front.open()
        await asyncio.sleep(0.5 / SCALE)


async def stumble(_here: Trial, fleet: FleetProcess, for_s: float) -> None:
    """Half a period well, half a period with a 500 for whatever is asked next."""
    until_s = time.monotonic() + for_s
    (member,) = fleet.members
    while time.monotonic() < until_s:
        failing = [Fault("status", status=500), Fault("status", status=500, path="/health")]
        await fleet.add(member.role, *failing)
        await asyncio.sleep(0.5 / SCALE)
        await fleet.client.delete(f"{member.url}/sim/faults")
        await asyncio.sleep(0.5 / SCALE)


@pytest.mark.parametrize(("role", "how"), [("prefill", flap), ("decode", stumble)], ids=["gone", "failing"])
async def test_f17_an_engine_flaps(role: str, how: Callable[[Trial, FleetProcess, float], Awaitable[None]]) -> None:
    for_s = scaled(30, 75)
    fault = f"1 of 3 {role} engines {'flaps' if how is flap else 'fails'} every other half second"
    async with trial("F17", fault, **SCALED | {role: 3}, fronts=True, leaks=None) as here:
        (fleet, *_) = here.prefill if role == "prefill" else here.decode
        async with here.loading(), state_changes(here, fleet) as entered:
            await how(here, fleet, for_s)
        assert (here.row.lost, here.row.wrong) == (0, 0)
        assert here.row.errors <= here.row.tried / 1000
        assert len(entered) <= for_s * CHANGES_PER_S


async def test_f18_a_prefill_engine_is_another_after_a_restart() -> None:
    async with trial("F18", "1 of 2 prefill engines restarts with a new id", leaks=None) as here:
        fleet = here.prefill[0]
        for _ in range(scaled(1, 10)):
            async with here.loading(pause_s=0.05):
                await asyncio.sleep(1)
                await fleet.add("prefill", Fault("restart", delay_s=1))
                await until(lambda: here.state(fleet) != "up", "down", within_s=5)
                await until(lambda: here.state(fleet) == "up", "up", within_s=10)
            errors, failed = here.row.errors, await here.totals(here.decode)
            before = await here.totals([fleet])
            async with here.loading(pause_s=0.05):
                await asyncio.sleep(2)
            after = await here.totals([fleet])
            assert here.row.errors == errors
            assert (await here.totals(here.decode))["failed_pulls"] == failed["failed_pulls"]
            assert after["pulled"] > before["pulled"]
            assert list(here.here.app.pairs.quarantined(time.monotonic())) == []
        assert (here.row.errors, here.row.lost, here.row.wrong) == (0, 0, 0)


async def test_f29_the_clock_on_the_wall_jumps() -> None:
    requests = scaled(600, 5000)
    async with trial("F29", "the wall clock steps an hour, on and back") as here:
        real = time.time
        with patch("time.time", side_effect=real) as clock:

            def jump(by_s: float) -> None:
                clock.side_effect = lambda: real() + by_s

            await here.load(requests, (0.3, partial(jump, HOUR_S)), (0.6, partial(jump, -HOUR_S)))
            assert clock.called
        assert here.verdicts == {Verdict.RIGHT: requests}
        assert await here.here.metric("pd_router_retries_total") == 0
        assert {here.state(fleet) for fleet in (*here.prefill, *here.decode)} == {"up"}
