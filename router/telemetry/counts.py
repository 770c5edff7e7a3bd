"""A counter for what requests count: an addition, where prometheus-client's own takes a lock and five calls.

It is only ever touched from the event loop, so it needs no lock.
"""

import os
import time
from collections.abc import Iterator, Sequence

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

WITHOUT_CREATED = os.environ.get("PROMETHEUS_DISABLE_CREATED_SERIES", "").lower() in ("true", "1", "t")
"""As prometheus-client has it: whether series are shown without the time of their first count."""


class Counts(Collector):
    """Counts by label values. A series is there from its first count on, be that 0."""

    def __init__(self, name: str, text: str, labels: Sequence[str], registry: CollectorRegistry) -> None:
        self._name, self._text, self.labels = name, text, tuple(labels)
        self._counts: dict[tuple[str, ...], int] = {}
        self._created: dict[tuple[str, ...], float] = {}
        registry.register(self)

    def inc(self, labels: tuple[str, ...], by: int = 1) -> None:
        """So many more, at least 0, in the series of `labels`."""
        if labels in self._counts:
            self._counts[labels] += by
        else:
            self._counts[labels] = by
            self._created[labels] = time.time()

    def describe(self) -> Iterator[Metric]:
        """Its name, so that the registry refuses a second one."""
        yield CounterMetricFamily(self._name, self._text, labels=self.labels)

    def collect(self) -> Iterator[Metric]:
        """The family as of now."""
        family = CounterMetricFamily(self._name, self._text, labels=self.labels)
        for labels, count in self._counts.items():
            family.add_metric(labels, float(count), None if WITHOUT_CREATED else self._created[labels])
        yield family
