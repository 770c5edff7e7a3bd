"""A thousand requests of every sort, with faults: what the gateway counts is what clients and engines counted.

Every series that counts is compared, so that nothing may be counted that is not expected, and nothing twice.
"""

import asyncio
import random
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest

from router.call import Api
from router.settings.engines import Role
from router.settings.loading import load
from router.sim.engine import SimEngine
from tests.support.books import gateway
from tests.support.client import Asker, ask, asker, request
from tests.support.fleet import AT_ONCE, Site, total, until
from tests.support.scripted_engine import MODEL as STALLS
from tests.support.sorts import (
    LEFT,
    NO_ROUTE,
    PERMITS,
    QUEUE,
    SETTINGS,
    SORTS,
    STALLING,
    Engines,
    body_of,
    fleet,
    let_them_fail,
)
from tests.support.tally import Tally, Way, counted, sample, usage_of

CLIENTS = 24

REJECTED = 10
"""Requests beyond a full queue."""

LEAVING = 20
"""Clients of a sort that leave, by FIN and by RST."""

NONSENSE = 6
"""Of each sort of request that is none."""

LARGE_BYTES = 80 << 10
"""A body with which all bodies together are over their limit."""

AT_REST = tuple(
    f"pd_router_{name}"
    for name in (
        "inflight_requests{",
        "inflight_tokens{",
        "local_tokens_inflight ",
        "queue_depth{",
        "connections ",
        "quarantined_pairs ",
        'permits{pool="prefill",state="taken"}',
        'permits{pool="decode",state="taken"}',
        'permits{pool="aggregated",state="taken"}',
    )
)
"""What must be 0 when all is over, as the page has it."""

PROMPT = "Once upon a time"

LEDGER = ("issued", "pulled", "released", "expired")

pytestmark = pytest.mark.timeout(240)


async def test_every_count_is_what_clients_and_engines_counted() -> None:
    tally = Tally()
    async with fleet() as (engines, backends):
        sections = {name: AT_ONCE.get(name, {}) | SETTINGS.get(name, {}) for name in AT_ONCE.keys() | SETTINGS.keys()}
        settings = load(flags=sections | {"backends": backends}, environ={})
        async with gateway(settings) as started, httpx.AsyncClient(trust_env=False) as client:
            here = Site(started, (), client)
            await wait_in_line(here, engines["narrow"][0], tally)
            await let_them_fail(engines)
            async with asyncio.TaskGroup() as group:
                group.create_task(ask_everything(here, tally))
                group.create_task(leave_in_the_middle(here, tally))
                for model, way in LEFT.items():
                    group.create_task(leave_unanswered(here, engines[model][way.prefills], model, way, tally))
            await ask_nonsense(here, tally)
            await until(lambda: not here.held(), here.held)
            await until(lambda: here.app.data_guards.census.open == 0, "clients to be gone")
            await until(lambda: transfers_seen(here, engines), "the engines' own counters to be read")
            page = await page_of(here)
            here.assert_audited()
        assert tally.requests >= 1000
        count_what_engines_did(engines, tally)
        assert counted(page) == +tally.expected
        assert [line for line in page.splitlines() if line.startswith(AT_REST) and not line.endswith(" 0.0")] == []
        assert_ledgers(engines, tally)


def test_what_is_not_counted_is_missed() -> None:
    page = '# TYPE pd_router_x counter\npd_router_x_total{a="b"} 2.0\npd_router_y_count 0.0\n'
    assert counted(page) == {sample("x_total", a="b"): 2}


async def wait_in_line(here: Site, narrow: SimEngine, tally: Tally) -> None:
    """An engine is full, as many wait for it as may, and the others are turned away."""
    served = Way("local", ("local", "prefill_unavailable"), 0)
    turned_away = Way("none", ("none", "decode_saturated"), 0)

    async def one(number: int, way: Way) -> None:
        body = body_of(Api.CHAT, "narrow", number, stream=number % 2 == 0)
        tally.answered(way, Api.CHAT, body, await ask(here.url, body))

    narrow.freeze()
    async with asyncio.TaskGroup() as group:
        for number in range(PERMITS):
            group.create_task(one(number, served))
        await until(lambda: here.held().get("permits") == PERMITS, here.held)
        for number in range(QUEUE):
            group.create_task(one(number, served))
        await until(lambda: here.app.line.depth(Role.DECODE) == QUEUE, "a full queue")
        page = await page_of(here)
        assert total(page, "pd_router_queue_depth", pool="decode") == QUEUE
        assert total(page, "pd_router_permits", pool="decode", state="taken") == PERMITS
        assert total(page, "pd_router_inflight_requests", pool="decode") == PERMITS
        await asyncio.gather(*(one(number, turned_away) for number in range(REJECTED)))
        narrow.thaw()
    tally.add("queue_seconds_count", QUEUE, pool="decode")


async def ask_everything(here: Site, tally: Tally) -> None:
    """All that is read to its end, in any order."""
    todo = [(sort, *one) for sort in SORTS for one in sort.bodies()]
    random.Random(1).shuffle(todo)

    async def keep_asking() -> None:
        while todo:
            sort, api, body = todo.pop()
            reply = await ask(here.url, body, api)
            tally.answered(sort.way, api, body, reply)
            if sort.way.route == "local" and body["model"] == "plain":
                count_prefix(tally, "decode", usage_of(body, reply))

    async with asyncio.TaskGroup() as group:
        for _ in range(CLIENTS):
            group.create_task(keep_asking())


