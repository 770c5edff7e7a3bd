"""What does an engine count, and how does its /metrics page look?

Names and labels are those of vLLM 0.32, so that whatever reads a real engine reads this one.
"""

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field

from router.sim.config import SimConfig
from router.sim.ledger import Gauges

SECONDS_BUCKETS = (
    0.001,
    0.005,
    0.01,
    0.02,
    0.04,
    0.06,
    0.08,
    0.1,
    0.25,
    0.5,
    0.75,
    1.0,
    2.5,
    5.0,
    7.5,
    10.0,
    20.0,
    40.0,
)
BYTES_BUCKETS = tuple(float(1 << exponent) for exponent in range(20, 36, 2))


@dataclass
class Histogram:
    """A Prometheus histogram over fixed upper bounds."""

    bounds: tuple[float, ...] = SECONDS_BUCKETS
    total: float = 0.0
    count: int = 0
    buckets: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        """One bucket per bound and one for what lies above."""
        self.buckets = [0] * (len(self.bounds) + 1)

    def observe(self, value: float) -> None:
        """Count one value."""
        self.buckets[bisect_left(self.bounds, value)] += 1
        self.total += value
        self.count += 1


@dataclass
class Counters:
    """Everything that only grows, since the engine process started."""

    prompt_tokens: int = 0
    generation_tokens: int = 0
    local_compute_tokens: int = 0
    local_cache_hit_tokens: int = 0
    external_kv_transfer_tokens: int = 0
    prefix_cache_queries: int = 0
    preemptions: int = 0
    finished: dict[str, int] = field(default_factory=lambda: {"stop": 0, "length": 0, "abort": 0, "error": 0})
    transfer_bytes: Histogram = field(default_factory=lambda: Histogram(BYTES_BUCKETS))
    transfer_s: Histogram = field(default_factory=Histogram)
    failed_transfers: int = 0
    expired_handoffs: int = 0
    late_notifications: int = 0
    first_token_s: Histogram = field(default_factory=Histogram)
    request_s: Histogram = field(default_factory=Histogram)


def page(config: SimConfig, counters: Counters, gauges: Gauges) -> bytes:
    """The metrics page in Prometheus text format."""
    lines = [*_families(_Writer(config.model), config, counters, gauges)]
    return ("\n".join(lines) + "\n").encode()


def _families(write: "_Writer", config: SimConfig, counters: Counters, gauges: Gauges) -> Iterator[str]:
    blocks = gauges.blocks_in_use + gauges.blocks_free
    yield from write.one("num_requests_running", "gauge", gauges.requests_running)
    yield from write.one("num_requests_waiting", "gauge", gauges.requests_waiting)
    yield from write.many(
        "num_requests_waiting_by_reason", "gauge", "reason", {"capacity": gauges.requests_waiting, "deferred": 0}
    )
    yield from write.one("kv_cache_usage_perc", "gauge", gauges.blocks_in_use / blocks if blocks else 0.0)
    yield from write.one("num_preemptions_total", "counter", counters.preemptions)
    yield from write.one("prompt_tokens_total", "counter", counters.prompt_tokens)
    yield from write.one("generation_tokens_total", "counter", counters.generation_tokens)
    yield from write.many("prompt_tokens_by_source_total", "counter", "source", _sources(counters))
    yield from write.one("prefix_cache_queries_total", "counter", counters.prefix_cache_queries)
    yield from write.one("prefix_cache_hits_total", "counter", counters.local_cache_hit_tokens)
    yield from write.many("request_success_total", "counter", "finished_reason", counters.finished)
    yield from write.histogram("time_to_first_token_seconds", counters.first_token_s)
    yield from write.histogram("e2e_request_latency_seconds", counters.request_s)
    if config.has_connector:
        yield from write.histogram("nixl_xfer_time_seconds", counters.transfer_s)
        yield from write.histogram("nixl_bytes_transferred", counters.transfer_bytes)
        yield from write.one("nixl_num_failed_transfers_total", "counter", counters.failed_transfers)
        yield from write.one("nixl_num_kv_expired_reqs_total", "counter", counters.expired_handoffs)
        yield from write.one("nixl_num_notifications_after_expiry_total", "counter", counters.late_notifications)
    size = f'block_size="{config.block_size_tokens}",engine="0",num_gpu_blocks="{config.kv_blocks}"'
    yield from write.header("cache_config_info", "gauge")
    yield f"vllm:cache_config_info{{{size}}} 1.0"


def _sources(counters: Counters) -> dict[str, int]:
    return {
        "local_compute": counters.local_compute_tokens,
        "local_cache_hit": counters.local_cache_hit_tokens,
        "external_kv_transfer": counters.external_kv_transfer_tokens,
    }


class _Writer:
    """Lines of metric families, all with the engine's own labels."""

    def __init__(self, model: str) -> None:
        escaped = model.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
        self._labels = f'engine="0",model_name="{escaped}"'

    def header(self, name: str, kind: str) -> Iterator[str]:
        family = name.removesuffix("_total") if kind == "counter" else name
        yield f"# HELP vllm:{name} Simulated {family.replace('_', ' ')}."
        yield f"# TYPE vllm:{name} {kind}"

    def one(self, name: str, kind: str, value: float) -> Iterator[str]:
        yield from self.header(name, kind)
        yield f"vllm:{name}{{{self._labels}}} {float(value)}"

    def many(self, name: str, kind: str, label: str, values: dict[str, int]) -> Iterator[str]:
        yield from self.header(name, kind)
        for key, value in values.items():
            yield f'vllm:{name}{{{self._labels},{label}="{key}"}} {float(value)}'

    def histogram(self, name: str, histogram: Histogram) -> Iterator[str]:
        yield from self.header(name, "histogram")
        below = 0
        for bound, count in zip((*histogram.bounds, "+Inf"), histogram.buckets, strict=True):
            below += count
            yield f'vllm:{name}_bucket{{{self._labels},le="{bound}"}} {float(below)}'
        yield f"vllm:{name}_count{{{self._labels}}} {float(histogram.count)}"
        yield f"vllm:{name}_sum{{{self._labels}}} {histogram.total}"
