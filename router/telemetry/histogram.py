"""A histogram that takes many observations at once: a stream's worth of inter-token times for the price of few.

prometheus-client's own takes a lock and walks the buckets for each observation; for one per token that is 8 % of a
stream's CPU. This one is only ever touched from the event loop, so it needs no lock.
"""

import time
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence

from prometheus_client import CollectorRegistry
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar

Bucket = tuple[str, float] | tuple[str, float, Exemplar]
"""Upper bound, observations up to it, and an example of those in it."""


class BulkHistogram(Collector):
    """Observations by label values; `bounds` are the buckets' upper bounds, ascending, without infinity."""

    def __init__(
        self, name: str, text: str, labels: Sequence[str], bounds: Sequence[float], registry: CollectorRegistry
    ) -> None:
        self._name, self._text, self.labels = name, text, tuple(labels)
        self._bounds = tuple(bounds)
        self._counts: dict[tuple[str, ...], list[int]] = {}
        self._sums: dict[tuple[str, ...], float] = {}
        self._exemplars: dict[tuple[tuple[str, ...], int], Exemplar] = {}
        registry.register(self)

    def observe(self, labels: tuple[str, ...], value: float, trace_id: str | None = None) -> None:
        """Add one value to the series of `labels`; of one with a trace, its bucket keeps the last as an example."""
        bucket = bisect_left(self._bounds, value)
        self._series(labels)[bucket] += 1
        self._sums[labels] += value
        if trace_id is not None:
            self._exemplars[labels, bucket] = Exemplar({"trace_id": trace_id}, value, time.time())

    def observe_all(self, labels: tuple[str, ...], values: Sequence[float]) -> None:
        """Add many values to the series of `labels`."""
        counts, bounds = self._series(labels), self._bounds
        for value in values:
            counts[bisect_left(bounds, value)] += 1
        self._sums[labels] += sum(values)

    def collect(self) -> Iterator[Metric]:
        """The family, with cumulative buckets."""
        family = HistogramMetricFamily(self._name, self._text, labels=self.labels)
        for labels, counts in self._counts.items():
            family.add_metric(labels, buckets=list(self._cumulative(labels, counts)), sum_value=self._sums[labels])
        yield family

    def _series(self, labels: tuple[str, ...]) -> list[int]:
        counts = self._counts.get(labels)
        if counts is None:
            counts = self._counts[labels] = [0] * (len(self._bounds) + 1)
            self._sums[labels] = 0.0
        return counts

    def _cumulative(self, labels: tuple[str, ...], counts: Iterable[int]) -> Iterator[Bucket]:
        total = 0
        names = [*(str(float(bound)) for bound in self._bounds), "+Inf"]
        for bucket, (name, count) in enumerate(zip(names, counts, strict=True)):
            total += count
            exemplar = self._exemplars.get((labels, bucket))
            yield (name, float(total)) if exemplar is None else (name, float(total), exemplar)
