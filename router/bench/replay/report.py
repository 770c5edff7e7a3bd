"""What is told of replays: a row per policy beside what pooled caches would reuse, for people and for programs."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import zip_longest
from typing import Any

from router.bench.replay.oracle import Oracle, belady_reused_tokens, lru_reused_tokens, pooled
from router.bench.replay.replay import Record, Shape, rules_of
from router.bench.replay.trace import Request

COLUMNS = (
    "reuse_share_of_oracle",
    "reused_tokens",
    "computed_tokens",
    "ttft_p50_s",
    "ttft_p90_s",
    "ttft_p99_s",
    "max_over_mean_load",
    "decision_us_p50",
)


@dataclass(frozen=True, slots=True)
class Bound:
    """What is possible with these caches; Belady's figure is for all prompts in one cache of the decode pool's size."""

    oracle: Oracle
    belady_found_tokens: int


def bound(requests: Sequence[Request], shape: Shape) -> Bound:
    """For the fleet of a replay."""
    prefill, decode = shape.prefill * shape.prefill_cache_tokens, shape.decode * shape.decode_cache_tokens
    oracle = pooled(requests, prefill, decode, rules_of(shape, "prefix_aware"))
    return Bound(oracle, belady_reused_tokens(requests, decode))


def percentile(values: Sequence[float], share: float) -> float:
    """By the nearest rank below; of nothing, 0."""
    ordered = sorted(values)
    return ordered[int(share * (len(ordered) - 1))] if ordered else 0.0


def row(policy: str, record: Record, oracle: Oracle, shape: Shape) -> dict[str, Any]:
    """The figures of one policy. Reuse is told as a share of what pooled caches would have reused.

    `prefill_reuse_share` is of the prompts that this policy sent to prefill, `decode_reuse_share` of all.
    """
    of_prefill = lru_reused_tokens(record.prefilled, shape.prefill * shape.prefill_cache_tokens)
    loads = {role.value: max_over_mean(work) for role, work in record.work_s.items()}
    return {
        "policy": policy,
        "reuse_share_of_oracle": _share(record.reused_tokens, oracle.reused_tokens),
        "prefill_reuse_share": _share(record.prefill_reused_tokens, of_prefill),
        "decode_reuse_share": _share(record.decode_found_tokens, oracle.decode_found_tokens),
        "reused_tokens": record.reused_tokens,
        "computed_tokens": record.computed_tokens,
        **{f"ttft_p{share}_s": round(percentile(record.ttft_s, share / 100), 4) for share in (50, 90, 99)},
        "max_over_mean_load": max(loads.values()),
        "max_over_mean_load_by_pool": loads,
        "decision_us_p50": round(percentile(record.decision_us, 0.5), 1),
        "reasons": {str(reason): count for reason, count in record.reasons.most_common()},
    }


def max_over_mean(work_s: Iterable[Mapping[int, float]]) -> float:
    """How much more the busiest engine of a pool had to do than the mean, over the whole time."""
    totals = [sum(work.values()) for work in work_s]
    mean = sum(totals) / len(totals)
    return round(max(totals) / mean, 4) if mean else 1.0


def tree(requests: Sequence[Request], shape: Shape, bounds: Bound, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Everything, as it is written to a file."""
    return {
        "requests": len(requests),
        "prompt_tokens": sum(request.input_tokens for request in requests),
        "fleet": asdict(shape),
        "oracle": {
            "reused_tokens": bounds.oracle.reused_tokens,
            **asdict(bounds.oracle),
            "belady_found_tokens": bounds.belady_found_tokens,
        },
        "policies": list(rows),
    }


def text(figures: dict[str, Any]) -> str:
    """The same for people: a row per policy, the oracle's below."""
    oracle = figures["oracle"]
    cells = [["policy", *COLUMNS]]
    cells += [[policy["policy"], *(f"{policy[name]:,}" for name in COLUMNS)] for policy in figures["policies"]]
    cells.append(["oracle (pooled LRU)", "1.0", f"{oracle['reused_tokens']:,}"])
    return "\n".join([*_aligned(cells), "", *_remarks(figures)]) + "\n"


def _aligned(cells: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip_longest(*cells, fillvalue="")]
    for first, *others in cells:
        rest = (f"{cell:>{width}}" for cell, width in zip(others, widths[1:], strict=False))
        yield "  ".join([f"{first:<{widths[0]}}", *rest])


def _remarks(figures: dict[str, Any]) -> Iterator[str]:
    """Reuse pool by pool, and what a better eviction would find."""
    for policy in figures["policies"]:
        yield (
            f"{policy['policy']}: of what pooled caches reuse, prefill {policy['prefill_reuse_share']} and decode "
            f"{policy['decode_reuse_share']}; {', '.join(f'{n} {reason}' for reason, n in policy['reasons'].items())}"
        )
    oracle = figures["oracle"]
    yield (
        f"of {figures['prompt_tokens']:,} prompt tokens, one cache of decode's size finds "
        f"{oracle['decode_found_tokens']:,} by LRU, {oracle['belady_found_tokens']:,} by Belady's optimum"
    )


def _share(part: int, whole: int) -> float:
    """Where there is nothing to be reused, all of it is."""
    return round(part / whole, 4) if whole else 1.0
