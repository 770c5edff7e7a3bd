"""Real engines are killed, frozen, restarted, and answer what must not be used: who of the clients notices?

Ids as in docs/failures.md. Two engines of each role, which keep KV that nobody pulls for 8 s.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.holding_proxy import holding_proxy
from tests.support.openai_sdk import random_prompt
from tests.support.rewriting_proxy import rewriting_proxy
from tests.support.vllm_fleet import Gateway, Pools, gateway_process, until, vllm_pools

pytestmark = pytest.mark.timeout(180, func_only=True)

COMPLETIONS = "/v1/completions"
LEASE_S = 8
HANDED_OVER = b'"remote_block_ids"'


@pytest.fixture(scope="module")
def pools(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pools]:
    with vllm_pools(tmp_path_factory.mktemp("pools"), prefill=2, decode=2, lease_s=LEASE_S) as started:
        yield started


@pytest.fixture(autouse=True)
def _at_rest_before(pools: Pools) -> None:
    """What another test left to its lease is not this one's fault."""
    engines = (*pools.prefill, *pools.decode)
    assert until(lambda: not any(engine.kv_usage for engine in engines), LEASE_S + 10)


def body(seed: str, **fields: Any) -> dict[str, Any]:
    """A greedy request with a prompt of its own: of about 100 tokens, or 3,000 when its seed begins with `long`."""
    words = 900 if seed.startswith("long") else 30
    return {"model": "tiny", "prompt": random_prompt(words, seed), "max_tokens": 8, "temperature": 0, **fields}


class Users:
    """Clients of a gateway, who know what each answer has to be: a lone engine has told them."""

    def __init__(self, gateway: Gateway, reference: str) -> None:
        self.gateway = gateway
        self.http = httpx.AsyncClient(timeout=60)
        self.reference = reference

    async def expect(self, seeds: list[str]) -> dict[str, str]:
        """The right answers, computed by an engine alone."""
        return {seed: await self._text(self.reference, seed) for seed in seeds}

    async def ask(self, seed: str) -> str:
        return await self._text(self.gateway.url, seed)

    async def _text(self, url: str, seed: str) -> str:
        answer = await self.http.post(url + COMPLETIONS, json=body(seed))
        assert answer.status_code == 200, answer.text
        return str(answer.json()["choices"][0]["text"])

    async def count(self, name: str, label: str) -> dict[str, float]:
        return await asyncio.to_thread(self.gateway.count, name, label)


@asynccontextmanager
async def users(
    pools: Pools, folder: Path, prefill: list[str], decode: list[str], **settings: str
) -> AsyncIterator[Users]:
    """Users of a gateway of their own, in front of some of the engines or of proxies."""
    lease = {"HANDOFF__HANDOFF_MAX_AGE_S": str(LEASE_S / 3), **settings}
    process = gateway_process(prefill, decode, folder / "gateway.log", **lease)
    made = Users(await asyncio.to_thread(process.__enter__), pools.decode[1].url)
    try:
        yield made
        await asyncio.to_thread(process.__exit__, None, None, None)
    except BaseException as error:
        await asyncio.to_thread(process.__exit__, type(error), error, None)
        raise
    finally:
        await made.http.aclose()


async def until_async(condition: Callable[[], Awaitable[bool]], within_s: float) -> bool:
    """Whether a condition comes true in time."""
    deadline = time.monotonic() + within_s
    while not await condition():
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.1)
    return True


def urls(pools: Pools) -> tuple[list[str], list[str]]:
    return [engine.url for engine in pools.prefill], [engine.url for engine in pools.decode]


