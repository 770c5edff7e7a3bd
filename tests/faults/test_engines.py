"""Engines die, break and come back under load: who of the clients notices? Ids as in docs/failures.md."""

import asyncio
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest

from router.sim.faults import Fault
from tests.support.client import Verdict
from tests.support.fault_rows import Happening, list_engines, scaled, trial
from tests.support.fleet import FleetProcess, until

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
    requests = scaled(2000, 10_000)
    async with trial("F02", "1 of 4 decode engines killed before first event", decode=4, leaks=None) as here:
        await here.decode[0].add("decode", Fault("delay", delay_s=20))
        await here.load(requests, (0.3, here.decode[0].kill))
        assert here.verdicts == {Verdict.RIGHT: requests}
        assert (await here.totals(here.prefill))["pulled_again"] == 0


async def test_f03_a_decode_engine_is_killed_in_mid_stream() -> None:
    async with trial("F03", "1 of 4 decode engines killed in mid-stream", decode=4, leaks=None) as here:

        async def kill() -> None:
            await asyncio.sleep(0.5)  # those that have just begun are half way then
            here.decode[0].kill()

        await here.load(REQUESTS // 2, (0.3, kill), max_tokens=200)
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
    async with trial("F09", f"hand-over malformed: {variant}", leaks=None) as here:
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


async def test_f33_engines_come_and_go() -> None:
    fault = "engines removed, added, drained, enabled, 40 times"
    async with trial("F33", fault, decode=3, pairs={"warm_up": True}) as here:
        url, client = f"{here.here.gateway.ops_url}/fleet/backends", here.here.client
        one_at_a_time = asyncio.Lock()

        async def change(number: int) -> None:
            async with one_at_a_time:
                await change_one(number)

        async def change_one(number: int) -> None:
            engines = (*here.decode, *here.prefill)
            member = engines[number % len(engines)].members[0]
            engine_id = member.url.removeprefix("http://")
            if number % 2:
                (await client.post(f"{url}/{engine_id}/drain")).raise_for_status()
                (await client.post(f"{url}/{engine_id}/enable")).raise_for_status()
            else:
                (await client.delete(f"{url}/{engine_id}")).raise_for_status()
                added = await client.post(url, json={"url": member.url, "role": member.role})
                assert added.status_code == 201
                await until(lambda: {here.state(fleet) for fleet in engines} == {"up"}, "all to be up")

        def at(number: int) -> tuple[float, Happening]:
            return number / 50, lambda: change(number)

        await here.load(REQUESTS, *map(at, range(1, 41)))
        assert here.verdicts == {Verdict.RIGHT: REQUESTS}
        assert await here.here.metric("pd_router_retries_total") == 0
        assert await here.here.metric("pd_router_warm_ups_total", outcome="ok") >= 6 + 20


async def test_f33_a_file_lists_the_engines(tmp_path: Path) -> None:
    listed = tmp_path / "backends.yaml"
    listed.write_text("[]")
    discovery = {"file": {"path": str(listed), "refresh_s": 0.05}}
    async with trial(
        "F33", "engines listed in a file that is rewritten", discovery=discovery, listed=partial(list_engines, listed)
    ) as here:
        await until(lambda: here.here.app.fleet.ready, "ready")

        def rewrite(engines: Sequence[FleetProcess]) -> tuple[float, Happening]:
            return len(engines) / 10, partial(list_engines, listed, engines)

        both = (*here.prefill, *here.decode)
        await here.load(REQUESTS, rewrite(both[1:]), (0.6, partial(list_engines, listed, both)))
        assert here.verdicts == {Verdict.RIGHT: REQUESTS}
        assert len(here.here.app.fleet.backends) == len(both)
