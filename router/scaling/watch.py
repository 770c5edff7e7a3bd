"""What did a pool have to do of late? Looks at its engines, kept for a while, and their means."""

import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass

from router.engines.gauges import Gauges
from router.scaling.demand import DecodeLoad, PrefillLoad
from router.scaling.work import Done

ENOUGH_BUSY_S = 1.0
"""Work in a window from which a peak can be told; less says more of one prompt than of the engine."""

ENOUGH_TOKENS = 50
"""Generated in a window by an engine whose pace can be told."""

PEAK_MEMORY_S = 3600.0
"""Over which a peak that is not reached any more is forgotten: prompts, models and engines change."""


@dataclass(frozen=True, slots=True)
class Look:
    """One look at a pool: what is in flight and in line, what each engine tells of itself, what was done so far."""

    at: float
    requests: int
    tokens: int
    waiting: int
    gauges: Mapping[str, Gauges]
    done: Done


def summed(counts: Iterable[Done]) -> Done:
    """What was done for several models."""
    return Done(*map(sum, zip(*map(astuple, counts), strict=True)))


class Watch:
    """The looks at one pool of a model over `window_s`; `peak_tokens_per_s` of an engine, as a first guess, is one."""

    def __init__(self, window_s: float, peak_tokens_per_s: float) -> None:
        self._window_s = window_s
        self._looks: deque[Look] = deque()
        self.peak_tokens_per_s = peak_tokens_per_s
        self.peak_measured = False

    def add(self, look: Look) -> None:
        """One more look; those from before the window go."""
        self._looks.append(look)
        while self._looks[0].at < look.at - self._window_s:
            self._looks.popleft()
        if len(self._looks) > 1:
            self._measure_peak()

    @property
    def last(self) -> Look:
        """The last look; there must have been one."""
        return self._looks[-1]

    def prefill_load(self) -> PrefillLoad:
        """As a prefill pool. Prompts in line are as long as those that were computed."""
        first, last = self._looks[0].done, self._looks[-1].done
        prompts = last.prompts - first.prompts
        each = (last.tokens - first.tokens) / prompts if prompts else 0.0
        wanted = last.tokens - first.tokens + last.missed_tokens - first.missed_tokens
        elapsed_s = self.last.at - self._looks[0].at
        return PrefillLoad(
            novel_tokens_per_s=wanted / elapsed_s if elapsed_s else 0.0,
            novel_tokens=_mean([look.tokens + look.waiting * each for look in self._looks]),
            peak_tokens_per_s=self.peak_tokens_per_s,
        )

    def decode_load(self, requests_per_engine: int) -> DecodeLoad:
        """As a pool of engines that answer; of those that are there now."""
        return DecodeLoad(
            requests=_mean([look.requests + look.waiting for look in self._looks]),
            requests_per_engine=requests_per_engine,
            kv_usage_ratios=tuple(
                _mean([look.gauges[engine].kv_usage_ratio for look in self._looks if engine in look.gauges])
                for engine in self.last.gauges
            ),
            inter_token_s=tuple(self._inter_token_s()),
        )

    def _inter_token_s(self) -> Iterator[float]:
        """Engine by engine: the time that streams spent there over the tokens that they got."""
        for engine in self.last.gauges:
            looks = [(look.at, look.gauges[engine]) for look in self._looks if engine in look.gauges]
            stream_s = tokens = 0.0
            for (before, was), (at, now) in itertools.pairwise(looks):
                if now.generated_tokens >= was.generated_tokens:  # else it has started anew
                    tokens += now.generated_tokens - was.generated_tokens
                    stream_s += (at - before) * (was.running + now.running) / 2
            if tokens >= ENOUGH_TOKENS:
                yield stream_s / tokens

    def _measure_peak(self) -> None:
        """The highest rate of late counts: short prompts come at a lower one, which says nothing of long ones."""
        first, last = self._looks[0].done, self._looks[-1].done
        busy_s, tokens = last.busy_s - first.busy_s, last.tokens - first.tokens
        if busy_s < ENOUGH_BUSY_S or tokens <= 0:
            return
        rate = tokens / busy_s
        if not self.peak_measured or rate > self.peak_tokens_per_s:
            self.peak_tokens_per_s, self.peak_measured = rate, True
        else:
            share = min(1.0, (self._looks[-1].at - self._looks[-2].at) / PEAK_MEMORY_S)
            self.peak_tokens_per_s -= share * (self.peak_tokens_per_s - rate)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