async def test_f01_f18_a_prefill_engine_is_killed_and_comes_back_as_another(pools: Pools, tmp_path: Path) -> None:
    seeds = [f"killed-{number}" for number in range(60)]
    async with users(pools, tmp_path, *urls(pools)) as here:
        expected = await here.expect(seeds)
        waiting, wrong = iter(seeds), list[str]()

        async def keep_asking() -> None:
            for seed in waiting:
                if await here.ask(seed) != expected[seed]:
                    wrong.append(seed)
                await asyncio.sleep(0.2)

        async with asyncio.TaskGroup() as group:
            for _ in range(3):
                group.create_task(keep_asking())
            await asyncio.sleep(1)
            await asyncio.to_thread(pools.signal, "prefill-0", "KILL")
            await asyncio.to_thread(pools.start, "prefill-0")

        async def all_up() -> bool:
            return sum((await here.count("backend_up", "pool")).values()) == 4

        assert wrong == []
        assert await until_async(all_up, 5)
        computed = pools.prefill[0].prompt_tokens()
        more = [f"again-{number}" for number in range(8)]
        expected = await here.expect(more)
        assert [await here.ask(seed) for seed in more] == list(expected.values())
        assert pools.prefill[0].prompt_tokens_since(computed, 1).total > 0, "it is used again"
        assert (await here.count("requests_total", "outcome")) == {"ok": len(seeds) + len(more)}
    assert pools.at_rest()


async def test_f08_kv_that_cannot_be_loaded_is_computed_again(pools: Pools, tmp_path: Path) -> None:
    prefill, decode = urls(pools)
    async with contextlib.AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(holding_proxy(decode[0], "to_engine", HANDED_OVER))
        here = await stack.enter_async_context(users(pools, tmp_path, [prefill[0]], [proxy.url, decode[1]]))
        expected = await here.expect(["lost"])
        for number in range(20):  # until one goes by way of the proxy
            asking = asyncio.ensure_future(here.ask(f"else-{number}"))  # noqa: TID251 - awaited or held
            held = asyncio.ensure_future(proxy.held.wait())  # noqa: TID251
            await asyncio.wait({asking, held}, return_when=asyncio.FIRST_COMPLETED)
            if proxy.held.is_set():
                break
        lost = asyncio.ensure_future(here.ask("lost"))  # noqa: TID251 - awaited below
        await asyncio.sleep(0.5)
        await asyncio.to_thread(pools.signal, "prefill-0", "KILL")
        proxy.go.set()
        assert await lost == expected["lost"]
        assert await asking
        await asyncio.to_thread(pools.start, "prefill-0")
        assert (await here.count("requests_total", "outcome")).keys() == {"ok"}


VARIANTS = {
    "no_parameters": (b'"kv_transfer_params"', b'"kv_transfer_paramz"'),
    "no_blocks": (HANDED_OVER, b'"remote_block_idz"'),
    "no_host": (b'"remote_host"', b'"remote_hosz"'),
    "no_engine": (b'"remote_engine_id"', b'"remote_engine_iz"'),
    "no_request": (b'"remote_request_id"', b'"remote_request_iz"'),
    "a_foreign_host": (b'"remote_host":"127.0.0.1"', b'"remote_host":"127.0.0.9"'),
}


@pytest.mark.parametrize("variant", VARIANTS)
async def test_f09_a_malformed_hand_over_is_not_sent(pools: Pools, tmp_path: Path, variant: str) -> None:
    prefill, decode = urls(pools)
    async with contextlib.AsyncExitStack() as stack:
        bad = await stack.enter_async_context(rewriting_proxy(prefill[0], *VARIANTS[variant]))
        hosts = f'[{{"url": "{bad}", "role": "prefill", "kv_hosts": ["127.0.0.1"]}}]'
        here = await stack.enter_async_context(users(pools, tmp_path, [], [decode[0]], BACKENDS=hosts))
        expected = await here.expect([variant])
        before = pools.decode[0].prompt_tokens()
        assert await here.ask(variant) == expected[variant]
        pulled = pools.decode[0].prompt_tokens_since(before, 1)
        assert (pulled.pulled, pulled.computed > 0) == (0, True)
        assert (await here.count("retries_total", "reason")) | (await here.count("fallback_total", "reason"))


