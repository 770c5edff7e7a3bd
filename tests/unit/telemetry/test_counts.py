import time

import pytest
from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as openmetrics

from router.telemetry import counts
from router.telemetry.counts import Counts
from router.telemetry.events import RouteKind


def told(registry: CollectorRegistry) -> tuple[str, str]:
    """The page in both formats."""
    return generate_latest(registry).decode(), openmetrics(registry).decode()  # type: ignore[no-untyped-call]


def test_counts_add_up_and_series_stay_apart() -> None:
    registry = CollectorRegistry()
    tokens = Counts("tokens", "Tokens.", ("model", "kind"), registry)
    for by in (3, 4):
        tokens.inc(("m", "prompt"), by)
    tokens.inc(("m", "generated"))
    assert registry.get_sample_value("tokens_total", {"model": "m", "kind": "prompt"}) == 7
    assert registry.get_sample_value("tokens_total", {"model": "m", "kind": "generated"}) == 1


def test_a_name_is_given_once() -> None:
    registry = CollectorRegistry()
    Counts("tokens", "Tokens.", ("kind",), registry)
    with pytest.raises(ValueError, match="Duplicated"):
        Counts("tokens", "Tokens.", ("kind",), registry)


def test_a_series_begins_with_its_first_count_be_that_0() -> None:
    registry = CollectorRegistry()
    tokens = Counts("tokens", "Tokens.", ("kind",), registry)
    assert registry.get_sample_value("tokens_total", {"kind": "reused"}) is None
    tokens.inc(("reused",), 0)
    assert registry.get_sample_value("tokens_total", {"kind": "reused"}) == 0


@pytest.mark.parametrize("created", [True, False])
def test_the_page_is_as_with_the_librarys_own(monkeypatch: pytest.MonkeyPatch, created: bool) -> None:
    monkeypatch.setattr(time, "time", lambda: 1.5)
    monkeypatch.setattr(counts, "WITHOUT_CREATED", not created)
    monkeypatch.setattr("prometheus_client.metrics._use_created", created)
    ours, librarys = CollectorRegistry(), CollectorRegistry()
    made = Counts("tokens", "Tokens.", ("route", "kind"), ours)
    counter = Counter("tokens", "Tokens.", ("route", "kind"), registry=librarys)
    for kind, by in (("a", 2), ('"b"\\\n', 5)):
        made.inc((RouteKind.LOCAL, kind), by)
        counter.labels("local", kind).inc(by)
    assert told(ours) == told(librarys)
    assert ("tokens_created" in told(ours)[0]) is created
