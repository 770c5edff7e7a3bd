from prometheus_client import CollectorRegistry

from router.fleet.fleet import Fleet
from router.fleet.kv_events.events import Stored
from router.telemetry.kv_events import KvEventMetrics
from tests.support.builders import a_backend


def test_what_engines_hold_and_how_far_the_estimate_is_off() -> None:
    followed, other = a_backend(port=1, kv_events={"endpoint": "tcp://127.0.0.1:1"}), a_backend(port=2)
    assert followed.holdings is not None
    followed.holdings.took(0, 0.0)
    followed.holdings.apply(Stored([1, 2], None, 16))
    followed.holdings.gaps = 3
    registry = CollectorRegistry()
    registry.register(KvEventMetrics(Fleet([followed, other]), lambda _: 40.0))
    labels = {"pool": "decode", "backend": followed.id}

    def value(name: str) -> float | None:
        return registry.get_sample_value(f"pd_router_{name}", labels)

    assert (value("kv_held_tokens"), value("kv_estimate_error_tokens")) == (32, 8)
    assert (value("kv_event_batches_total"), value("kv_event_gaps_total")) == (1, 3)
    assert (value("kv_event_replays_total"), value("kv_event_restarts_total")) == (0, 0)
    assert not [s for f in registry.collect() for s in f.samples if s.labels["backend"] == other.id]


def test_where_nothing_is_estimated_there_is_no_error() -> None:
    registry = CollectorRegistry()
    followed = a_backend(kv_events={"endpoint": "tcp://127.0.0.1:1"})
    registry.register(KvEventMetrics(Fleet([followed]), None))
    names = {s.name for f in registry.collect() for s in f.samples}
    assert "pd_router_kv_held_tokens" in names
    assert "pd_router_kv_estimate_error_tokens" not in names
