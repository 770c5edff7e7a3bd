"""How many engines' worth of work does a pool have? Pure functions: its load in, engines out, and what decided.

An engine's worth is one engine at the limit of what it can do, by whichever measure is the tightest. Prefill is bound
by compute: tokens against the peak that was measured. Decode is bound by its batch, its KV cache and its pace.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from router.settings.scaling import Autoscale


class Signal(StrEnum):
    """What a pool is measured by."""

    THROUGHPUT = "throughput"
    BACKLOG = "backlog"
    REQUESTS = "requests"
    KV_USAGE = "kv_usage"
    INTER_TOKEN_TIME = "inter_token_time"  # noqa: S105


@dataclass(frozen=True, slots=True)
class PrefillLoad:
    """Of one model's prefill engines, as means over a time.

    `novel_tokens_per_s` are those that were computed or should have been, `novel_tokens` those in flight and in line;
    `peak_tokens_per_s` is what one engine computes when it is never idle.
    """

    novel_tokens_per_s: float
    novel_tokens: float
    peak_tokens_per_s: float


@dataclass(frozen=True, slots=True)
class DecodeLoad:
    """Of one model's engines that answer, as means over a time.

    `requests` are in flight and in line, `requests_per_engine` may be at once (0: any number). Of the engines that
    tell: `kv_usage_ratios`, and the seconds between two tokens of a stream.
    """

    requests: float
    requests_per_engine: int
    kv_usage_ratios: tuple[float, ...] = ()
    inter_token_s: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Demand:
    """`engines`' worth of work, by the tightest of the `signals`."""

    engines: float
    signal: Signal
    signals: Mapping[Signal, float]


def prefill_demand(load: PrefillLoad, rules: Autoscale) -> Demand:
    """By what comes in, and by what has piled up against the time in which it should be done.

    The backlog alone would not do: it is small in a pool that just manages, and does not tell what fewer would manage.
    """
    peak = load.peak_tokens_per_s
    return _tightest(
        {
            Signal.THROUGHPUT: rules.gateways * load.novel_tokens_per_s / peak,
            Signal.BACKLOG: rules.gateways * load.novel_tokens / (peak * rules.prefill_wait_s),
        }
    )


def decode_demand(load: DecodeLoad, rules: Autoscale) -> Demand:
    """By requests against permits, by KV in use, and by the time between tokens.

    The time is summed engine by engine: one that has just come and has hardly a stream adds hardly anything, so that
    what was asked for is not asked for again while the streams of before are still on the engines of before.
    """
    signals = {
        Signal.KV_USAGE: sum(load.kv_usage_ratios),
        Signal.INTER_TOKEN_TIME: sum(load.inter_token_s) / rules.inter_token_s,
    }
    if load.requests_per_engine:
        signals[Signal.REQUESTS] = rules.gateways * load.requests / load.requests_per_engine
    return _tightest(signals)


def _tightest(signals: Mapping[Signal, float]) -> Demand:
    signal = max(signals, key=lambda name: signals[name])
    return Demand(signals[signal], signal, signals)
