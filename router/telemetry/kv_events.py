"""How far is what engines are thought to hold from what they say they hold? Of engines whose KV events are followed."""

from collections.abc import Callable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from router.fleet.backend import Backend
from router.fleet.fleet import Fleet
from router.telemetry.metrics import PREFIX

BY_BACKEND = ("pool", "backend")

COUNTERS = {
    "batches": "Batches of KV events that an engine published and the gateway took in.",
    "gaps": "Times that batches of KV events were missing.",
    "replays": "Times that an engine was asked to repeat batches of KV events.",
    "restarts": "Times that an engine's KV events began anew.",
}
"""By the field of `Holdings` that has them."""


class KvEventMetrics(Collector):
    """Read when Prometheus asks; `estimate` is in tokens, None where nothing is estimated."""

    def __init__(self, fleet: Fleet, estimate: Callable[[Backend], float] | None) -> None:
        self._fleet = fleet
        self._estimate = estimate

    def collect(self) -> Iterator[Metric]:
        """The metrics as of now."""
        held = GaugeMetricFamily(
            f"{PREFIX}_kv_held_tokens", "Tokens in an engine's KV cache, by its KV events.", labels=BY_BACKEND
        )
        error = GaugeMetricFamily(
            f"{PREFIX}_kv_estimate_error_tokens",
            "Tokens that an engine was thought to hold, less those that it holds by its KV events.",
            labels=BY_BACKEND,
        )
        counters = {
            field: CounterMetricFamily(f"{PREFIX}_kv_event_{field}", text, labels=BY_BACKEND)
            for field, text in COUNTERS.items()
        }
        for backend in self._fleet.backends:
            if (holdings := backend.holdings) is None:
                continue
            labels = (backend.role.value, backend.id)
            held.add_metric(labels, holdings.tokens)
            if self._estimate is not None:
                error.add_metric(labels, self._estimate(backend) - holdings.tokens)
            for field, counter in counters.items():
                counter.add_metric(labels, getattr(holdings, field))
        yield from (held, error, *counters.values())
