import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as openmetrics

from router.telemetry.histogram import BulkHistogram


def histogram(registry: CollectorRegistry) -> BulkHistogram:
    return BulkHistogram("gap_seconds", "Gaps.", ("model",), (0.01, 0.1), registry)


def test_observations_land_in_cumulative_buckets() -> None:
    registry = CollectorRegistry()
    histogram(registry).observe_all(("m",), [0.005, 0.01, 0.05, 3.0])
    assert registry.get_sample_value("gap_seconds_bucket", {"model": "m", "le": "0.01"}) == 2
    assert registry.get_sample_value("gap_seconds_bucket", {"model": "m", "le": "0.1"}) == 3
    assert registry.get_sample_value("gap_seconds_bucket", {"model": "m", "le": "+Inf"}) == 4
    assert registry.get_sample_value("gap_seconds_count", {"model": "m"}) == 4
    assert registry.get_sample_value("gap_seconds_sum", {"model": "m"}) == 3.065


def test_a_name_is_given_once() -> None:
    registry = CollectorRegistry()
    histogram(registry)
    with pytest.raises(ValueError, match="Duplicated"):
        histogram(registry)


def test_batches_add_up_and_series_stay_apart() -> None:
    registry = CollectorRegistry()
    gaps = histogram(registry)
    gaps.observe_all(("a",), [0.5])
    gaps.observe_all(("a",), [0.5])
    gaps.observe_all(("b",), [])
    assert registry.get_sample_value("gap_seconds_count", {"model": "a"}) == 2
    assert registry.get_sample_value("gap_seconds_count", {"model": "b"}) == 0


def test_one_observation_counts_like_many() -> None:
    registry = CollectorRegistry()
    gaps = histogram(registry)
    gaps.observe(("m",), 0.01)
    gaps.observe(("m",), 0.02)
    assert registry.get_sample_value("gap_seconds_bucket", {"model": "m", "le": "0.01"}) == 1
    assert registry.get_sample_value("gap_seconds_sum", {"model": "m"}) == 0.03


def test_prometheus_can_read_it() -> None:
    registry = CollectorRegistry()
    histogram(registry).observe_all(("m",), [0.05])
    assert 'gap_seconds_bucket{le="0.1",model="m"} 1.0' in generate_latest(registry).decode()


def test_a_bucket_shows_the_last_that_has_a_trace() -> None:
    registry = CollectorRegistry()
    gaps = histogram(registry)
    for value, trace_id in ((0.02, "aa"), (0.03, "bb"), (0.04, None)):
        gaps.observe(("m",), value, trace_id)
    page = openmetrics(registry).decode()  # type: ignore[no-untyped-call]
    (line,) = (line for line in page.splitlines() if "# {" in line)
    assert line.startswith('gap_seconds_bucket{le="0.1",model="m"} 3.0 # {trace_id="bb"} 0.03 ')
    assert "trace_id" not in generate_latest(registry).decode()
