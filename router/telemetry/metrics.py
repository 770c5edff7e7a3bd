"""What Prometheus sees of the gateway. Labels come from configuration and small enumerations, never from clients.

Histograms have no engine label: series are engines times buckets otherwise. Times between events are collected per
stream and added at its end, see `histogram.py`.
"""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, SummaryMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from router.admission.line import Line
from router.admission.permits import Permits
from router.errors import Outcome
from router.exchange.release import STRANDED_BY
from router.fleet.fleet import Fleet
from router.fleet.links import COMPARED_TOKENS
from router.fleet.pairs import Pairs
from router.fleet.standing import State
from router.settings.engines import Role
from router.telemetry.counts import Counts
from router.telemetry.events import Clock, Journey, RouteKind, Stage
from router.telemetry.histogram import BulkHistogram

PREFIX = "pd_router"

TTFT_BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1, 1.5, 2.5, 5, 10, 30, 60)
"""Around the usual objectives of 200 ms to 2 s, down to a tiny prompt, up to the first-event timeout."""

INTER_TOKEN_BUCKETS_S = (0.0025, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1, 5)
"""Decode steps take 5 to 30 ms; what is above 100 ms is a stall by a prefill on the same engine."""

REQUEST_BUCKETS_S = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 60, 120, 300, 600)

