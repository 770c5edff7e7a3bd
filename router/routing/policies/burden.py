"""What has each engine of a pool to do? Comparable inside the pool, also where its engines are not equally fast.

The gateway's own accounting is exact and at once; what an engine says that it has from others is added. An engine that
was seen to be slower than the median of its pool has as much more to do, the call that is to be placed included; one
that is not known is as fast as that.
"""

import random
from collections.abc import Sequence

from router.call import Call
from router.fleet.backend import Backend
from router.routing.policies.weights import Weights
from router.settings.engines import Role

OTHERS_PROMPT_TOKENS = 2048
"""A request of somebody else, on a prefill engine; its length is not known."""

STREAM_TOKENS = 500
"""What a stream costs beside its KV, as KV: 15 us a step, and 31 ns for each token (fitted to an H200)."""

KV_WORTH = 0.2
"""What holding a token costs a decode engine, against computing one: 31 ns a step over some 350 steps of an answer are
11 us; a prefill engine needs 27 to 50 us for a token."""

SAME_SPEED = 1.25
"""Engines that differ by less than this factor are equally fast: batches and pauses make as much difference."""

TRIED_SHARE = 1 / 32

MOST = 16.0
"""Times that an engine counts as slower or faster than the median, at most."""


PREFILL = Role.PREFILL
"""Every request asks for it several times: looking a member up takes longer than comparing with it."""


def tokens_ahead(engine: Backend) -> int:
    """Prompt tokens that an engine has to compute already."""
    if engine.role is PREFILL:
        return engine.load.tokens + OTHERS_PROMPT_TOKENS * engine.load.others_requests
    return engine.load.local_tokens


def line_tokens(engines: Sequence[Backend]) -> list[float]:
    """What each engine of a pool has to do, in tokens to be computed, comparable with those of a prompt."""
    loads = [engine.load for engine in engines]  # no call per engine: it is done for each request
    if engines[0].role is PREFILL:
        return [load.tokens + OTHERS_PROMPT_TOKENS * load.others_requests for load in loads]
    return [
        KV_WORTH * (load.tokens + load.others_kv_tokens + STREAM_TOKENS * (load.requests + load.others_requests))
        for load in loads
    ]


def pending_tokens(engines: Sequence[Backend]) -> list[float]:
    """The same in tokens of the pool's median engine: as many as that would compute meanwhile."""
    line, slow = line_tokens(engines), slowness(engines)
    return line if slow is None else [tokens * times for tokens, times in zip(line, slow, strict=True)]


def works(engines: Sequence[Backend], call: Call, slow: Sequence[float] | None) -> list[tuple[float, float]]:
    """What each would have to do with one more call, for policies that look at load only.

    A prefill engine's work is its tokens: it computes prompts one after the other. A decode engine's is its streams:
    each step serves all of them, and a prompt's length matters less. What an engine in its slow start has counts more.
    """
    times, own_tokens = slow or [1.0] * len(engines), call.prompt_tokens
    return [_work(engine, each, own_tokens) for engine, each in zip(engines, times, strict=True)]


def weighed(engines: Sequence[Backend], call: Call) -> Weights[tuple[float, float]]:
    """The same, with what it is made of."""
    slow = slowness(engines)
    parts: dict[str, Sequence[object]] = {
        "requests": [engine.load.requests for engine in engines],
        "tokens": [engine.load.tokens for engine in engines],
        "others_requests": [engine.load.others_requests for engine in engines],
        "slowness": slow or [1.0] * len(engines),
        "share": [engine.standing.share for engine in engines],
    }
    return Weights(works(engines, call, slow), parts)


def slowness(engines: Sequence[Backend]) -> list[float] | None:
    """How many times slower than the median of them each is; None where they are equally fast, or not known."""
    if engines[0].role is PREFILL:
        speeds = [engine.paces.compute.tokens_per_s for engine in engines]
    else:
        speeds = [engine.paces.decode.tokens_per_s for engine in engines]
    known = list(filter(None, speeds))
    if not known or max(known) <= SAME_SPEED * min(known):
        return None
    median = sorted(known)[len(known) // 2]
    return [_bounded(median / speed) if speed else 1.0 for speed in speeds]


def slowness_for_pick(engines: Sequence[Backend], rng: random.Random) -> list[float] | None:
    """The same, but for a small part of all choices, which take the engines for equally fast.

    One that was slow for a while would not be asked again else, so that nobody would hear that it is not any more.
    """
    slow = slowness(engines)
    return None if slow is not None and rng.random() < TRIED_SHARE else slow


def _bounded(times: float) -> float:
    if 1 / SAME_SPEED <= times <= SAME_SPEED:
        return 1.0
    return min(max(times, 1 / MOST), MOST)


def _work(engine: Backend, times: float, own_tokens: int) -> tuple[float, float]:
    load, share = engine.load, engine.standing.share
    requests = times * ((load.requests + load.others_requests) / share + 1)
    if engine.role is PREFILL:
        return times * (tokens_ahead(engine) / share + own_tokens), requests
    return requests, times * ((load.tokens + load.others_kv_tokens) / share + own_tokens)
