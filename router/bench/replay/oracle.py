"""How much could be reused at best? What one cache for each pool would, as large as those of its engines together.

With the eviction that engines have (least recently used) that is what routing can be held against. Belady's optimum,
which forgets what is needed again last and has to know the future, is for information: no routing changes eviction.

L. A. Belady, "A study of replacement algorithms for a virtual-storage computer", 1966.
"""

import heapq
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from router.bench.replay.kv_cache import KvCache
from router.bench.replay.trace import Request, as_call
from router.routing.disaggregation import Home, Pools, decide
from router.settings.routing import Routing

ALWAYS = Pools(prefill_usable=True, prefill_room=True, decode_usable=True, inflight=sys.maxsize)
"""A fleet in which only the prompt decides."""


@dataclass(frozen=True, slots=True)
class Oracle:
    """Tokens that a fleet would reuse whose pools each had one cache, under the same rule.

    `decode_found_tokens` of the prompts are on decode when they come there, whether they were to be computed or pulled.
    """

    prefill_reused_tokens: int
    local_reused_tokens: int
    decode_found_tokens: int

    @property
    def reused_tokens(self) -> int:
        """Prompt tokens that need not be computed."""
        return self.prefill_reused_tokens + self.local_reused_tokens


def pooled(requests: Sequence[Request], prefill_tokens: int, decode_tokens: int, rules: Routing) -> Oracle:
    """What two LRU caches reuse, each the size of its pool; a prompt is there for the next once it has come."""
    prefill, decode = KvCache(prefill_tokens), KvCache(decode_tokens)
    reused = local = found = 0
    for request in requests:
        held = _pass(decode, request)
        found += held
        remote, _ = decide(as_call(request), Home(held), ALWAYS, rules)
        if remote:
            reused += _pass(prefill, request)
        else:
            local += held
    return Oracle(reused, local, found)


def lru_reused_tokens(requests: Sequence[Request], capacity_tokens: int) -> int:
    """What one LRU cache reuses of all prompts."""
    cache = KvCache(capacity_tokens)
    return sum(_pass(cache, request) for request in requests)


def _pass(cache: KvCache, request: Request) -> int:
    cached = cache.acquire(request)
    cache.release(request)
    return cached


def belady_reused_tokens(requests: Sequence[Request], capacity_tokens: int) -> int:
    """The same with eviction that knows the future."""
    held: dict[int, tuple[float, int]] = {}
    latest: list[tuple[float, int]] = []
    reused = used = 0
    for request, uses in zip(requests, _next_uses(requests), strict=True):
        sizes = [*request.sizes]
        found = takewhile(lambda sized: sized[0] in held, sizes)
        reused += min(sum(size for _, size in found), request.input_tokens - 1)
        for (block, size), use in zip(sizes, uses, strict=True):
            used += 0 if block in held else size
            held[block] = (use, size)
            heapq.heappush(latest, (-use, block))
        while used > capacity_tokens:
            minus_use, block = heapq.heappop(latest)
            if block in held and held[block][0] == -minus_use:
                used -= held.pop(block)[1]
    return reused


def _next_uses(requests: Sequence[Request]) -> list[list[float]]:
    """For each block of each request, the number of the next request that has it."""
    following: dict[int, float] = {}
    uses: list[list[float]] = []
    for number in range(len(requests) - 1, -1, -1):
        blocks = requests[number].blocks
        uses.append([following.get(block, math.inf) for block in blocks])
        following.update(dict.fromkeys(blocks, number))
    uses.reverse()
    return uses
