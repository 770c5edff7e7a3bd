"""How long do simulated engines take? Prefill engines compute prompts in turn, decode engines all streams at once.

The same costs as those of `router.sim`, in closed form: between two events a decode engine's batch does not change, and
the time of any number of its steps is a quadratic in that number. So an hour of a fleet takes seconds.
"""

import heapq
import math
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from router.bench.replay.kv_cache import KvCache
from router.bench.replay.timeline import Timeline
from router.bench.replay.trace import Request
from router.engines.gauges import Gauges
from router.sim.latency import LatencyProfile, PrefillChunk

CHUNK_TOKENS = 8192
"""`max_num_batched_tokens` of the engines that `router.sim` is fitted to."""

SLICE_S = 60.0
"""Work is told by the minute."""

Computed = Callable[[int], None]
Began = Callable[[float, int], None]
Ended = Callable[[], None]


def slice_of(at_s: float) -> int:
    """In which slice of time something was."""
    return int(at_s / SLICE_S)


def chunks(novel_tokens: int, context_tokens: int) -> list[PrefillChunk]:
    """How a prompt is computed, chunk after chunk, behind what is cached of it."""
    starts = range(0, novel_tokens, CHUNK_TOKENS)
    return [PrefillChunk(min(CHUNK_TOKENS, novel_tokens - start), context_tokens + start) for start in starts]


class PrefillEngine:
    """One prompt after the other. `work_s` are seconds of computing in each slice of time."""

    def __init__(self, timeline: Timeline, profile: LatencyProfile, cache: KvCache) -> None:
        self.cache = cache
        self.work_s: dict[int, float] = defaultdict(float)
        self._timeline = timeline
        self._profile = profile
        self._waiting: deque[tuple[Request, Computed]] = deque()
        self._busy = False

    def submit(self, request: Request, computed: Computed) -> None:
        """`computed` hears when the prompt is, and how much of it was cached. The caller releases its KV."""
        self._waiting.append((request, computed))
        if not self._busy:
            self._next()

    def _next(self) -> None:
        self._busy = bool(self._waiting)
        if not self._busy:
            return
        request, computed = self._waiting.popleft()
        cached = self.cache.acquire(request)
        novel = request.input_tokens - cached
        took_s = sum(
            self._profile.step_s(decode_seqs=0, decode_kv_tokens=0, chunks=[chunk]) for chunk in chunks(novel, cached)
        )
        self.work_s[slice_of(self._timeline.now_s)] += took_s

        def done() -> None:
            computed(cached)
            self._next()

        self._timeline.at(self._timeline.now_s + took_s, done)


@dataclass(slots=True)
class _Stream:
    request: Request
    began: Began
    ended: Ended
    cached: int = 0
    local: bool = False


@dataclass(slots=True)
class _Batch:
    """The running streams: `steps` done by `at_s`, the KV that they hold, and at which step each ends.

    `generated_tokens` are those of all streams that there have been.
    """

    at_s: float = 0.0
    steps: int = 0
    kv_tokens: int = 0
    generated_tokens: int = 0
    ends: list[tuple[int, int, _Stream]] = field(default_factory=list)


