"""Engines die, break and come back under load: who of the clients notices? Ids as in docs/failures.md."""

import time

import pytest

from router.sim.faults import Fault
from tests.support.client import Verdict
from tests.support.fault_rows import trial
from tests.support.fleet import until

pytestmark = pytest.mark.timeout(120)

REQUESTS = 600
AWAY_S = 4


async def test_f01_a_prefill_engine_is_killed() -> None:
    async with trial("F01", "1 of 4 prefill engines killed under load", prefill=4) as here:
        killed_at = [0.0]

        async def kill() -> None:
            here.prefill[0].kill()
            killed_at[0] = time.monotonic()

        await here.load(REQUESTS, (0.3, kill))
        assert here.verdicts == {Verdict.RIGHT: REQUESTS}
        backend = next(b for b in here.here.app.fleet.backends if b.url == here.prefill[0].members[0].url)
        assert (backend.standing.state.value, backend.standing.since - killed_at[0] < 1) == ("down", True)
        computed = (await here.totals(here.prefill[1:]))["requests"]
        assert computed <= REQUESTS * 1.02


async def test_f02_a_decode_engine_is_killed_before_its_first_events() -> None:
    async with trial("F02", "1 of 4 decode engines killed before first event", decode=4) as here:
        await here.decode[0].add("decode", Fault("delay", delay_s=20))
        await here.load(REQUESTS, (0.3, here.decode[0].kill))
        assert here.verdicts == {Verdict.RIGHT: REQUESTS}
        assert (await here.totals(here.decode))["pulled_again"] == 0


async def test_f03_a_decode_engine_is_killed_in_mid_stream() -> None:
    async with trial("F03", "1 of 4 decode engines killed in mid-stream", decode=4) as here:
        await here.load(REQUESTS, (0.3, here.decode[0].kill), max_tokens=40)
        assert here.row.lost == 0
        assert 0 < here.verdicts[Verdict.BROKEN_OFF] < 40
        assert here.verdicts[Verdict.REFUSED] == 0


async def test_f04_a_prefill_engine_fails_everything() -> None:
    async with trial("F04", "one prefill engine always answers 500") as here:
        await here.prefill[0].add("prefill", Fault("status", status=500))
        await here.load(REQUESTS)
        assert here.verdicts == {Verdict.RIGHT: REQUESTS}
        assert here.state(here.prefill[0]) in ("ejected", "trial")
        faults = (await here.totals(here.prefill[:1]))["faults"]
        assert faults <= 40 + 3, "those that were in flight, and three"


async def test_f05_bad_requests_are_nobodys_fault() -> None:
    async with trial("F05", "a bad request, which engines answer with 400") as here:
        await here.load(100, temperature="hot")
        assert [reply.status for reply in here.replies] == [400] * 100
        assert await here.here.metric("pd_router_retries_total") == 0
        assert {here.state(fleet) for fleet in (*here.prefill, *here.decode)} == {"up"}


async def test_f08_kv_cannot_be_loaded() -> None:
    async with trial("F08", "KV load fails for 10 % of the hand-overs") as here:
        for fleet in here.decode:
            await fleet.add("decode", Fault("first_event_error", share=0.1))
        await here.load(REQUESTS)
        assert here.row.lost == 0
        assert here.verdicts[Verdict.BROKEN_OFF] == 0
        assert here.verdicts[Verdict.REFUSED] <= 0.01 * REQUESTS


@pytest.mark.parametrize("variant", ["empty_blocks", "no_host", "null_blocks"])
async def test_f09_a_bad_hand_over_is_not_sent(variant: str) -> None:
    async with trial("F09", f"hand-over malformed: {variant}") as here:
        await here.prefill[0].add("prefill", Fault("malformed_params", variant=variant))
        await here.load(100)
        assert here.verdicts == {Verdict.RIGHT: 100}
        assert (await here.totals(here.decode))["deaths"] == 0


async def test_f14_without_prefill_engines_decode_computes() -> None:
    async with trial("F14", "all prefill engines killed") as here:
        for fleet in here.prefill:
            fleet.kill()
        await here.load(200)
        assert here.verdicts == {Verdict.RIGHT: 200}


async def test_f15_without_decode_engines_clients_are_told_at_once_and_nothing_is_prefilled() -> None:
    async with trial("F15", "all decode engines killed") as here:
        for fleet in here.decode:
            fleet.kill()
        await until(lambda: {here.state(fleet) for fleet in here.decode} == {"down"}, "down", within_s=15)
        before = (await here.totals(here.prefill))["requests"]
        began = time.monotonic()
        await here.load(100)
        assert time.monotonic() - began < 100 * 0.05
        assert [(reply.status, "retry-after" in reply.headers) for reply in here.replies] == [(503, True)] * 100
        assert (await here.totals(here.prefill))["requests"] == before


async def test_f16_engines_that_come_back_are_used_again() -> None:
    async with trial("F16", "all engines away for a while") as here:
        for fleet in (*here.prefill, *here.decode):
            await fleet.add(fleet.members[0].role, Fault("restart", delay_s=AWAY_S))
        away = time.monotonic()
        await here.load(60)
        assert (here.row.lost, here.verdicts) == (0, {Verdict.REFUSED: 60})
        engines = (*here.prefill, *here.decode)
        await until(lambda: {here.state(fleet) for fleet in engines} == {"up"}, "up", within_s=AWAY_S + 4)
        assert time.monotonic() - away - AWAY_S < 3
        await here.load(100)
        assert here.verdicts[Verdict.RIGHT] == 100
