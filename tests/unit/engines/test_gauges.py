import pytest

from router.engines.gauges import Gauges, read_gauges

PAGE = b"""\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 3.0
vllm:num_requests_running{engine="1",model_name="m"} 4.0
vllm:num_requests_waiting{engine="0",model_name="m"} 2.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="m",reason="capacity"} 2.0
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.25
vllm:kv_cache_usage_perc{engine="1",model_name="m"} 0.75
vllm:prompt_tokens_total{engine="0",model_name="m"} 1.5e+06
vllm:prompt_tokens_by_source_total{engine="0",model_name="m",source="local_compute"} 7.0
vllm:generation_tokens_total{engine="0",model_name="m"} 12.0
vllm:generation_tokens_created{engine="0",model_name="m"} 1.7e+09
vllm:nixl_xfer_time_seconds_bucket{engine="0",le="0.1",model_name="m"} 3.0
vllm:nixl_xfer_time_seconds_sum{engine="0",model_name="m"} 0.25
vllm:nixl_xfer_time_seconds_count{engine="0",model_name="m"} 4.0
vllm:nixl_num_failed_transfers_total{engine="0",model_name="m"} 1.0
vllm:nixl_num_kv_expired_reqs_total{engine="0",model_name="m"} 2.0
"""


def test_the_lines_that_matter_are_found_and_added_up() -> None:
    assert read_gauges(PAGE) == Gauges(2, 7, 0.5, 1_500_012.0, 0.25, 4.0, 1.0, 2.0, 12.0)


def test_a_line_without_labels_counts() -> None:
    gauges = read_gauges(b"vllm:generation_tokens_total 5\nvllm:num_requests_waiting 1")
    assert gauges == Gauges(waiting=1, running=0, kv_usage_ratio=0.0, tokens=5.0, generated_tokens=5.0)


@pytest.mark.parametrize(
    "page",
    [
        b"",
        b"<html>",
        b"vllm:num_requests_running 3",
        b"not_vllm:generation_tokens_total 3",
        b"vllm:generation_tokens_total{} 1.2.3",
        b"# vllm:generation_tokens_total 3",
        b"vllm:generation_tokens_total 1e999",
        b"vllm:generation_tokens_total 1\nvllm:num_requests_running 1e999",
        b"vllm:generation_tokens_total 1\nvllm:num_requests_running 1e308\nvllm:num_requests_running 1e308",
    ],
)
def test_other_pages_tell_nothing(page: bytes) -> None:
    assert read_gauges(page) is None
