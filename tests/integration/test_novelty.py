"""Do prompts go where their KV is? Chats that go on, and many that begin alike, on engines that count their work."""

import asyncio
import random
from collections.abc import Sequence
from typing import Any

import orjson
import pytest

from router.sim.engine import SimEngine
from tests.support.client import Verdict, ask, judge
from tests.support.fleet import Site, engine, site

MODEL = "sim-8b"
AWARE = {"prefill_policy": "prefix_aware", "decode_policy": "prefix_aware", "min_concurrency": 0}
TURN_WORDS = 40


def words(count: int, seed: str) -> str:
    """A text of so many tokens of the simulated engines."""
    rng = random.Random(seed)
    return "".join(f"{rng.randrange(1000):3} " for _ in range(count))


async def answered(here: Site, messages: Sequence[dict[str, str]], **fields: Any) -> str:
    """The right answer to a chat so far."""
    body = {"model": MODEL, "messages": list(messages), "max_tokens": 20} | fields
    reply = await ask(here.url, body)
    assert judge(reply, body) is Verdict.RIGHT
    return str(orjson.loads(reply.body)["choices"][0]["message"]["content"])


async def decisions(here: Site, *reasons: str) -> list[float]:
    return [await here.metric("pd_router_decisions_total", reason=reason) for reason in reasons]


async def test_what_has_no_prompt_is_the_engines_to_answer_or_refuse_however_long_it_is() -> None:
    async with site(engine("prefill"), engine("decode"), routing=AWARE) as here:
        for path, fields in (
            ("/v1/chat/completions", {"messages": [], "documents": ["x" * 600]}),
            ("/v1/completions", {"prompt": [{"a": "x" * 600}]}),
        ):
            reply = await here.ask(path, {"model": MODEL, "max_tokens": 5, **fields})
            assert reply.status_code in (200, 400), reply.text
        assert await here.metric("pd_router_requests_total", outcome="internal_error") == 0
        assert await here.metric("pd_router_requests_total") == 2


async def test_a_chat_that_goes_on_stays_where_its_kv_is() -> None:
    prefill, decode = [engine("prefill") for _ in range(2)], [engine("decode") for _ in range(2)]
    async with site(*prefill, *decode, routing=AWARE | {"min_novel_tokens": 256}) as here:
        messages = [{"role": "user", "content": words(800, "first")}]
        for turn in range(4):
            text = await answered(here, messages)
            messages += [
                {"role": "assistant", "content": text},
                {"role": "user", "content": words(TURN_WORDS, f"turn {turn}")},
            ]
        assert await decisions(here, "novel_prompt", "continuation") == [1, 3]
        assert sorted(one.ledger.totals.completed for one in decode) == [0, 4]
        assert sum(one.core.counters.local_compute_tokens for one in decode) < 3 * 4 * TURN_WORDS


async def test_without_an_index_every_turn_is_handed_over() -> None:
    prefill, decode = engine("prefill"), engine("decode")
    async with site(prefill, decode, routing={"min_novel_tokens": 256}) as here:
        messages = [{"role": "user", "content": words(800, "first")}]
        for _ in range(3):
            await answered(here, messages)
        assert await decisions(here, "novel_prompt", "continuation") == [3, 0]


async def test_an_engine_that_comes_back_holds_nothing() -> None:
    prefill, decode = engine("prefill"), engine("decode")
    lively = {"interval_s": 0.05, "down_interval_s": 0.05, "down_after": 2}
    async with site(prefill, decode, routing=AWARE | {"min_novel_tokens": 256}, probes=lively) as here:
        messages = [{"role": "user", "content": words(800, "first")}]
        await answered(here, messages)
        port = int(decode.url.rsplit(":", 1)[1])
        await decode.kill()
        await here.state_of(decode, "down")
        await decode.start(port=port)
        await here.state_of(decode, "up")
        await answered(here, messages)
        assert await decisions(here, "novel_prompt", "continuation") == [2, 0]


def computed(engines: Sequence[SimEngine]) -> list[int]:
    return [one.core.counters.local_compute_tokens for one in engines]


@pytest.mark.timeout(120)
async def test_many_that_begin_alike_reuse_it_and_are_spread_evenly() -> None:
    prefill, decode = [engine("prefill") for _ in range(4)], [engine("decode") for _ in range(2)]
    rules = AWARE | {"mode": "disaggregated"}
    async with site(*prefill, *decode, routing=rules, admission={"prefill_permits": 0}) as here:
        shared = words(1600, "shared")
        requests = 1000

        async def one(number: int) -> None:
            await answered(here, [{"role": "user", "content": shared + words(60, str(number))}], max_tokens=4)

        async with asyncio.TaskGroup() as group:
            for number in range(requests):
                group.create_task(one(number))
        sent = [p.ledger.totals.issued for p in prefill]
        reused = 1 - sum(computed(prefill)) / (requests * 1660)
        assert (sum(sent), max(sent) <= 1.5 * requests / len(prefill)) == (requests, True), sent
        assert reused >= 0.8, reused
