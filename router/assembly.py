"""How the rooms of a gateway are wired together: each is made when another first asks for it. Nothing runs yet.

Times are those of the event loop, which is `time.monotonic`.
"""

import logging
import os
import random
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Self

from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from prometheus_client.registry import Collector

from router.admission.line import Line
from router.admission.permits import Permits, concerned_pools
from router.console.recent import Recent
from router.console.state import Console
from router.edge.api_key import ApiKey
from router.edge.body_memory import BodyMemory
from router.edge.census import Census, connections_for, file_limit
from router.edge.client import Limits
from router.edge.console import console
from router.edge.controls import controls
from router.edge.data import DataApp
from router.edge.explain import Explain
from router.edge.guarded import Guards
from router.edge.operations import operations_app
from router.edge.operators import Operators
from router.edge.outbox import Outbox
from router.edge.readiness import Readiness
from router.edge.request_ids import RequestIds
from router.edge.scaling import scaling
from router.errors import InvalidRequest, Leg
from router.exchange.budget import RetryBudget
from router.exchange.exchange import Exchange
from router.exchange.pool import Connections
from router.exchange.questions import Questions
from router.exchange.rehearsal import Rehearsal
from router.exchange.release import Releases
from router.exchange.warm_up import WarmUps
from router.explain.explainer import Explainer
from router.fleet.backend import Backend
from router.fleet.fleet import Fleet
from router.fleet.kv_events.subscriptions import Subscriptions
from router.fleet.membership import Membership
from router.fleet.pairs import Pairs
from router.fleet.probes import Prober
from router.fleet.scrape import Scraper
from router.fleet.standing import State
from router.gateway import Gateway
from router.json_bounds import JsonBounds
from router.retries import Retries
from router.routing.choose import Chooser, Partners, partners_of
from router.routing.prefix.truth import Truth
from router.scaling.autoscaler import Autoscaler, Capacity
from router.scaling.work import PrefillWork
from router.settings.engines import BackendSettings
from router.settings.extras import NO_KV_EVENTS, can_trace, kv_events_installed
from router.settings.faults import SettingsError
from router.settings.keys import clients_key, engine_key, fault_in, operators_token
from router.settings.tree import Settings
from router.telemetry.audit import Audit
from router.telemetry.edge import EdgeMetrics
from router.telemetry.events import Clock, NoTraces, Observers, Traces
from router.telemetry.kv_events import KvEventMetrics
from router.telemetry.logs import AccessLog, Lines
from router.telemetry.loop_lag import LoopLag
from router.telemetry.metrics import FleetMetrics, RequestMetrics
from router.telemetry.scaling import ScalingMetrics

if TYPE_CHECKING:
    from router.telemetry.tracing import OtlpTraces

log = logging.getLogger(__name__)

OPERATIONS_CONNECTIONS = 128
"""Probes, scrapers and people; with its own count, so that clients cannot keep them out."""

CLOCK: Clock = time.monotonic