class DecodeEngine:
    """A batch of streams; each step gives all of them a token.

    A prompt that is computed here holds the streams up: while it runs, they get one token per chunk. `work_s` are
    seconds of streams in each slice of time.
    """

    def __init__(self, timeline: Timeline, profile: LatencyProfile, cache: KvCache, link_tokens_per_s: float) -> None:
        self.cache = cache
        self.work_s: dict[int, float] = defaultdict(float)
        self._timeline = timeline
        self._profile = profile
        self._link_tokens_per_s = link_tokens_per_s
        self._link_free_s = 0.0
        self._batch = _Batch()
        self._waiting: deque[_Stream] = deque()
        self._prompts: deque[_Stream] = deque()
        self._computing = False
        self._numbers = 0
        self._plan = 0

    def submit(self, request: Request, began: Began, ended: Ended, *, local: bool) -> None:
        """`began` hears of the first token, and how much was cached; `local`: the prompt is computed here."""
        self._waiting.append(_Stream(request, began, ended, local=local))
        self._admit()

    def gauges(self) -> Gauges:
        """What it would tell of itself now."""
        self._advance()
        generated_tokens = self._batch.generated_tokens
        return Gauges(
            waiting=len(self._waiting),
            running=len(self._batch.ends) + len(self._prompts) + self._computing,
            kv_usage_ratio=min(1.0, self.cache.in_use_tokens / self.cache.capacity_tokens),
            tokens=generated_tokens,
            generated_tokens=generated_tokens,
        )

    def _admit(self) -> None:
        """Take in who waits, in order, as far as there is room for the KV."""
        while self._waiting:
            stream = self._waiting[0]
            needed = stream.request.input_tokens + stream.request.output_tokens
            if self.cache.in_use_tokens and self.cache.in_use_tokens + needed > self.cache.capacity_tokens:
                return
            self._waiting.popleft()
            stream.cached = self.cache.acquire(stream.request)
            if stream.local:
                self._prompts.append(stream)
                self._compute_next()
            else:
                self._pull(stream)

    def _pull(self, stream: _Stream) -> None:
        missing = stream.request.input_tokens - stream.cached
        begins_s = max(self._timeline.now_s, self._link_free_s)
        self._link_free_s = begins_s + missing / self._link_tokens_per_s
        self._timeline.at(self._link_free_s, lambda: self._join(stream))

    def _compute_next(self) -> None:
        if self._computing or not self._prompts:
            return
        self._advance()
        self._computing = True
        self._plan += 1  # no stream ends meanwhile
        stream = self._prompts.popleft()
        novel = stream.request.input_tokens - stream.cached
        pieces = chunks(novel, stream.cached)
        took_s = sum(self._step_s(chunk) for chunk in pieces)
        self._timeline.at(self._batch.at_s + took_s, lambda: self._computed(stream, len(pieces)))

    def _computed(self, stream: _Stream, steps: int) -> None:
        """A prompt is there, with its first token; the streams had a token for each of its chunks."""
        batch = self._batch
        batch.at_s = self._timeline.now_s
        self._count(steps)
        self._computing = False
        self._add(stream)
        stream.began(self._timeline.now_s, stream.cached)
        self._compute_next()
        self._replan()

    def _join(self, stream: _Stream) -> None:
        """A prompt's KV has arrived: the first token comes with the next whole step."""
        self._advance()
        boundary_s = self._batch.at_s if self._computing or not self._batch.ends else self._batch.at_s + self._step_s()
        self._add(stream)
        stream.began(max(boundary_s, self._timeline.now_s) + self._step_s(), stream.cached)
        self._replan()

    def _add(self, stream: _Stream) -> None:
        self._numbers += 1
        ends_at = self._batch.steps + stream.request.output_tokens
        heapq.heappush(self._batch.ends, (ends_at, self._numbers, stream))
        self._batch.kv_tokens += stream.request.input_tokens

    def _step_s(self, chunk: PrefillChunk | None = None) -> float:
        streams, kv_tokens = len(self._batch.ends), self._batch.kv_tokens
        return self._profile.step_s(
            decode_seqs=streams, decode_kv_tokens=kv_tokens, chunks=[] if chunk is None else [chunk]
        )

    def _advance(self) -> None:
        """Count the steps that are over by now, unless a prompt holds them up."""
        batch = self._batch
        if self._computing:
            return
        if not batch.ends:
            batch.at_s = self._timeline.now_s
            return
        steps = self._steps_in(self._timeline.now_s - batch.at_s)
        self._do(min(steps, batch.ends[0][0] - batch.steps))

    def _do(self, steps: int) -> None:
        batch = self._batch
        took_s = self._time_of(steps)
        batch.at_s += took_s
        self.work_s[slice_of(batch.at_s)] += took_s * len(batch.ends)
        self._count(steps)

    def _count(self, steps: int) -> None:
        """Each stream has a token more for each step."""
        batch = self._batch
        batch.steps += steps
        batch.kv_tokens += steps * len(batch.ends)
        batch.generated_tokens += steps * len(batch.ends)

    def _time_of(self, steps: int) -> float:
        """Each step takes a little longer than the one before, as every stream has one token more."""
        growth_s = self._profile.decode_per_kv_token_s * len(self._batch.ends)
        return steps * self._step_s() + growth_s * steps * (steps - 1) / 2

    def _steps_in(self, time_s: float) -> int:
        half_growth_s = self._profile.decode_per_kv_token_s * len(self._batch.ends) / 2
        linear_s = self._step_s() - half_growth_s
        if not half_growth_s:
            return int(time_s / linear_s) if linear_s else 1 << 60
        root = math.sqrt(linear_s * linear_s + 4 * half_growth_s * max(time_s, 0.0))
        return int((root - linear_s) / (2 * half_growth_s) + 1e-9)

    def _replan(self) -> None:
        """Look again when the next stream ends."""
        self._plan += 1
        if self._computing or not self._batch.ends:
            return
        plan = self._plan
        due_s = self._batch.at_s + self._time_of(max(0, self._batch.ends[0][0] - self._batch.steps))
        self._timeline.at(max(due_s, self._timeline.now_s), lambda: self._due(plan))

    def _due(self, plan: int) -> None:
        if plan != self._plan:
            return
        batch = self._batch
        self._do(max(0, batch.ends[0][0] - batch.steps))
        while batch.ends and batch.ends[0][0] <= batch.steps:
            _, _, stream = heapq.heappop(batch.ends)
            batch.kv_tokens -= stream.request.input_tokens + stream.request.output_tokens
            self.cache.release(stream.request)
            stream.ended()
        self._admit()
        self._replan()
