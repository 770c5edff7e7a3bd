"""What Prometheus sees of the autoscaler, for whatever starts and stops engines by it."""

from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from router.scaling.autoscaler import Autoscaler
from router.telemetry.metrics import PREFIX


class ScalingMetrics(Collector):
    """The engines that each pool should have, as they were wanted at the last look."""

    def __init__(self, autoscaler: Autoscaler) -> None:
        self._autoscaler = autoscaler

    def collect(self) -> Iterator[Metric]:
        """The gauge as of now."""
        family = GaugeMetricFamily(
            f"{PREFIX}_desired_replicas", "Engines that a pool of a model should have.", labels=("model", "pool")
        )
        for model, role, replicas in self._autoscaler.desired():
            family.add_metric((model, role.value), replicas)
        yield family
