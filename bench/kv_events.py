"""What are KV events worth where engines have other clients too, and what do they cost? `python -m bench.kv_events`.

Chats go through a gateway to a simulated pair; prompts of others go to the engines behind its back. For each turn: what
the index thinks that decode holds, against what the engine then finds in its cache.
"""

import asyncio
import random
import tempfile
import time
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import msgspec

from router.app import running
from router.call import Api, Blocks, Trace, understand
from router.fleet.backend import Backend
from router.fleet.kv_events.decode import decode
from router.fleet.kv_events.events import Stored
from router.fleet.kv_events.holdings import Holdings
from router.fleet.kv_events.subscriber import Subscriber, sockets
from router.routing.prefix.blocks import BLOCK_TOKENS
from router.routing.prefix.index import PrefixIndex
from router.routing.prefix.prefixes import Prefixes
from router.routing.prefix.truth import Truth
from router.settings.engines import BackendSettings
from router.settings.fleet import Probes
from router.settings.loading import load
from router.sim.config import Role, SimConfig
from router.sim.engine import SimEngine

CHATS, TURNS, FIRST_TOKENS, TURN_TOKENS = 24, 400, 1500, 200
CACHE_BLOCKS = 4000
BURST, STEP_TOKENS, STEP_BLOCKS = 200, 8192, 512
WAYS = ("without events", "with events")


@dataclass
class Score:
    """Sums over all turns, in tokens; `mistaken` counts turns that stayed on decode for KV that was gone."""

    prompt: int = 0
    cached: int = 0
    too_much: int = 0
    too_little: int = 0
    mistaken: int = 0


class Chats:
    """Chats that go on at random, with texts of so many tokens of the simulated engines."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)
        self._chats = [self.text(FIRST_TOKENS) for _ in range(CHATS)]

    def text(self, tokens: int) -> str:
        """Words that nobody said before."""
        return "".join(f"{self._rng.randrange(1000):3} " for _ in range(tokens))

    def turn(self) -> str:
        """One chat goes on; it begins anew when it is long."""
        number = self._rng.randrange(CHATS)
        chat = self._chats[number] + self.text(TURN_TOKENS)
        self._chats[number] = chat if len(chat) < 4 * 8 * FIRST_TOKENS else self.text(FIRST_TOKENS)
        return chat


@asynccontextmanager
async def pair(folder: Path, way: str) -> AsyncIterator[tuple[SimEngine, str, Prefixes, Backend]]:
    """A prefill and a decode engine, and a gateway in front: the decode engine, the URL, what the gateway thinks."""
    engines = [_engine(folder, "prefill"), _engine(folder, "decode")]
    for engine in engines:
        await engine.start()
    try:
        backends = [_listed(engine, events=way == WAYS[1]) for engine in engines]
        sections = {
            "listen": {"host": "127.0.0.1", "port": 0},
            "ops": {"port": 0},
            "routing": {"min_novel_tokens": 512, "min_concurrency": 0},
            "drain": {"drain_accept_s": 0},
        }
        async with running(load(flags=sections | {"backends": backends}, environ={})) as gateway:
            prefixes = gateway.app.data._gateway.chooser.prefixes  # noqa: SLF001 - looking inside is the point
            assert prefixes is not None
            yield engines[1], gateway.data_url, prefixes, gateway.app.fleet.backends[1]
            gateway.stop_now()
    finally:
        for engine in engines:
            await engine.stop()


def _engine(folder: Path, role: Role) -> SimEngine:
    config = SimConfig(
        role=role,
        time_scale=0,
        kv_blocks=CACHE_BLOCKS,
        kv_events=f"ipc://{folder}/{role}",
        kv_events_replay=f"ipc://{folder}/{role}.replay",
    )
    return SimEngine(config)


def _listed(engine: SimEngine, *, events: bool) -> dict[str, Any]:
    config = engine.config
    rules = {"endpoint": config.kv_events, "replay_endpoint": config.kv_events_replay}
    return {"url": engine.url, "role": config.role} | ({"kv_events": rules} if events else {})


async def play(way: str, others_per_turn: float) -> Score:
    """All turns of all chats, with prompts of others in between."""
    chats, rng, score = Chats(1), random.Random(2), Score()
    with tempfile.TemporaryDirectory() as folder:
        async with pair(Path(folder), way) as (engine, url, prefixes, backend), httpx.AsyncClient(timeout=60) as client:
            send = partial(_ask, client)
            for _ in range(TURNS):
                for _ in range(int(others_per_turn + rng.random())):
                    await send(engine.url, chats.text(rng.randrange(500, 3500)))
                await asyncio.sleep(0.005)  # events are on their way
                text = chats.turn()
                thought = _thought(prefixes, backend, text)
                counters = engine.core.counters
                pulled, cached = counters.external_kv_transfer_tokens, counters.local_cache_hit_tokens
                prompt = await send(url, text)
                pulled = counters.external_kv_transfer_tokens - pulled
                cached = counters.local_cache_hit_tokens - cached
                score.prompt += prompt
                score.cached += cached
                score.too_much += max(0, thought - cached)
                score.too_little += max(0, cached - thought)
                score.mistaken += not pulled and prompt - cached > 1024
    return score


async def _ask(client: httpx.AsyncClient, url: str, text: str) -> int:
    body = {"model": "sim-8b", "messages": [{"role": "user", "content": text}], "max_tokens": 4}
    answer = await client.post(f"{url}/v1/chat/completions", json=body)
    return int(answer.raise_for_status().json()["usage"]["prompt_tokens"])


def _thought(prefixes: Prefixes, backend: Backend, text: str) -> int:
    body = {"model": "sim-8b", "messages": [{"role": "user", "content": text}], "max_tokens": 4}
    call = understand(Api.CHAT, body, Trace("a question"))
    call.prompt_tokens = prefixes.sizes.tokens(call)
    return prefixes.cached_tokens(call, backend)


async def costs() -> AsyncIterator[tuple[str, str]]:
    """What a long prompt's events cost, the memory of what is known, and how long a burst of them holds up the loop."""
    payloads = [_payload(number) for number in range(BURST)]
    begin = time.perf_counter()
    batches = [decode(payload) for payload in payloads]
    yield f"reading a batch of {STEP_TOKENS} tokens, {STEP_BLOCKS} blocks", _us(time.perf_counter() - begin)
    holdings = Holdings()
    begin = time.perf_counter()
    for batch in batches:
        holdings.apply(batch.events[0])
    yield "taking it in", _us(time.perf_counter() - begin)
    del batches, holdings
    yield "memory for each block that an engine holds", f"{_memory_bytes(payloads):.0f} bytes"
    yield f"pauses of the loop while {BURST} such batches come at once, median", f"{await _pause_ms(payloads):.2f} ms"