QUEUE_BUCKETS_S = (0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
"""From a stream that just ends to the longest wait that anybody would set."""

HANDOFF_BUCKETS_S = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
"""From RDMA in one rack to 8k tokens over a slow TCP path (2.3 s measured)."""


ENGINES_OWN: Mapping[str, tuple[type[GaugeMetricFamily] | type[CounterMetricFamily], str, str]] = {
    "waiting": (GaugeMetricFamily, "Requests that wait inside an engine.", "waiting"),
    "running": (GaugeMetricFamily, "Requests that an engine works on.", "running"),
    "kv_usage_ratio": (GaugeMetricFamily, "Share of an engine's KV blocks in use.", "kv_usage_ratio"),
    "kv_transfer_failures": (CounterMetricFamily, "KV transfers that failed.", "kv_transfer_failures"),
    "kv_expired": (CounterMetricFamily, "Requests whose KV nobody pulled before its lease ended.", "kv_expired"),
}
"""Metrics that are read from the engines and shown again, by the field that they are read from."""


COMPUTED_BY = {
    RouteKind.DISAGGREGATED: Role.PREFILL,
    RouteKind.LOCAL: Role.DECODE,
    RouteKind.AGGREGATED: Role.AGGREGATED,
    RouteKind.NONE: Role.DECODE,
}
"""The pool that computes the prompts of a route."""


TOGETHER = 32
"""Requests that have ended and are counted together: one after the other they find the code for it in the processor's
caches, which the kernel takes over between two tokens. It takes a tenth of a ms."""


class RequestMetrics(Collector):
    """Counts and times of requests; an observer of journeys and releases.

    Requests that ended well wait to be counted until there are some, or until somebody looks.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._ended: deque[Journey] = deque()
        registry.register(self)  # before its counters and histograms, so that it is asked before they are

        def counter(name: str, text: str, labels: Sequence[str]) -> Counts:
            return Counts(f"{PREFIX}_{name}", text, labels, registry)

        def histogram(name: str, text: str, labels: Sequence[str], bounds: Sequence[float]) -> BulkHistogram:
            return BulkHistogram(f"{PREFIX}_{name}", text, labels, bounds, registry)

        self._requests = counter("requests", "Requests by how they ended.", ("model", "api", "route", "outcome"))
        self._decisions = counter("decisions", "Routes chosen, by the rule's reason.", ("route", "reason"))
        self._fallbacks = counter(
            "fallback", "Requests whose hand-over failed and decode computed.", ("pool", "reason")
        )
        self._retries = counter(
            "retries", "Tries on another engine, by the leg that failed and why.", ("pool", "reason")
        )
        self._released = counter("kv_released", "Hand-overs given back to the prefill engine early.", ("reason",))
        self._stranded = counter("kv_stranded", "Hand-overs left to the engine's lease.", ("reason",))
        for reason in STRANDED_BY:  # so that a burst of them is a rise, which the alert looks for
            self._stranded.inc((reason,), 0)
        self._tokens = counter("tokens", "Tokens as engines told them, else estimated.", ("model", "kind"))
        self._prefix_tokens = counter(
            "prefix_tokens", "Prompt tokens that engines had already, and that they computed.", ("pool", "kind")
        )
        self._warm_ups = counter("warm_ups", "Hand-overs that made two engines acquainted.", ("outcome",))
        self._queue_s = histogram(
            "queue_seconds", "Waits for room in a pool, of requests that had to and got it.", ("pool",), QUEUE_BUCKETS_S
        )
        by_route = ("model", "route")
        self._request_s = histogram(
            "request_seconds", "From a request's arrival to the end of its answer.", by_route, REQUEST_BUCKETS_S
        )
        self._ttft_s = histogram(
            "ttft_seconds",
            "Streams: from a request's arrival to the first byte of its answer.",
            by_route,
            TTFT_BUCKETS_S,
        )
        self._inter_token_s = histogram(
            "inter_token_seconds",
            "Streams: between two events, as the client sees them.",
            by_route,
            INTER_TOKEN_BUCKETS_S,
        )
        self._arm_ttft_s = histogram(
            "arm_ttft_seconds", "As ttft_seconds, by mode, while two are compared.", ("arm",), TTFT_BUCKETS_S
        )
        self._arm_inter_token_s = histogram(
            "arm_inter_token_seconds",
            "As inter_token_seconds, by mode, while two are compared.",
            ("arm",),
            INTER_TOKEN_BUCKETS_S,
        )
        self._prefill_s = histogram(
            "prefill_seconds", "Prefill leg of disaggregated requests.", ("model",), TTFT_BUCKETS_S
        )
        self._handoff_s = histogram(
            "handoff_seconds",
            "Streams: from the prefill answer to decode's first event.",
            ("model",),
            HANDOFF_BUCKETS_S,
        )
        self.notes = {
            Stage.QUEUED: self._queued,
            Stage.CHOSEN: self._chosen,
            Stage.PREFILLED: self._prefilled,
            Stage.RETRIED: self._retried,
            Stage.FELL_BACK: self._fell_back,
            Stage.PACED: self._paced,
            Stage.SETTLED: self._settled,
        }

    def collect(self) -> Iterator[Metric]:
        """No metrics of its own; but now all that has ended is counted."""
        self._count_ended()
        yield from ()

    def released(self, reason: str) -> None:
        """KV was given back."""
        self._released.inc((reason,))

    def stranded(self, reason: str) -> None:
        """KV was left to its lease."""
        self._stranded.inc((reason,))

    def warmed_up(self, outcome: str) -> None:
        """Two engines have met."""
        self._warm_ups.inc((outcome,))

    def _queued(self, journey: Journey) -> None:
        self._queue_s.observe((journey.queue,), journey.queue_s)

    def _chosen(self, journey: Journey) -> None:
        self._decisions.inc((journey.route, journey.reason))

    def _prefilled(self, journey: Journey) -> None:
        if journey.prefill_s is not None:
            self._prefill_s.observe((journey.model,), journey.prefill_s)

    def _retried(self, journey: Journey) -> None:
        self._retries.inc((journey.retry_leg or "", journey.retry_reason or ""))

    def _fell_back(self, journey: Journey) -> None:
        self._fallbacks.inc((Role.PREFILL, journey.fallback_reason or ""))

    def _settled(self, journey: Journey) -> None:
        if journey.event_gaps_s:  # may be hundreds, so that they do not wait
            self._paced(journey)
        self._ended.append(journey)
        if len(self._ended) >= TOGETHER or journey.error is not None:  # an error holds on to what it failed in
            self._count_ended()

    def _count_ended(self) -> None:
        while self._ended:
            self._count(self._ended.popleft())

    def _count(self, journey: Journey) -> None:
        model, route = labels = journey.model, journey.route
        self._requests.inc((model, journey.api, route, journey.outcome or Outcome.UPSTREAM_ERROR))
        if route is RouteKind.NONE and journey.reason:
            self._decisions.inc((route, journey.reason))
        if journey.committed_at is not None:
            self._count_tokens(journey)
        trace_id = journey.trace_id
        self._request_s.observe(labels, journey.total_s, trace_id)
        if not journey.stream:
            return
        if journey.ttft_s is not None:
            self._ttft_s.observe(labels, journey.ttft_s, trace_id)
            if journey.arm:
                self._arm_ttft_s.observe((journey.arm,), journey.ttft_s)
        if journey.handoff_s is not None:
            self._handoff_s.observe((model,), journey.handoff_s)

    def _paced(self, journey: Journey) -> None:
        self._inter_token_s.observe_all((journey.model, journey.route), journey.event_gaps_s)
        if journey.arm:
            self._arm_inter_token_s.observe_all((journey.arm,), journey.event_gaps_s)

    def _count_tokens(self, journey: Journey) -> None:
        self._tokens.inc((journey.model, "prompt"), journey.told_prompt_tokens)
        self._tokens.inc((journey.model, "generated"), journey.generated_tokens)
        pool = COMPUTED_BY[journey.route]
        usage = journey.prefill_usage if pool is Role.PREFILL else journey.usage
        if usage is not None and usage.cached_tokens is not None:
            self._prefix_tokens.inc((pool, "reused"), usage.cached_tokens)
            self._prefix_tokens.inc((pool, "computed"), max(0, usage.prompt_tokens - usage.cached_tokens))


class FleetMetrics(Collector):
    """Gauges that are read from the fleet when Prometheus asks, so that they cannot drift from it."""

    def __init__(self, fleet: Fleet, permits: Permits, line: Line, pairs: Pairs, clock: Clock) -> None:
        self._fleet = fleet
        self._permits = permits
        self._line = line
        self._pairs = pairs
        self._clock = clock

    def collect(self) -> Iterator[Metric]:
        """The gauges as of now."""
        by_backend = ("pool", "backend")
        up = GaugeMetricFamily(f"{PREFIX}_backend_up", "1 while the engine may be used.", labels=by_backend)
        requests = GaugeMetricFamily(
            f"{PREFIX}_inflight_requests", "Requests that the gateway has on an engine.", labels=by_backend
        )
        tokens = GaugeMetricFamily(
            f"{PREFIX}_inflight_tokens", "Prompt tokens (estimated) of the requests on an engine.", labels=by_backend
        )
        state = GaugeMetricFamily(
            f"{PREFIX}_backend_state", "1 for the state that the engine is in.", labels=(*by_backend, "state")
        )
        thawed = CounterMetricFamily(
            f"{PREFIX}_backend_thawed", "Times that an engine answered again after it had hung.", labels=by_backend
        )
        for backend in self._fleet.backends:
            thawed.add_metric((backend.role.value, backend.id), backend.standing.thawed)
            for name in State:
                state.add_metric((backend.role.value, backend.id, name.value), float(backend.standing.state is name))
            labels = (backend.role.value, backend.id)
            up.add_metric(labels, float(backend.standing.usable))
            requests.add_metric(labels, backend.load.requests)
            tokens.add_metric(labels, backend.load.tokens)
        yield from (up, state, thawed, requests, tokens)
        yield from self._engines_own()
        yield from self._learnt()
        permits = GaugeMetricFamily(f"{PREFIX}_permits", "Permits of a pool's engines.", labels=("pool", "state"))
        for role in Role:
            free, taken = self._permits.of_pool([b for b in self._fleet.backends if b.role is role])
            permits.add_metric((role.value, "taken"), taken)
            permits.add_metric((role.value, "free"), free)
        yield permits
        queue = GaugeMetricFamily(f"{PREFIX}_queue_depth", "Requests that wait for room in a pool.", labels=("pool",))
        for role in Role:
            queue.add_metric((role.value,), self._line.depth(role))
        yield queue
        yield GaugeMetricFamily(
            f"{PREFIX}_local_tokens_inflight",
            "Prompt tokens (estimated) that engines compute beside their streams.",
            value=float(sum(backend.load.local_tokens for backend in self._fleet.backends)),
        )
        yield GaugeMetricFamily(
            f"{PREFIX}_quarantined_pairs",
            "Pairs of engines that are left alone, as their hand-overs failed.",
            value=float(len(list(self._pairs.quarantined(self._clock())))),
        )
        yield GaugeMetricFamily(
            f"{PREFIX}_slow_pairs",
            "Pairs of engines between which a hand-over takes longer than computing the prompt.",
            value=float(len(list(self._fleet.slow_pairs()))),
        )
        sources = GaugeMetricFamily(
            f"{PREFIX}_discovery_ok", "1 while a source of engines can be read.", labels=("source",)
        )
        for source, why in self._fleet.sources.items():
            sources.add_metric((source,), float(why is None))
        yield sources
        yield GaugeMetricFamily(
            f"{PREFIX}_ready", "1 while at least one route is usable.", value=float(self._fleet.ready)
        )

    def _learnt(self) -> Iterator[Metric]:
        """How fast engines and links were, as far as that is known, and what others have on them."""
        labels = ("pool", "backend")
        prefill = GaugeMetricFamily(
            f"{PREFIX}_learnt_prefill_tokens_per_second", "Prompt tokens that an engine computes.", labels=labels
        )
        decode = GaugeMetricFamily(
            f"{PREFIX}_learnt_decode_tokens_per_second", "Tokens of one stream on an engine.", labels=labels
        )
        handover = GaugeMetricFamily(
            f"{PREFIX}_learnt_handover_seconds",
            f"A hand-over of {COMPARED_TOKENS} tokens to a decode engine, over its best link.",
            labels=labels,
        )
        others = GaugeMetricFamily(
            f"{PREFIX}_others_requests", "Requests that an engine has from others than this gateway.", labels=labels
        )
        for backend in self._fleet.backends:
            where = (backend.role.value, backend.id)
            for family, value in (
                (prefill, backend.paces.compute.tokens_per_s),
                (decode, backend.paces.decode.tokens_per_s),
                (handover, backend.links.best_s),
                (others, backend.load.others_requests),
            ):
                if value is not None:
                    family.add_metric(where, value)
        yield from (prefill, decode, handover, others)

    def _engines_own(self) -> Iterator[Metric]:
        """What engines that show their metrics say of themselves; an engine that begins anew begins at 0."""
        for name, (kind, text, field) in ENGINES_OWN.items():
            family = kind(f"{PREFIX}_engine_{name}", text, labels=("pool", "backend"))
            for backend in self._fleet.backends:
                if (gauges := backend.progress.gauges) is not None:
                    family.add_metric((backend.role.value, backend.id), getattr(gauges, field))
            yield family
        transfers = SummaryMetricFamily(
            f"{PREFIX}_engine_kv_transfer_seconds", "KV transfers of an engine.", labels=("pool", "backend")
        )
        for backend in self._fleet.backends:
            if (gauges := backend.progress.gauges) is not None:
                transfers.add_metric((backend.role.value, backend.id), int(gauges.kv_transfers), gauges.kv_transfer_s)
        yield transfers