def count_prefix(tally: Tally, pool: str, usage: dict[str, Any]) -> None:
    """What an engine that computed a prompt itself told of its cache."""
    cached = usage["prompt_tokens_details"]["cached_tokens"]
    tally.add("prefix_tokens_total", cached, pool=pool, kind="reused")
    tally.add("prefix_tokens_total", usage["prompt_tokens"] - cached, pool=pool, kind="computed")


async def leave_in_the_middle(here: Site, tally: Tally) -> None:
    """Clients of an engine that says three events and no more, which have read them."""
    way = Way("aggregated", ("aggregated", "decode_unavailable"), 0)
    for number in range(LEAVING):
        body = {"model": STALLS, "prompt": PROMPT, "max_tokens": 9, "stream": True}
        async with asyncio.timeout(10), asker(here.url) as client:
            client.send(request(Api.COMPLETIONS, body))
            while client.reply.body != b"".join(STALLING):
                await client.read()
            leave(client, number)
        tally.ended(way, Api.COMPLETIONS, STALLS, "client_gone")
        tally.streamed(way, STALLS, len(STALLING))
        tally.tokens(STALLS, len(PROMPT) // 4, len(STALLING))


async def leave_unanswered(here: Site, hangs: SimEngine, model: str, way: Way, tally: Tally) -> None:
    """Clients that leave when an engine, which will never answer, has all their requests."""
    async with AsyncExitStack() as held:
        clients = [await held.enter_async_context(asker(here.url)) for _ in range(LEAVING)]
        for number, client in enumerate(clients):
            client.send(request(Api.CHAT, body_of(Api.CHAT, model, number, stream=number % 2 == 0)))
            tally.ended(way, Api.CHAT, model, "client_gone")
        await until(lambda: hangs.ledger.totals.arrived == LEAVING, "requests to arrive", within_s=20)
        for number, client in enumerate(clients):
            leave(client, number)


def leave(client: Asker, number: int) -> None:
    """By FIN or by RST."""
    if number % 2:
        client.reset()
    else:
        client.writer.close()


async def ask_nonsense(here: Site, tally: Tally) -> None:
    """What is refused before anybody knows what it is about."""
    whole = request(Api.CHAT, body_of(Api.CHAT, "plain", 0, stream=True))
    large = request(Api.CHAT, {"model": "plain", "messages": [{"role": "user", "content": "x" * LARGE_BYTES}]})
    too_large = whole.replace(b"content-length: ", b"content-length: 9999")
    nonsense = {
        whole.replace(b'{"model"', b'["model"'): (400, "client_error"),
        whole.replace(b"application/json", b"text/plain"): (415, "client_error"),
        too_large: (413, "client_error"),
        large: (503, "rejected"),
        whole[:-9]: (None, "client_gone"),
        whole.replace(b"host: ", b"host : "): (400, None),
    }
    for data, (status, outcome) in list(nonsense.items()) * NONSENSE:
        async with asyncio.timeout(10), asker(here.url) as client:
            client.send(data)
            if status is not None:
                assert (await client.read_all()).status == status
        if outcome is not None:
            tally.ended(NO_ROUTE, Api.CHAT, "", outcome)
    tally.add("shed_total", NONSENSE, reason="body_memory")
    tally.add("refused_total", NONSENSE, code="malformed_request")


async def page_of(here: Site) -> str:
    """The metrics as Prometheus gets them."""
    return (await here.client.get(f"{here.gateway.ops_url}/metrics")).text


def transfers_seen(here: Site, engines: Engines) -> bool:
    """Whether what engines count themselves has been read since they last did something."""
    seen = {b.url: b.progress.gauges.kv_transfers for b in here.app.fleet.backends if b.progress.gauges}
    return all(seen[one.url] == one.core.counters.transfer_s.count for one in running(engines))


def running(engines: Engines) -> list[SimEngine]:
    """All engines that still run."""
    return [one for ones in engines.values() for one in ones if one.running]


def count_what_engines_did(engines: Engines, tally: Tally) -> None:
    """Add to the tally what only engines know."""
    for one in running(engines):
        where = {"pool": one.config.role, "backend": one.url.removeprefix("http://")}
        tally.add("engine_kv_transfer_seconds_count", one.core.counters.transfer_s.count, **where)
    for model in ("plain", "alone"):
        for one in engines[model]:
            if one.config.role != "decode":  # which clients know of
                counters, pool = one.core.counters, one.config.role
                tally.add("prefix_tokens_total", counters.local_cache_hit_tokens, pool=pool, kind="reused")
                tally.add("prefix_tokens_total", counters.local_compute_tokens, pool=pool, kind="computed")
    failed = engines["one-of-two-prefills"][0].ledger.totals.faults
    tally.add("retries_total", failed, pool="prefill", reason="engine_error")


def assert_ledgers(engines: Engines, tally: Tally) -> None:
    """What engines handed out and did is what the gateway counted of it."""
    prefill = [one.ledger.snapshot() for ones in engines.values() for one in ones if one.config.role == "prefill"]
    issued, pulled, back, expired = (sum(one["totals"][name] for one in prefill) for name in LEDGER)
    unnamed = tally.of("retries_total", reason="bad_handoff")
    left = tally.of("kv_stranded_total") + unnamed + LEAVING  # of those who left decode no engine has heard yet
    assert issued == tally.of("prefill_seconds_count") + unnamed
    assert (back, expired) == (tally.of("kv_released_total"), 0)
    assert sum(one["gauges"]["handoffs_open"] for one in prefill) == left
    assert pulled == issued - back - left
    generated = sum(one.core.counters.generation_tokens for one in engines["plain"] if one.config.role == "decode")
    assert generated == tally.of("tokens_total", model="plain", kind="generated")
    assert tally.of("retries_total", pool="prefill", reason="engine_error") > tally.of(
        "fallback_total", reason="engine_error"
    )