class Assembly:
    """The rooms of one gateway. Requests are logged to `log_lines`, if there are any."""

    def __init__(self, settings: Settings, log_lines: Lines | None = None) -> None:
        self.settings = settings
        self._log_lines = log_lines
        self._rng = random.Random()

    def complete(self) -> Self:
        """Make all that nobody has asked for yet, such as what metrics are collected from."""
        for name, room in vars(type(self)).items():
            if isinstance(room, cached_property):
                getattr(self, name)
        return self

    # Who can serve

    @cached_property
    def fleet(self) -> Fleet:
        return Fleet([self._backend(engine) for engine in self.settings.backends])

    @cached_property
    def pairs(self) -> Pairs:
        return Pairs(self.settings.pairs)

    @cached_property
    def membership(self) -> Membership:
        return Membership(self.fleet, self.prober, self.pairs, self._backend, self._call_who_waits)

    @cached_property
    def questions(self) -> Questions:
        return Questions(self.connections)

    @cached_property
    def prober(self) -> Prober:
        rules = self.settings.probes
        return Prober(self.fleet, self.questions.ask, rules, clock=CLOCK, notice=self._notice, rng=self._rng)

    @cached_property
    def scraper(self) -> Scraper:
        return Scraper(self.fleet, self.questions.ask, self.settings.scrapes, CLOCK)

    @cached_property
    def kv_events(self) -> Subscriptions | None:
        """None where nobody asks what engines hold."""
        return Subscriptions(self.fleet, self._truth) if self._truth else None

    @cached_property
    def warm_ups(self) -> WarmUps:
        partners = self._partners
        may_pair = lambda prefill, decode: bool(partners(decode, (prefill,)))  # noqa: E731
        return WarmUps(self.fleet, self.pairs, self.rehearsal, may_pair, CLOCK, self.metrics)

    @cached_property
    def rehearsal(self) -> Rehearsal:
        return Rehearsal(self.exchange, self.settings.pairs.warm_up_timeout_s, CLOCK)

    # Where a request goes, and whether there is room for it

    @cached_property
    def chooser(self) -> Chooser:
        rules = self.settings.routing
        return Chooser(rules, self.permits.with_room, self._rng, self._partners, lambda: self.pairs.cold)

    @cached_property
    def line(self) -> Line:
        return Line(self.settings.admission, CLOCK)

    @cached_property
    def permits(self) -> Permits:
        return Permits(self.settings.admission, self.line)

    @cached_property
    def autoscaler(self) -> Autoscaler:
        capacity = Capacity(self.settings.routing.prefill_tokens_per_s, self.settings.admission.decode_permits)
        return Autoscaler(self.fleet, self.line.depth, self._prefill_work, self.settings.autoscale, capacity, CLOCK)

    # To the engines and back

    @cached_property
    def connections(self) -> Connections:
        return Connections(self.settings.timeouts.connect_s)

    @cached_property
    def releases(self) -> Releases:
        return Releases(self.connections, self.settings.handoff, self.metrics, self.fleet.stand_ins)

    @cached_property
    def exchange(self) -> Exchange:
        max_bytes = self.settings.edge.max_answer_bytes
        timeouts = self.settings.timeouts
        return Exchange(self.connections, self.releases, timeouts, max_answer_bytes=max_bytes, clock=CLOCK)

    @cached_property
    def retries(self) -> Retries:
        return Retries(
            fleet=self.fleet,
            pairs=self.pairs,
            rules=self.settings.retries,
            fails_without_prefill=self.settings.routing.on_prefill_unavailable == "fail",
            total_s=self.settings.timeouts.total_s,
            clock=CLOCK,
            rng=self._rng,
            notice=self._notice,
            full=self.permits.note_full,
            budgets={leg: RetryBudget(self.settings.retries) for leg in Leg},
        )

    @cached_property
    def gateway(self) -> Gateway:
        edge = self.settings.edge
        return Gateway(
            fleet=self.fleet,
            chooser=self.chooser,
            permits=self.permits,
            line=self.line,
            queue_timeout_s=self.settings.admission.queue_timeout_s,
            exchange=self.exchange,
            retries=self.retries,
            observers=self._observers,
            clock=CLOCK,
            strip_engine_fields=edge.strip_engine_fields,
            json_bounds=JsonBounds(edge.max_json_depth, edge.max_json_values),
            traces=self.traces,
        )

    # The two listeners

    @cached_property
    def data(self) -> DataApp:
        return DataApp(self.gateway, self.fleet, self._limits, self._ids)

    @cached_property
    def operations(self) -> FastAPI:
        limits = replace(self._limits, key=None)  # whoever may ask here needs no client's key
        operators = self._operators
        made = operations_app(self.fleet, self.pairs, self.readiness, self.registry, operators, CLOCK)
        made.include_router(controls(self.membership, self.fleet, self.chooser, operators, CLOCK))
        made.include_router(scaling(self.autoscaler))
        made.include_router(console(self._view, self.readiness, operators))
        made.routes.append(Explain(self.gateway, self._explainer, operators, limits, self._ids).route)
        return made

    @cached_property
    def data_guards(self) -> Guards:
        edge, metrics = self.settings.edge, self.edge_metrics
        clients = Census(
            edge.max_connections or connections_for(file_limit()), edge.max_connections_per_address, metrics
        )
        metrics.read_connections_from(lambda: clients.open)
        stall_s, readiness = self.settings.timeouts.write_stall_s, self.readiness
        return Guards(edge, stall_s, clients, metrics, self._ids, lambda: readiness.draining)

    @cached_property
    def operations_guards(self) -> Guards:
        operators = Census(OPERATIONS_CONNECTIONS, OPERATIONS_CONNECTIONS, self.edge_metrics)
        return replace(self.data_guards, census=operators, outbox=Outbox())

    @cached_property
    def readiness(self) -> Readiness:
        return Readiness(self.fleet)

    # What it tells

    @cached_property
    def registry(self) -> CollectorRegistry:
        return CollectorRegistry()

    @cached_property
    def metrics(self) -> RequestMetrics:
        return RequestMetrics(self.registry)

    @cached_property
    def edge_metrics(self) -> EdgeMetrics:
        return EdgeMetrics(self.registry)

    @cached_property
    def collected(self) -> Sequence[Collector]:
        """What is looked at when somebody asks for the metrics."""
        truth = self._truth
        collectors = (
            FleetMetrics(self.fleet, self.permits, self.line, self.pairs, CLOCK),
            KvEventMetrics(self.fleet, truth.estimated_tokens if truth else None),
            ScalingMetrics(self.autoscaler),
        )
        for collector in collectors:
            self.registry.register(collector)
        return collectors

    @cached_property
    def loop_lag(self) -> LoopLag:
        return LoopLag(self.registry)

    @cached_property
    def audit(self) -> Audit:
        return Audit(self.fleet, self.permits, self.connections, self.releases, self.warm_ups, self.registry)

    @cached_property
    def traces(self) -> Traces:
        return self._tracing or NoTraces()

    @cached_property
    def _tracing(self) -> "OtlpTraces | None":
        if not self.settings.tracing.on(os.environ):
            return None
        if not can_trace():
            self._warn_untraced("pip install 'pd-router[otel]'")
            return None
        from router.telemetry.tracing import OtlpTraces  # noqa: PLC0415 - only there with the extra, slow to import

        try:
            return OtlpTraces(self.settings.tracing, CLOCK)
        except ValueError as error:
            self._warn_untraced(f"a variable of OpenTelemetry (OTEL_*) is not valid: {error}")
            return None

    def _warn_untraced(self, why: str) -> None:
        """Variables may be everybody's on this machine; what the settings ask for is meant. Raises `SettingsError`."""
        if self.settings.tracing.otlp_endpoint:
            raise SettingsError([f"tracing: {why}"])
        log.warning("requests are not traced", extra={"facts": {"why": why}})

    @cached_property
    def _observers(self) -> Observers:
        log_lines = [AccessLog(self._log_lines)] if self._log_lines else []
        return Observers(
            self.metrics, self._prefill_work, self._recent, *log_lines, *([self._tracing] if self._tracing else [])
        )

    # What several rooms share

    @cached_property
    def _partners(self) -> Partners:
        return partners_of(self.pairs, CLOCK)

    @cached_property
    def _truth(self) -> Truth | None:
        return self.chooser.prefixes.truth if self.chooser.prefixes else None

    @cached_property
    def _prefill_work(self) -> PrefillWork:
        return PrefillWork()

    @cached_property
    def _recent(self) -> Recent:
        return Recent(CLOCK)

    @cached_property
    def _view(self) -> Console:
        modes = lambda: self.chooser.modes  # noqa: E731
        return Console(self.fleet, self.pairs, self.permits, self.line, self._recent, self.autoscaler, modes, CLOCK)

    @cached_property
    def _explainer(self) -> Explainer:
        return Explainer(self.fleet, self.chooser, self.permits, self.line, self.pairs, CLOCK)

    @cached_property
    def _ids(self) -> RequestIds:
        return RequestIds()

    @cached_property
    def _operators(self) -> Operators:
        token = operators_token(self.settings.ops)
        return Operators(self.settings.ops.host, token.get_secret_value() if token else None)

    @cached_property
    def _limits(self) -> Limits:
        edge, key = self.settings.edge, clients_key(self.settings.listen)
        bodies = BodyMemory(edge.max_buffered_body_bytes, self.edge_metrics)
        api_key = ApiKey(key.get_secret_value()) if key else None
        self.edge_metrics.key_required(key is not None)
        stall_s = self.settings.timeouts.write_stall_s
        return Limits(edge.max_body_bytes, stall_s, bodies, edge.early_status_s, api_key)

    # Who hears of what

    def _backend(self, engine: BackendSettings) -> Backend:
        """An engine of the fleet. Raises `InvalidRequest` when its key, or what its KV events take, cannot be had."""
        if engine.key_env and (why := fault_in(engine.key_env)):
            raise InvalidRequest(why, param="key_env")
        if engine.kv_events and not kv_events_installed():
            raise InvalidRequest(f"kv_events: {NO_KV_EVENTS}", param="kv_events")
        key = engine_key(engine)
        return Backend(
            engine,
            self.settings.probes,
            now=CLOCK(),
            key=key.get_secret_value() if key else None,
            max_age_s=self.settings.handoff.handoff_max_age_s,
            ejection=self.settings.ejection,
        )

    def _notice(self, backend: Backend) -> None:
        """An engine's state has changed."""
        if backend.standing.state is State.UP:
            self.pairs.forget(backend.id)  # it may have been away, and be another engine now
        self.warm_ups.look()
        level = logging.INFO if backend.standing.usable else logging.WARNING
        facts = {"pool": backend.role.value, "backend": backend.id, "why": backend.standing.why}
        log.log(level, f"engine {backend.standing.state.value}", extra={"facts": facts})
        self._call_who_waits(backend)

    def _call_who_waits(self, backend: Backend) -> None:
        """An engine's state has changed, or it has come or gone: who waits may go now, or need not wait any more."""
        for pool in concerned_pools(backend):
            self.line.call_first(backend.models, pool)
        if backend.standing.state is State.DOWN or backend not in self.fleet.backends:
            self.chooser.forget(backend)
            self.fleet.forget_paces(backend)


def build(settings: Settings, log_lines: Lines | None = None) -> Assembly:
    """A gateway of which everything is made, and nothing runs.

    Raises `InvalidRequest` for what settings lack, `SettingsError` where what they ask for cannot be had.
    """
    return Assembly(settings, log_lines).complete()
