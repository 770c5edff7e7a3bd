"""Does the gateway know what engines hold by their own word, and route by it? Real sockets, simulated engines."""

import random
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

from router.sim.engine import SimEngine
from tests.integration.test_novelty import AWARE, MODEL, decisions, words
from tests.support.client import Verdict, ask, judge
from tests.support.fleet import Site, engine, gateway_over, until
from tests.support.kv_events import (
    Followed,
    backend_of,
    cached_tokens,
    followed,
    following,
    heard,
    holdings_of,
    publishing,
    told,
)

RULES = AWARE | {"min_novel_tokens": 256}


def prompt(tokens: int, seed: str) -> dict[str, Any]:
    """A request with a prompt of its own."""
    return {"model": MODEL, "messages": [{"role": "user", "content": words(tokens, seed)}], "max_tokens": 4}


async def answered(here: Site, body: dict[str, Any]) -> None:
    assert judge(await ask(here.url, body), body) is Verdict.RIGHT


async def step(here: Site, one: SimEngine, seed: str = "step") -> None:
    """A small prompt that the gateway knows nothing of."""
    body = prompt(20, seed)
    assert judge(await ask(one.url, body), body) is Verdict.RIGHT


async def reset(here: Site, one: SimEngine) -> None:
    """Empty an engine's cache; it tells with its next step."""
    (await here.client.post(f"{one.url}/reset_prefix_cache")).raise_for_status()
    await step(here, one)


async def thought(here: Site, one: SimEngine) -> float:
    """Tokens that the gateway thinks an engine holds, by its metrics."""
    backend = backend_of(here, one).id
    names = ("pd_router_kv_held_tokens", "pd_router_kv_estimate_error_tokens")
    return sum([await here.metric(name, backend=backend) for name in names])


async def test_what_is_stored_is_known(tmp_path: Path) -> None:
    prefill, decode = publishing(tmp_path, "p", "prefill"), publishing(tmp_path, "d", "decode")
    async with followed(prefill, decode, routing=RULES) as here:
        for seed in ("one", "two"):
            await answered(here, prompt(800, seed))
        for one in (prefill, decode):
            await told(here, one)
            assert holdings_of(here, one).tokens >= 1600
            assert holdings_of(here, one).complete
        assert holdings_of(here, decode).sessions


async def test_a_chat_whose_kv_others_have_evicted_is_computed_anew_by_prefill(tmp_path: Path) -> None:
    prefill, decode = publishing(tmp_path, "p", "prefill"), publishing(tmp_path, "d", "decode", kv_blocks=192)
    async with followed(prefill, decode, routing=RULES) as here:
        chat = prompt(1600, "chat")
        await answered(here, chat)
        await answered(here, chat)
        assert await decisions(here, "novel_prompt", "continuation") == [1, 1]
        await told(here, decode)
        assert await thought(here, decode) > 1500
        for seed in ("three", "four"):  # behind the gateway's back
            body = prompt(1400, seed)
            assert judge(await ask(decode.url, body), body) is Verdict.RIGHT
        await told(here, decode)
        assert await thought(here, decode) < 256
        await answered(here, chat)
        assert await decisions(here, "novel_prompt", "continuation") == [2, 1]


async def test_a_part_that_was_evicted_is_forgotten_and_the_rest_is_kept(tmp_path: Path) -> None:
    prefill, decode = publishing(tmp_path, "p", "prefill"), publishing(tmp_path, "d", "decode", kv_blocks=192)
    async with followed(prefill, decode, routing=RULES) as here:
        await answered(here, prompt(1600, "chat"))
        body = prompt(2000, "other")
        assert judge(await ask(decode.url, body), body) is Verdict.RIGHT
        await told(here, decode)
        left = cached_tokens(decode) - 2000
        assert 500 < left < 1200
        assert abs(await thought(here, decode) - left) < 200


async def test_an_engine_that_was_cleared_gets_no_chat_for_its_kvs_sake(tmp_path: Path) -> None:
    prefill = publishing(tmp_path, "p", "prefill")
    decode = [publishing(tmp_path, f"d{number}", "decode") for number in range(2)]
    async with followed(prefill, *decode, routing=RULES) as here:
        chat = prompt(1600, "chat")
        await answered(here, chat)
        await answered(here, chat)
        assert await decisions(here, "novel_prompt", "continuation") == [1, 1]
        home = max(decode, key=lambda one: one.ledger.totals.completed)
        await told(here, home)
        await reset(here, home)
        await told(here, home)
        assert await thought(here, home) == 0
        await answered(here, chat)
        assert await decisions(here, "novel_prompt", "continuation") == [2, 1]