async def test_f10_what_a_frozen_engine_hands_over_when_it_thaws_is_not_used(pools: Pools, tmp_path: Path) -> None:
    prefill, decode = urls(pools)
    async with users(pools, tmp_path, [prefill[0]], [decode[0]]) as here:
        seeds = [f"long-frozen-{number}" for number in range(6)]
        expected = await here.expect(seeds)
        await here.ask("a pair's first time")
        before = pools.decode[0].prompt_tokens()
        asking = [asyncio.ensure_future(here.ask(seed)) for seed in seeds]  # noqa: TID251 - awaited below
        await asyncio.sleep(0.2)
        await asyncio.to_thread(pools.signal, "prefill-0", "STOP")
        await asyncio.sleep(LEASE_S + 1)
        await asyncio.to_thread(pools.signal, "prefill-0", "CONT")
        assert await asyncio.gather(*asking) == list(expected.values())
        reasons = await here.count("fallback_total", "reason")
        decoded = pools.decode[0].prompt_tokens_since(before, 1)
        assert decoded.computed > 0, reasons
        assert reasons


@pytest.mark.parametrize("streams", [0, 12], ids=["idle", "saturated"])
async def test_f12_kv_is_free_in_time_after_an_abort_between_the_legs(
    pools: Pools, tmp_path: Path, streams: int, record_property: Callable[[str, object], None]
) -> None:
    prefill, decode = urls(pools)
    async with contextlib.AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(holding_proxy(prefill[0], "from_engine", HANDED_OVER))
        here = await stack.enter_async_context(users(pools, tmp_path, [proxy.url], [decode[0]]))
        proxy.go.set()
        await here.ask("a pair's first time")
        assert pools.prefill[0].at_rest()
        proxy.held.clear()
        proxy.go.clear()
        endless = body("busy", stream=True, max_tokens=3000, ignore_eos=True)
        busy = [here.http.stream("POST", decode[0] + COMPLETIONS, json=endless) for _ in range(streams)]
        for stream in busy[:8]:  # as many as run; the others wait in the engine
            await stack.enter_async_context(stream)
        waiting = [asyncio.ensure_future(stream.__aenter__()) for stream in busy[8:]]  # noqa: TID251 - cancelled below
        await asyncio.sleep(0.5)
        asking = asyncio.ensure_future(here.ask("left"))  # noqa: TID251 - cancelled below
        await proxy.held.wait()
        assert pools.prefill[0].kv_usage > 0
        asking.cancel()
        await asyncio.sleep(0.03)
        left_at = time.monotonic()
        proxy.go.set()
        assert await asyncio.to_thread(until, lambda: not pools.prefill[0].kv_usage, 2.0)
        record_property("released_after_s", round(time.monotonic() - left_at, 3))
        print(f"\nKV free {time.monotonic() - left_at:.2f} s after the abort, {streams} streams on decode")
        for task in waiting:
            task.cancel()


async def test_f12_without_a_release_kv_is_held_for_the_lease(pools: Pools) -> None:
    kept = body("kept", max_tokens=1, kv_transfer_params={"do_remote_decode": True})
    async with httpx.AsyncClient(timeout=60) as http:
        (await http.post(pools.prefill[0].url + COMPLETIONS, json=kept)).raise_for_status()
    since = time.monotonic()
    assert await asyncio.to_thread(until, lambda: not pools.prefill[0].kv_usage, LEASE_S + 10)
    print(f"\nKV free {time.monotonic() - since:.2f} s after the prompt, released by nobody")
    assert time.monotonic() - since > LEASE_S - 2


async def test_f20_streams_end_well_when_the_gateway_is_told_to_stop(pools: Pools, tmp_path: Path) -> None:
    texts: list[str] = []

    async def read(here: Users, number: int) -> None:
        asked = body(f"stop-{number}", stream=True, max_tokens=150, ignore_eos=True)
        async with here.http.stream("POST", here.gateway.url + COMPLETIONS, json=asked) as answer:
            texts.append((await answer.aread()).decode())

    async with asyncio.TaskGroup() as group:
        async with users(pools, tmp_path, *urls(pools)) as here:
            for number in range(16):
                group.create_task(read(here, number))

            async def streaming() -> bool:
                return (await here.count("inflight_requests", "pool")).get("decode", 0) == 16

            assert await until_async(streaming, 10)
            http, here.http = here.http, httpx.AsyncClient()  # theirs is closed when they are done
            stopping = asyncio.get_running_loop().time()
        assert asyncio.get_running_loop().time() - stopping < 20
    await http.aclose()
    assert len(texts) == 16
    assert all(text.endswith("data: [DONE]\n\n") and '"error"' not in text for text in texts)
    assert pools.at_rest()
