"""What an engine's `/metrics` page tells of its work, found by searching for lines.

A page of vLLM has thousands of lines, and a parser of the whole format takes 15 ms for it; the few lines that matter
are found in a fraction of one. Series of several models or data-parallel ranks are added up.
"""

import re
from dataclasses import dataclass
from math import isfinite

LINE = re.compile(
    rb"^vllm:(num_requests_waiting|num_requests_running|kv_cache_usage_perc|prompt_tokens_total|generation_tokens_total"
    rb"|nixl_xfer_time_seconds_sum|nixl_xfer_time_seconds_count|nixl_num_failed_transfers_total"
    rb"|nixl_num_kv_expired_reqs_total)"
    rb"(?:\{[^\n]*\})? ([0-9.e+-]+)",
    re.MULTILINE,
)


@dataclass(frozen=True, slots=True)
class Gauges:
    """Requests that wait in the engine and that run, share of its KV blocks in use; since its start: tokens computed,
    KV transfers with their seconds and failures, requests whose KV nobody pulled before its lease ended, and how many
    of the tokens it generated."""

    waiting: int
    running: int
    kv_usage_ratio: float
    tokens: float
    kv_transfer_s: float = 0.0
    kv_transfers: float = 0.0
    kv_transfer_failures: float = 0.0
    kv_expired: float = 0.0
    generated_tokens: float = 0.0


def read_gauges(page: bytes) -> Gauges | None:
    """The facts in a page; None when it is not one of an engine that counts its tokens, or has no numbers."""
    sums: dict[bytes, list[float]] = {}
    for name, value in LINE.findall(page):
        try:
            sums.setdefault(name, []).append(float(value))
        except ValueError:
            return None
    if b"generation_tokens_total" not in sums or not isfinite(sum(map(sum, sums.values()))):
        return None
    usage = sums.get(b"kv_cache_usage_perc", [0.0])

    def total(name: bytes) -> float:
        return sum(sums.get(name, ()))

    return Gauges(
        waiting=int(total(b"num_requests_waiting")),
        running=int(total(b"num_requests_running")),
        kv_usage_ratio=sum(usage) / len(usage),
        tokens=total(b"generation_tokens_total") + total(b"prompt_tokens_total"),
        kv_transfer_s=total(b"nixl_xfer_time_seconds_sum"),
        kv_transfers=total(b"nixl_xfer_time_seconds_count"),
        kv_transfer_failures=total(b"nixl_num_failed_transfers_total"),
        kv_expired=total(b"nixl_num_kv_expired_reqs_total"),
        generated_tokens=total(b"generation_tokens_total"),
    )
