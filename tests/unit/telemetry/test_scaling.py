from prometheus_client import CollectorRegistry

from router.fleet.fleet import Fleet
from router.scaling.autoscaler import Autoscaler, Capacity
from router.scaling.work import PrefillWork
from router.settings.engines import Role
from router.settings.scaling import Autoscale
from router.telemetry.scaling import ScalingMetrics
from tests.support.builders import MODEL, a_backend


def test_what_is_wanted_is_shown_by_model_and_pool() -> None:
    fleet = Fleet([a_backend(Role.PREFILL, 1), a_backend(Role.DECODE, 2), a_backend(Role.DECODE, 3)])
    autoscaler = Autoscaler(fleet, lambda _role, _model: 0, PrefillWork(), Autoscale(), Capacity(1000, 10), lambda: 0.0)
    registry = CollectorRegistry()
    registry.register(ScalingMetrics(autoscaler))
    labels = {"model": MODEL, "pool": "decode"}
    assert registry.get_sample_value("pd_router_desired_replicas", labels) is None
    autoscaler.look()
    assert registry.get_sample_value("pd_router_desired_replicas", labels) == 2
