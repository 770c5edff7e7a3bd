"""Is what the index says an engine has cached what the engine then finds in its cache? With KV events, on a small pool.

The gateway runs in this process, where its index can be asked.
"""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from router.call import Api, Trace, understand
from router.fleet.backend import Backend
from router.routing.prefix.prefixes import Prefixes
from router.settings.loading import load
from tests.support.books import gateway
from tests.support.openai_sdk import random_prompt
from tests.support.vllm_fleet import Engine, Engines, vllm_engines

pytestmark = pytest.mark.timeout(180, func_only=True)

CHAT = "/v1/chat/completions"
BLOCK_TOKENS = 128
POOL_TOKENS = 64 * BLOCK_TOKENS
WORDS = 700
"""A prompt of some 2,350 tokens: three fit into a pool."""

ESTIMATE = 0.1
"""Share of a prompt by which its length is misjudged at most, once a few prompts were counted."""


@pytest.fixture(scope="module")
def pair() -> Iterator[Engines]:
    """Engines with KV events and 16 MiB for KV, in a folder whose sockets have short names."""
    folder = Path(tempfile.mkdtemp(prefix="pd-kv-"))
    try:
        options = ("--kv-events", "--kv-cache-mib", "16", "--", "--enable-prompt-tokens-details")
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("VLLM_SERVER_DEV_MODE", "1")  # for /reset_prefix_cache
            with vllm_engines("tiny", folder, *options) as started:
                yield started
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class Site:
    """A gateway, a client, and what the gateway thinks."""

    url: str
    client: httpx.AsyncClient
    prefill: Backend
    decode: Backend
    prefixes: Prefixes

    async def ask(self, seed: str, url: str | None = None) -> int:
        """Cached tokens by the engine that computed the prompt, which goes to the gateway unless a URL is given."""
        answer = await self.client.post((url or self.url) + CHAT, json=body(seed))
        answer.raise_for_status()
        return int(answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"])

    def thinks(self, seed: str, engine: Backend) -> int:
        """Tokens of a prompt that the gateway thinks an engine holds."""
        call = understand(Api.CHAT, body(seed), Trace("a question"))
        call.prompt_tokens = self.prefixes.sizes.tokens(call)
        return self.prefixes.cached_tokens(call, engine)

    async def told(self) -> None:
        """Give events the time of an engine's step."""
        await asyncio.sleep(0.5)


def body(seed: str) -> dict[str, Any]:
    messages = [{"role": "user", "content": random_prompt(WORDS, seed)}]
    return {"model": "tiny", "messages": messages, "max_tokens": 8, "temperature": 0}


@pytest.fixture
async def site(pair: Engines) -> AsyncIterator[Site]:
    """A gateway that follows both engines, and has counted some prompts."""
    async with httpx.AsyncClient(timeout=60, trust_env=False) as client:
        engines = [(pair.prefill.url, "prefill"), (pair.decode.url, "decode")]
        backends = [{"url": url, "role": role, "kv_events": await source(client, url)} for url, role in engines]
        sections = {
            "listen": {"host": "127.0.0.1", "port": 0},
            "ops": {"port": 0},
            "routing": {"rule": "thresholds", "min_novel_tokens": 256, "min_concurrency": 0},
            "pairs": {"warm_up": False},
            "drain": {"drain_accept_s": 0, "drain_timeout_s": 1},
        }
        async with gateway(load(flags=sections | {"backends": backends}, environ={})) as started:
            prefixes = started.app.data._gateway.chooser.prefixes
            assert prefixes is not None
            prefill, decode = started.app.fleet.backends
            here = Site(started.data_url, client, prefill, decode, prefixes)
            for number in range(8):
                await here.ask(f"first {number}")
            await here.told()
            yield here
            started.stop_now()


async def source(client: httpx.AsyncClient, url: str) -> dict[str, Any]:
    """What an engine tells of its events."""
    told = (await client.get(f"{url}/kv_event_sources")).json()["0"]
    return {name: told[name] for name in ("endpoint", "replay_endpoint", "topic")}


def about(tokens: int, other: int) -> bool:
    """Equal but for the estimate of a prompt's length and its last block, which is not full."""
    return abs(tokens - other) <= ESTIMATE * max(tokens, other) + BLOCK_TOKENS


async def test_what_the_index_says_is_cached_is_what_the_engines_find(pair: Engines, site: Site) -> None:
    assert (site.thinks("A", site.prefill), site.thinks("A", site.decode)) == (0, 0)
    assert await site.ask("A") == 0
    await site.told()
    thought = site.thinks("A", site.decode)
    before = pair.decode.prompt_tokens()
    cached = await site.ask("A")  # stays on decode
    grown = pair.decode.prompt_tokens_since(before, expected=cached)
    assert (grown.cached, grown.pulled) == (cached, 0)
    assert about(thought, cached), (thought, cached)
    assert cached > 2000


async def test_what_others_made_it_evict_is_known(pair: Engines, site: Site) -> None:
    await site.ask("B")
    await site.told()
    assert site.thinks("B", site.decode) > 2000
    seen = []
    for number in range(4):  # behind the gateway's back
        await site.ask(f"other {number}", pair.decode.url)
        await site.told()
        seen.append((site.thinks("B", site.decode), await found(pair.decode, site, "B") if number == 3 else None))
    thoughts = [thought for thought, _ in seen]
    assert thoughts == sorted(thoughts, reverse=True)
    assert (thoughts[-1], seen[-1][1]) == (0, 0)
    assert about(site.thinks("B", site.prefill), await found(pair.prefill, site, "B"))


async def test_a_part_that_is_left_is_known(pair: Engines, site: Site) -> None:
    await site.ask("C")
    await site.told()
    left = []
    for number in range(3):
        await site.ask(f"another {number}", pair.decode.url)
        await site.told()
        left.append(site.thinks("C", site.decode))
        if 0 < left[-1] < 0.8 * left[0]:
            break
    cached = await found(pair.decode, site, "C")
    assert 0 < cached < 2000
    assert about(left[-1], cached), (left, cached)


async def test_all_that_it_holds_is_counted(pair: Engines, site: Site) -> None:
    for engine in (site.prefill, site.decode):
        assert engine.holdings is not None
        assert engine.holdings.complete
        assert engine.holdings.sessions
        assert POOL_TOKENS / 2 < engine.holdings.tokens <= POOL_TOKENS


async def test_a_cleared_cache_is_known_with_the_engines_next_step(pair: Engines, site: Site) -> None:
    await site.ask("D")
    await site.told()
    assert site.thinks("D", site.decode) > 2000
    (await site.client.post(f"{pair.decode.url}/reset_prefix_cache")).raise_for_status()
    await site.ask("a step", pair.decode.url)
    await site.told()
    assert site.thinks("D", site.decode) == 0
    assert site.thinks("D", site.prefill) > 2000
    assert await found(pair.decode, site, "D") == 0


async def test_an_engine_that_restarts_begins_anew(pair: Engines, site: Site) -> None:
    await site.ask("E")
    await asyncio.to_thread(pair.restart, "decode-0")
    assert site.decode.holdings is not None
    while not site.decode.standing.usable:
        await site.told()
    assert site.thinks("E", site.decode) == 0
    await site.ask("E")
    await site.ask("E")
    await site.told()
    cached = await found(pair.decode, site, "E")
    assert about(site.thinks("E", site.decode), cached)
    assert (cached > 2000, site.decode.holdings.complete) == (True, True)


async def found(engine: Engine, site: Site, seed: str) -> int:
    """Tokens of a prompt that an engine finds in its cache when it is asked by itself."""
    before = engine.prompt_tokens()
    cached = await site.ask(seed, engine.url)
    assert engine.prompt_tokens_since(before, expected=cached + 1).cached == cached
    return cached