def _memory_bytes(payloads: list[bytes]) -> float:
    """For one block, with what ties it to blocks of prompts."""
    per_step = STEP_TOKENS // BLOCK_TOKENS
    prompts = [Blocks([random.getrandbits(63) for _ in range(per_step)], BLOCK_TOKENS) for _ in payloads]
    engine, truth = _followed(), Truth(PrefixIndex(10**6, 10**6))
    assert engine.holdings is not None
    tracemalloc.start()
    for number, payload in enumerate(payloads):
        truth.sent(str(number), engine, prompts[number])
        (event,) = decode(payload).events
        assert isinstance(event, Stored)
        truth.stored(engine, event, engine.holdings.apply(event))
    size_bytes = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return size_bytes / (len(payloads) * STEP_BLOCKS)


def _followed() -> Backend:
    rules = {"url": "http://e:1", "role": "decode", "kv_events": {"endpoint": "ipc://e"}}
    return Backend(BackendSettings.model_validate(rules), Probes(), now=0.0)


async def _pause_ms(payloads: list[bytes]) -> float:
    pauses: list[float] = []

    async def watch() -> None:
        while True:
            begin = time.perf_counter()
            await asyncio.sleep(0)
            pauses.append(time.perf_counter() - begin)

    with sockets() as context:
        subscriber = Subscriber(_followed(), context, Truth(PrefixIndex(10**6, 10**6)))
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(watch())
            for number, payload in enumerate(payloads):
                await subscriber._take(number, payload)  # noqa: SLF001 - as it comes from the socket
            watching.cancel()
    return median(pauses) * 1e3


def _payload(number: int) -> bytes:
    event = {
        "type": "BlockStored",
        "block_hashes": [2**63 + STEP_BLOCKS * number + block for block in range(STEP_BLOCKS)],
        "parent_block_hash": None,
        "token_ids": list(range(100_000, 100_000 + STEP_TOKENS)),
        "block_size": STEP_TOKENS // STEP_BLOCKS,
        "session_id": str(number),
    }
    return msgspec.msgpack.encode([float(number), [event], 0])


def _us(total_s: float) -> str:
    return f"{total_s / BURST * 1e6:.0f} us"


async def main() -> None:
    """Print two Markdown tables."""
    print("| others' prompts for each turn | | cached | thought too much | too little | mistaken turns |")
    print("|---|---|---|---|---|---|")
    for others in (0.0, 0.5, 1.0, 2.0):
        for way in WAYS:
            score = await play(way, others)
            shares = (f"{tokens / score.prompt:.1%}" for tokens in (score.cached, score.too_much, score.too_little))
            print(f"| {others:g} | {way} | {' | '.join(shares)} | {score.mistaken} of {TURNS} |")
    print("\n| what | |\n|---|---|")
    async for what, cost in costs():
        print(f"| {what} | {cost} |")


if __name__ == "__main__":
    asyncio.run(main())
