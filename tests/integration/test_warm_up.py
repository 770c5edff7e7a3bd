"""Engines that are new to each other have met before a client needs them to, and the engines' books stay balanced."""

import asyncio
import time
from typing import Any

import pytest

from router.sim.engine import SimEngine
from tests.support.client import Verdict, ask, judge
from tests.support.fleet import Site, engine, site, until

LIVELY = {"interval_s": 0.05, "down_interval_s": 0.05}
ON: dict[str, Any] = {"pairs": {"warm_up": True}, "probes": LIVELY}
HANDSHAKE_S = 1.0


def chat(number: int = 0, **fields: Any) -> dict[str, Any]:
    """A prompt of its own."""
    messages = [{"role": "user", "content": f"{number} " + "word " * 60}]
    return {"model": "sim-8b", "messages": messages, "max_tokens": 5, "stream": True} | fields


def slow_to_meet(role: str) -> SimEngine:
    """An engine whose handshakes can be felt; all else takes as long as on fast hardware."""
    return engine(role, time_scale=1, handshake_s=HANDSHAKE_S)


async def warm(here: Site, pairs: int) -> None:
    """Wait until so many pairs have met."""
    told = here.app.pairs.warm_ups
    await until(lambda: told(0)["warm"] == pairs and not told(0)["cold"], lambda: told(0), within_s=10)


async def seconds(here: Site, number: int) -> float:
    """How long a client waits for its answer."""
    began, body = time.monotonic(), chat(number)
    assert judge(await ask(here.url, body), body) is Verdict.RIGHT
    return time.monotonic() - began


async def test_the_first_client_does_not_wait_for_a_handshake() -> None:
    async with site(slow_to_meet("prefill"), slow_to_meet("decode"), **ON) as here:
        await warm(here, 1)
        assert await seconds(here, 1) < HANDSHAKE_S
    async with site(slow_to_meet("prefill"), slow_to_meet("decode")) as here:
        assert await seconds(here, 1) >= HANDSHAKE_S, "without a warm-up it does"


async def test_each_pair_costs_one_hand_over_which_is_used() -> None:
    engines = [engine(role) for role in ("prefill", "prefill", "decode", "decode", "decode")]
    async with site(*engines, **ON) as here:
        await warm(here, 6)
        await here.quiet()
        prefill, decode = engines[:2], engines[2:]
        assert [(e.ledger.totals.issued, e.ledger.totals.pulled) for e in prefill] == [(3, 3)] * 2
        assert [e.ledger.totals.requests for e in decode] == [2] * 3
        assert [e.core.counters.generation_tokens for e in engines] == [3, 3, 2, 2, 2]
        assert await here.metric("pd_router_warm_ups_total", outcome="ok") == 6
        assert await here.metric("pd_router_requests_total") == 0


@pytest.mark.parametrize("which", [0, 1], ids=["prefill", "decode"])
async def test_an_engine_that_was_restarted_is_met_again(which: int) -> None:
    engines = engine("prefill"), engine("decode")
    async with site(*engines, **ON) as here:
        await warm(here, 1)
        await engines[which].restart(0.3)
        await here.state_of(engines[which], "up")
        await until(lambda: engines[0].ledger.totals.pulled == 2, "the second meeting", within_s=10)


async def test_an_engine_that_is_added_gets_requests_once_it_has_met_somebody() -> None:
    old = slow_to_meet("prefill"), slow_to_meet("decode")
    async with slow_to_meet("decode") as new, site(*old, **ON) as here:
        await warm(here, 1)
        added = {"url": new.url, "role": "decode"}
        (await here.client.post(f"{here.gateway.ops_url}/fleet/backends", json=added)).raise_for_status()
        await here.state_of(new, "up")
        assert here.app.pairs.cold, "from the moment on at which it may get requests"
        during = await asyncio.gather(*(seconds(here, number) for number in range(8)))
        assert max(during) < HANDSHAKE_S
        await warm(here, 2)
        before = new.ledger.totals.requests
        await asyncio.gather(*(seconds(here, number) for number in range(8, 16)))
        assert new.ledger.totals.requests > before
        await until(lambda: not new.ledger.outstanding(), new.ledger.outstanding)


async def test_a_pair_that_cannot_talk_is_shown_and_left_alone() -> None:
    engines = engine("prefill"), engine("decode"), engine("decode", kv_bytes_per_token=1)
    async with site(*engines, quiet=False, pairs={"warm_up": True, "failures": 1}) as here:
        await until(lambda: len(here.app.pairs.meetings) == 2, "both meetings", within_s=10)
        told = (await here.client.get(f"{here.gateway.ops_url}/fleet")).json()
        (failed,), (left_alone,) = told["warm_ups"]["failed"], told["quarantined_pairs"]
        strange = engines[2].url.removeprefix("http://")
        assert failed["decode"] == left_alone["decode"] == strange
        assert failed["why"] == f"decode: {strange} answered 500"
        for number in range(4):
            await seconds(here, number)
        assert await here.metric("pd_router_retries_total") == 0


async def test_it_can_be_turned_off() -> None:
    engines = engine("prefill"), engine("decode")
    async with site(*engines, probes=LIVELY) as here:
        await asyncio.sleep(0.2)
        assert here.app.pairs.meetings == {}
        assert engines[0].ledger.totals.requests == 0