async def test_what_was_missed_is_repeated(tmp_path: Path) -> None:
    prefill, decode = publishing(tmp_path, "p", "prefill"), publishing(tmp_path, "d", "decode")
    async with followed(prefill, decode, routing=RULES) as here:
        await answered(here, prompt(800, "one"))
        await told(here, decode)
        holdings = holdings_of(here, decode)
        replays = holdings.replays
        deaf(decode)
        await answered(here, prompt(800, "two"))
        hearing(decode)
        await answered(here, prompt(800, "three"))
        await told(here, decode)
        assert (holdings.gaps, holdings.replays - replays, holdings.complete) == (1, 1, True)
        assert await here.metric("pd_router_kv_event_gaps_total", pool="decode") == 1
        assert await here.metric("pd_router_kv_held_tokens", pool="decode") == cached_tokens(decode)


async def test_what_nobody_repeats_is_missing_and_the_index_goes_on_by_itself(tmp_path: Path) -> None:
    prefill, decode = publishing(tmp_path, "p", "prefill"), publishing(tmp_path, "d", "decode")
    async with followed(prefill, decode, replay=False, routing=RULES) as here:
        chat = prompt(800, "one")
        await answered(here, chat)
        await told(here, decode)
        deaf(decode)
        await answered(here, prompt(800, "two"))
        hearing(decode)
        await answered(here, prompt(800, "three"))
        holdings = holdings_of(here, decode)
        await until(lambda: holdings.gaps == 1 and holdings.tokens >= 800)
        assert (holdings.replays, holdings.complete, holdings.tokens < cached_tokens(decode)) == (0, False, True)
        await answered(here, chat)
        assert await decisions(here, "novel_prompt", "continuation") == [3, 1]


async def test_an_engine_that_restarts_unnoticed_by_probes_begins_anew(tmp_path: Path) -> None:
    prefill, decode = publishing(tmp_path, "p", "prefill"), publishing(tmp_path, "d", "decode")
    lazy = {"interval_s": 60, "down_interval_s": 60}
    async with followed(prefill, decode, routing=RULES, probes=lazy) as here:
        chat = prompt(800, "chat")
        for body in (chat, prompt(800, "two"), prompt(800, "three")):
            await answered(here, body)
        await told(here, decode)
        before = await thought(here, decode)
        await decode.restart()
        holdings = holdings_of(here, decode)
        for number in range(1000):  # the subscription takes a moment to come back, and may miss any number of batches
            await step(here, decode, str(number))
            if holdings.restarts:
                break
        await told(here, decode)
        assert (before > 2000, await thought(here, decode) < 100, holdings.complete) == (True, True, True)
        await answered(here, chat)
        assert await decisions(here, "novel_prompt", "continuation") == [4, 0]


async def test_one_that_comes_late_learns_what_is_there(tmp_path: Path) -> None:
    prefill, decode = publishing(tmp_path, "p", "prefill"), publishing(tmp_path, "d", "decode")
    async with followed(prefill, decode, routing=RULES) as first:
        for seed in ("one", "two"):
            await answered(first, prompt(800, seed))
        async with following(prefill, decode, routing=RULES) as second:
            await answered(second, prompt(800, "three"))
            await told(second, decode)
            assert holdings_of(second, decode).replays == 1


async def test_evictions_are_known_behind_a_prompt_from_before_the_gateway_came(tmp_path: Path) -> None:
    prefill, decode = publishing(tmp_path, "p", "prefill"), publishing(tmp_path, "d", "decode", kv_blocks=256)
    system = {"role": "system", "content": words(640, "system")}
    async with prefill, decode:
        body = {"model": MODEL, "messages": [system], "max_tokens": 1}
        assert judge(await ask(decode.url, body), body) is Verdict.RIGHT
        async with following(prefill, decode, replay=False, routing=RULES) as here:
            for seed in ("one", "two"):
                user = {"role": "user", "content": words(1000, seed)}
                await answered(here, {"model": MODEL, "messages": [system, user], "max_tokens": 4})
            await heard(here, decode)
            assert not holdings_of(here, decode).complete
            assert await thought(here, decode) > 2500
            for seed in ("three", "four"):
                other = prompt(1400, seed)
                assert judge(await ask(decode.url, other), other) is Verdict.RIGHT
            await heard(here, decode)
            assert cached_tokens(decode) - 2800 < 1300
            assert await thought(here, decode) < 1200


async def test_a_gateway_may_listen_for_an_engine_that_connects() -> None:
    where = f"tcp://127.0.0.1:{random.SystemRandom().randrange(20_000, 32_000)}"  # not one of outgoing connections
    async with engine("aggregated", kv_events=where) as one, listening(one, where) as here:
        for number in range(200):
            await answered(here, prompt(100, str(number)))
            if holdings_of(here, one).batches:
                break
        assert holdings_of(here, one).tokens > 0


def listening(one: SimEngine, where: str) -> AbstractAsyncContextManager[Site]:
    return gateway_over([Followed(one.url, "aggregated", {"endpoint": where, "bind": True})], routing=RULES)


def deaf(one: SimEngine) -> None:
    """What an engine publishes now reaches nobody."""
    publisher = one.core._events
    assert publisher is not None
    publisher._topic = b"elsewhere"


def hearing(one: SimEngine) -> None:
    """It does again."""
    publisher = one.core._events
    assert publisher is not None
    publisher._topic = one.config.kv_events_topic.encode()
