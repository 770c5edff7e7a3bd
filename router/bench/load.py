"""How does a gateway do under load? Closed loop: clients that ask again; open loop: arrivals at a fixed rate.

In the open loop a request's latencies count from when it was due, not from when it could be sent: a gateway that
delays the sending of requests would otherwise hide the delay (coordinated omission).
"""

import asyncio
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import httpx

from router.bench.answer import Answer, WrongAnswer

RETRY_PAUSE_S = 0.01
LETTERS = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True, slots=True)
class Plan:
    """What is asked. `rate` is requests per second of the open loop; None is the closed loop of `streams` clients."""

    model: str
    streams: int = 8
    rate: float | None = None
    requests: int = 100
    tokens: int = 64
    prompt_bytes: int = 2048
    prompts: int = 16
    same_text: bool = False
    extra_body: dict[str, Any] = field(default_factory=dict)

    def body(self, number: int) -> dict[str, Any]:
        """The request with a number; numbers that differ by a multiple of `prompts` share their prompt."""
        return {
            "model": self.model,
            "messages": [{"role": "user", "content": self._prompt(number % self.prompts)}],
            "max_tokens": self.tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
            **self.extra_body,
        }

    def _prompt(self, number: int) -> str:
        """Words of three letters; the number comes first, so that prompts share no prefix."""
        letters = random.Random(number).choices(LETTERS, k=self.prompt_bytes)
        letters[3::4] = " " * len(letters[3::4])
        return f"{number}: {''.join(letters)}"[: self.prompt_bytes]


@dataclass(slots=True)
class Record:
    """What came of a load; times in seconds. `faults` counts what went wrong by its text."""

    ttft_s: list[float] = field(default_factory=list)
    inter_event_s: list[float] = field(default_factory=list)
    total_s: list[float] = field(default_factory=list)
    tokens: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    elapsed_s: float = 0
    texts: dict[int, str] = field(default_factory=dict)


async def run(client: httpx.AsyncClient, plan: Plan) -> Record:
    """Make all requests of the plan and wait for their answers."""
    record, clock = Record(), asyncio.get_running_loop().time
    begin_s = clock()
    numbers = iter(range(plan.requests))
    async with asyncio.TaskGroup() as group:
        if plan.rate is None:
            for _ in range(min(plan.streams, plan.requests)):
                group.create_task(_ask_again_and_again(client, plan, record, numbers))
        else:
            for number in numbers:
                due_s = begin_s + number / plan.rate
                await asyncio.sleep(due_s - clock())
                group.create_task(_one(client, plan, record, number, due_s))
    record.elapsed_s = clock() - begin_s
    return record


async def _ask_again_and_again(client: httpx.AsyncClient, plan: Plan, record: Record, numbers: Iterator[int]) -> None:
    clock = asyncio.get_running_loop().time
    for number in numbers:
        if not await _one(client, plan, record, number, clock()):
            await asyncio.sleep(RETRY_PAUSE_S)


async def _one(client: httpx.AsyncClient, plan: Plan, record: Record, number: int, due_s: float) -> bool:
    """Ask once; only right answers are counted."""
    clock = asyncio.get_running_loop().time
    try:
        answer = await _ask(client, plan, number)
        if plan.same_text:
            answer.compare(record.texts.setdefault(number % plan.prompts, answer.text))
    except WrongAnswer as wrong:
        record.faults[str(wrong)] += 1
        return False
    except httpx.HTTPError as error:
        record.faults[f"{type(error).__name__}: {error}".rstrip(": ")] += 1
        return False
    record.ttft_s.append(answer.at_s[0] - due_s)
    record.inter_event_s += [later - earlier for earlier, later in pairwise(answer.at_s)]
    record.total_s.append(clock() - due_s)
    record.tokens += answer.completion_tokens or 0
    return True


async def _ask(client: httpx.AsyncClient, plan: Plan, number: int) -> Answer:
    answer = Answer(plan.tokens)
    async with client.stream("POST", "/v1/chat/completions", json=plan.body(number)) as response:
        if response.is_error:
            raise WrongAnswer(
                f"status {response.status_code}: {(await response.aread())[:200].decode(errors='replace')}"
            )
        await answer.read(response.aiter_lines(), asyncio.get_running_loop().time)
    return answer
