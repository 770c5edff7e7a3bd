from prometheus_client import CollectorRegistry

from router.telemetry.edge import EdgeMetrics


def test_what_was_turned_away_is_counted_by_why() -> None:
    registry = CollectorRegistry()
    metrics = EdgeMetrics(registry)
    metrics.shed("connections")
    metrics.shed("connections")
    metrics.refused("head_too_large")
    assert registry.get_sample_value("pd_router_shed_total", {"reason": "connections"}) == 2
    assert registry.get_sample_value("pd_router_refused_total", {"code": "head_too_large"}) == 1


def test_connections_are_counted_when_asked() -> None:
    registry = CollectorRegistry()
    connections = [1.0]
    EdgeMetrics(registry).read_connections_from(connections.pop)
    assert registry.get_sample_value("pd_router_connections") == 1


def test_whether_a_key_is_needed_is_told() -> None:
    registry = CollectorRegistry()
    EdgeMetrics(registry).key_required(True)
    assert registry.get_sample_value("pd_router_key_required") == 1
