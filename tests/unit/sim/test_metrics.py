"""The /metrics page."""

from prometheus_client.parser import text_string_to_metric_families

from router.sim import metrics
from router.sim.config import SimConfig
from router.sim.ledger import Gauges
from router.sim.metrics import Counters, Histogram


def samples(page: bytes) -> dict[tuple[str, ...], float]:
    """Values by name and labels, the engine's own labels left out."""
    return {
        (
            sample.name,
            *(f"{key}={value}" for key, value in sample.labels.items() if key not in ("engine", "model_name")),
        ): sample.value
        for family in text_string_to_metric_families(page.decode())
        for sample in family.samples
    }


def test_names_labels_and_values_are_those_of_vllm() -> None:
    counters = Counters(prompt_tokens=60, external_kv_transfer_tokens=40, local_compute_tokens=20, failed_transfers=2)
    counters.transfer_bytes.observe(2_000_000.0)
    gauges = Gauges(requests_running=3, requests_waiting=4, blocks_in_use=25, blocks_free=75)
    page = samples(metrics.page(SimConfig(role="decode", kv_blocks=100), counters, gauges))
    assert page["vllm:num_requests_running",] == 3
    assert page["vllm:num_requests_waiting",] == 4
    assert page["vllm:kv_cache_usage_perc",] == 0.25
    assert page["vllm:prompt_tokens_total",] == 60
    assert page["vllm:prompt_tokens_by_source_total", "source=external_kv_transfer"] == 40
    assert page["vllm:prompt_tokens_by_source_total", "source=local_compute"] == 20
    assert page["vllm:prompt_tokens_by_source_total", "source=local_cache_hit"] == 0
    assert page["vllm:nixl_bytes_transferred_count",] == 1
    assert page["vllm:nixl_bytes_transferred_sum",] == 2_000_000
    assert page["vllm:nixl_num_failed_transfers_total",] == 2
    assert page["vllm:cache_config_info", "block_size=16", "num_gpu_blocks=100"] == 1


def test_every_sample_names_the_model() -> None:
    page = metrics.page(SimConfig(model='a"b\\c'), Counters(), Gauges()).decode()
    named = [
        sample.labels.get("model_name")
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name != "vllm:cache_config_info"
    ]
    assert set(named) == {'a"b\\c'}


def test_an_engine_without_connector_has_no_transfer_metrics() -> None:
    assert b"nixl" not in metrics.page(SimConfig(role="aggregated"), Counters(), Gauges())


def test_buckets_are_cumulative() -> None:
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 99.0):
        histogram.observe(value)
    assert (histogram.buckets, histogram.count, histogram.total) == ([2, 1, 1], 4, 102.0)
    counters = Counters(first_token_s=histogram)
    page = samples(metrics.page(SimConfig(), counters, Gauges()))
    name = "vllm:time_to_first_token_seconds_bucket"
    assert [page[name, f"le={bound}"] for bound in ("1.0", "2.0", "+Inf")] == [2, 3, 4]
