"""One router, all chats: what did the engines have to compute, and how long did people wait?"""

import asyncio
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import quantiles

import httpx

from bench.chats.conversations import Chat, Load, Message, body, chats
from bench.compare.processes import machine_cpu_s
from bench.compare.routers import Router, url
from bench.faults.engines import Engine
from bench.faults.fates import Fate, fate
from bench.faults.stand import Stand, serving
from router.bench.client import asker, request
from router.call import Api
from router.sim.text import reference_text

CACHES: Mapping[str, Sequence[str]] = {"prefill": ("--kv-blocks", "6144"), "decode": ("--kv-blocks", "8192")}
"""98,000 and 131,000 tokens: the chats that are going on fit into all engines of a pool together, and into no one."""

TOKEN = re.compile(rb'"content": ?"[^"]')
COUNTER = re.compile(r'^vllm:(\w+?)(?:_total)?\{[^}]*?(?:source="(\w+)")?\} (\S+)$', re.MULTILINE)
PATIENCE_S = 60


@dataclass(slots=True)
class Heard:
    """What the clients saw."""

    ttft_s: list[float] = field(default_factory=list)
    later_ttft_s: list[float] = field(default_factory=list)
    """Of the turns after the first."""
    fates: Counter[str] = field(default_factory=Counter)
    prompt_tokens: int = 0
    repeated_tokens: int = 0
    """Of the prompts, what the chat's turn before had already, its answer included: the most that caches can save,
    beside what chats have in common."""


@dataclass(frozen=True, slots=True)
class Result:
    """The figures of one router in one round. Loads are the busiest engine of a pool against its mean."""

    router: str
    round: int
    fates: Mapping[str, int]
    prompt_tokens: int
    repeated_tokens: int
    computed_tokens: int
    """Of prompts, on all engines: each is computed once where nothing is reused."""
    prefill_computed_tokens: int
    pulled_tokens: int
    ttft_p50_s: float
    ttft_p90_s: float
    later_ttft_p50_s: float
    later_ttft_p90_s: float
    prefill_max_over_mean: float
    """By prompt tokens computed."""
    decode_max_over_mean: float
    """By tokens generated."""
    seconds: float
    cpu_cores: float
    """Of the whole machine, meanwhile."""

    @property
    def reuse(self) -> float:
        """Share of the prompts' tokens that no engine computed."""
        return 1 - self.computed_tokens / self.prompt_tokens


async def trial(stand: Stand, router: Router, load: Load, number: int) -> Result:
    """Start engines and a router, have the chats of a round, and read the engines' counters. Raises `NotReady`."""
    async with (
        httpx.AsyncClient(timeout=10, trust_env=False) as http,
        serving(stand, router, CACHES, http) as fleet,
    ):
        before = await _read(http, [*fleet.prefill, *fleet.decode])
        clock, cpu_s = asyncio.get_running_loop().time, machine_cpu_s()
        begin_s, heard = clock(), Heard()
        async with asyncio.TaskGroup() as group:
            for chat in chats(load, seed=number):
                group.create_task(_converse(url(stand.place.port), chat, load, heard))
        took_s = clock() - begin_s
        cores = (machine_cpu_s() - cpu_s) / took_s
        after = await _read(http, [*fleet.prefill, *fleet.decode])
        grown = [late - early for late, early in zip(after, before, strict=True)]
        prefill, decode = grown[: len(fleet.prefill)], grown[len(fleet.prefill) :]
    return result(router.name, number, heard, (prefill, decode), (took_s, cores))


async def _converse(where: str, chat: Chat, load: Load, heard: Heard) -> None:
    """One chat from its beginning to its end, or to the first answer that is not right."""
    await asyncio.sleep(chat.begin_s)
    messages: list[Message] = [{"role": "system", "content": chat.system}]
    known_tokens = 0
    for says, think_s in zip(chat.says, chat.think_s, strict=True):
        await asyncio.sleep(think_s)
        messages.append({"role": "user", "content": says})
        asked = body(messages, load.answer_tokens)
        right = reference_text(asked["model"], "chat", asked)
        heard.prompt_tokens += right.prompt_tokens
        heard.repeated_tokens += known_tokens
        ended = await _ask(where, asked, heard, first=not known_tokens)
        heard.fates[ended] += 1
        if ended is not Fate.RIGHT:
            return
        known_tokens = right.prompt_tokens + right.completion_tokens
        messages.append({"role": "assistant", "content": right.text})


async def _ask(where: str, asked: dict[str, object], heard: Heard, *, first: bool) -> Fate:
    """One turn; its time to the first token counts if its answer is right."""
    clock = asyncio.get_running_loop().time
    begin_s = clock()
    began_s: float | None = None
    try:
        async with asyncio.timeout(PATIENCE_S), asker(where) as one:
            one.send(request(Api.CHAT, asked))
            while not one.reply.complete and await one.read():
                if began_s is None and TOKEN.search(one.reply.body):
                    began_s = clock()
    except TimeoutError:
        return Fate.UNANSWERED
    except OSError:
        return Fate.CUT
    ended = fate(one.reply, asked)
    if ended is Fate.RIGHT and began_s is not None:
        heard.ttft_s.append(began_s - begin_s)
        if not first:
            heard.later_ttft_s.append(began_s - begin_s)
    return ended


async def _read(http: httpx.AsyncClient, engines: Iterable[Engine]) -> list[Counter[str]]:
    """What each engine has counted."""
    return [counters((await http.get(f"{engine.url}/metrics")).raise_for_status().text) for engine in engines]


def counters(page: str) -> Counter[str]:
    """The counters of a page of metrics: by the source of tokens where there is one, else by name."""
    return Counter({source or name: int(float(value)) for name, source, value in COUNTER.findall(page)})


def result(
    router: str, number: int, heard: Heard, grown: tuple[Sequence[Counter[str]], Sequence[Counter[str]]],
    took: tuple[float, float],
) -> Result:  # fmt: skip
    """The figures of a trial, by what the clients saw and by how the counters of each pool's engines have grown."""
    prefill, decode = grown
    computed = [engine["local_compute"] for engine in prefill]
    ttft, later = _deciles(heard.ttft_s), _deciles(heard.later_ttft_s)
    return Result(
        router=router,
        round=number,
        fates={str(ended): count for ended, count in sorted(heard.fates.items())},
        prompt_tokens=heard.prompt_tokens,
        repeated_tokens=heard.repeated_tokens,
        computed_tokens=sum(computed) + sum(engine["local_compute"] for engine in decode),
        prefill_computed_tokens=sum(computed),
        pulled_tokens=sum(engine["external_kv_transfer"] for engine in decode),
        ttft_p50_s=ttft[4],
        ttft_p90_s=ttft[8],
        later_ttft_p50_s=later[4],
        later_ttft_p90_s=later[8],
        prefill_max_over_mean=_uneven(computed),
        decode_max_over_mean=_uneven([engine["generation_tokens"] for engine in decode]),
        seconds=took[0],
        cpu_cores=took[1],
    )


def _deciles(values: Sequence[float]) -> list[float]:
    return quantiles(values, n=10, method="inclusive") if len(values) > 1 else [float("nan")] * 9


def _uneven(work: Sequence[float]) -> float:
    return max(work) * len(work) / sum(work) if any(work) else float("nan")
