"""One run: simulated engines, each a process of its own, a gateway in this one, and requests at their times."""

import asyncio
import math
import random
import signal
import sys
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import orjson
from prometheus_client.parser import text_string_to_metric_families

from router.app import Running, running
from router.bench.client import asker, request
from router.call import Api
from router.settings.loading import load

MODEL = "sim-8b"
DECODE_STEP_S = 0.02
ENGINE = ("--gpu", "h200", "--kv-blocks", "32768", "--decode-step-s", str(DECODE_STEP_S))
"""Prompts are computed as by an H200; a step of decode is long, so that hundreds of events a second are enough."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One request: when it comes, and how long it is."""

    at_s: float
    prompt_tokens: int
    answer_tokens: int
    kind: str = ""


@dataclass(slots=True)
class Told:
    """What came of one request; `ttft_s` from when it was due, for ever where the answer was an error."""

    ask: Ask
    ttft_s: float
    gaps_s: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Run:
    """What came of all; `reasons` counts the decisions."""

    told: Sequence[Told]
    reasons: dict[str, int]


async def run(engines: Sequence[tuple[str, float]], routing: dict[str, Any], asks: Iterable[Ask]) -> Run:
    """`engines` are role and GB/s of each. Prompts have nothing in common."""
    async with AsyncExitStack() as held:
        backends = [await held.enter_async_context(_engine(role, link, i)) for i, (role, link) in enumerate(engines)]
        gateway = await held.enter_async_context(_gateway(backends, routing))
        told = await _ask_all(gateway.data_url, list(asks))
        return Run(told, await _reasons(gateway.ops_url))


async def _ask_all(url: str, asks: Sequence[Ask]) -> list[Told]:
    begin_s = asyncio.get_running_loop().time()
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_ask(url, ask, number, begin_s)) for number, ask in enumerate(asks)]
    return [task.result() for task in tasks]


async def _ask(url: str, ask: Ask, number: int, begin_s: float) -> Told:
    clock = asyncio.get_running_loop().time
    await asyncio.sleep(begin_s + ask.at_s - clock())
    rng = random.Random(number)
    text = "".join(f"{rng.randrange(1000):3} " for _ in range(ask.prompt_tokens))
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": text}],
        "max_tokens": ask.answer_tokens,
        "stream": True,
    }
    told, last_s = Told(ask, 0.0), 0.0
    async with asker(url) as one:
        one.send(request(Api.CHAT, body))
        while not one.reply.complete and await one.read():
            if not one.reply.body:
                continue
            now_s = clock()
            if last_s:
                told.gaps_s.append(now_s - last_s)
            else:
                told.ttft_s = now_s - begin_s - ask.at_s
            last_s = now_s
        if one.reply.status != 200 or b"[DONE]" not in one.reply.body or b'"error"' in one.reply.body:
            told.ttft_s = math.inf
    return told


async def _reasons(ops_url: str) -> dict[str, int]:
    async with httpx.AsyncClient(trust_env=False) as client:
        page = (await client.get(f"{ops_url}/metrics")).text
    families = {family.name: family for family in text_string_to_metric_families(page)}
    samples = families["pd_router_decisions"].samples
    return {s.labels["reason"]: int(s.value) for s in samples if s.name.endswith("_total") and s.value}


@asynccontextmanager
async def _gateway(backends: Sequence[dict[str, Any]], routing: dict[str, Any]) -> AsyncIterator[Running]:
    flags = {
        "listen": {"host": "127.0.0.1", "port": 0},
        "ops": {"host": "127.0.0.1", "port": 0},
        "drain": {"drain_accept_s": 0, "drain_timeout_s": 1},
        "routing": {"on_prefill_unavailable": "local"} | routing,
        "backends": backends,
    }
    async with running(load(flags=flags, environ={})) as gateway:
        await _met(gateway)
        yield gateway
        gateway.stop_now()


async def _met(gateway: Running) -> None:
    """Wait until all pairs have met."""
    pairs = gateway.app.pairs
    while not pairs.meetings or pairs.cold:  # noqa: ASYNC110 - the gateway has no event for it
        await asyncio.sleep(0.05)


@asynccontextmanager
async def _engine(role: str, link_gb_per_s: float, seed: int) -> AsyncIterator[dict[str, Any]]:
    command = ("-m", "router", "sim", "--role", role, "--link-gb-per-s", str(link_gb_per_s), "--seed", str(seed))
    process = await asyncio.create_subprocess_exec(sys.executable, *command, *ENGINE, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    try:
        told = orjson.loads(await process.stdout.readline())
        yield {"url": told["url"], "role": role}
    finally:
        process.send_signal(signal.SIGTERM)
        await process.wait()


def percentile(values: Iterable[float], share: float) -> float:
    """By the nearest rank below; of nothing, NaN."""
    ordered = sorted(values)
    return ordered[int(share * (len(ordered) - 1))] if ordered else float("nan")
