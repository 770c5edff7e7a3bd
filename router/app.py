"""The composition root: `build` wires the rooms together, `serve` runs them until a signal and drains."""

import asyncio
import gc
import logging
import os
import random
import signal
import socket
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace

import httpx
from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from router.admission.line import Line
from router.admission.permits import Permits, answering_pool
from router.console.recent import Recent
from router.console.state import Console
from router.edge.api_key import ApiKey
from router.edge.body_memory import BodyMemory
from router.edge.census import Census, connections_for, file_limit, raise_file_limit
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
from router.edge.server import Listener, inherit, listen, listener, url_of
from router.errors import InvalidRequest, Leg
from router.exchange.budget import RetryBudget
from router.exchange.exchange import Exchange
from router.exchange.pool import Connections
from router.exchange.rehearsal import Rehearsal
from router.exchange.release import Releases
from router.exchange.transport import EngineTransport
from router.exchange.warm_up import WarmUps
from router.explain.explainer import Explainer
from router.fleet.backend import Backend
from router.fleet.discovery.sources import Sources
from router.fleet.fleet import Fleet
from router.fleet.kv_events.subscriptions import Subscriptions
from router.fleet.membership import Membership
from router.fleet.pairs import Pairs
from router.fleet.probes import Prober
from router.fleet.scrape import Scraper
from router.fleet.standing import State
from router.gateway import Gateway
from router.json_bounds import JsonBounds
from router.retries import Notice, Retries
from router.routing.choose import Chooser, Partners, in_group
from router.scaling.autoscaler import Autoscaler, Capacity
from router.scaling.pace import Pace
from router.settings import (
    NO_KV_EVENTS,
    BackendSettings,
    Listen,
    Ops,
    Settings,
    clients_key,
    engine_key,
    kv_events_installed,
    operators_token,
)
from router.supervision import Tasks
from router.telemetry.audit import Audit
from router.telemetry.edge import EdgeMetrics
from router.telemetry.events import Clock, NoTraces, Observer, Traces
from router.telemetry.kv_events import KvEventMetrics
from router.telemetry.logs import AccessLog, Lines, configure
from router.telemetry.loop_lag import LoopLag
from router.telemetry.metrics import FleetMetrics, RequestMetrics
from router.telemetry.scaling import ScalingMetrics

log = logging.getLogger(__name__)

COLLECT_AFTER_OBJECTS = 20_000
"""New container objects, some tens of requests' worth, after which the youngest are looked through."""

OPERATIONS_CONNECTIONS = 128
"""Probes, scrapers and people; with its own count, so that clients cannot keep them out."""


@dataclass(frozen=True, slots=True)
class App:
    """Everything wired together; made by `build`."""

    settings: Settings
    fleet: Fleet
    pairs: Pairs
    permits: Permits
    line: Line
    connections: Connections
    releases: Releases
    rehearsal: Rehearsal
    warm_ups: WarmUps
    readiness: Readiness
    prober: Prober
    scraper: Scraper
    kv_events: Subscriptions | None
    membership: Membership
    autoscaler: Autoscaler
    data: DataApp
    operations: FastAPI
    registry: CollectorRegistry
    data_guards: Guards
    operations_guards: Guards
    loop_lag: LoopLag
    audit: Audit
    traces: Traces


def build(settings: Settings, log_lines: Lines | None = None) -> App:
    """The rooms, wired together; nothing runs yet. Times are those of the event loop, which is `time.monotonic`.

    Requests are logged to `log_lines`, if there are any.
    """
    clock, rng = time.monotonic, random.Random()
    registry = CollectorRegistry()
    metrics = RequestMetrics(registry)
    fleet = Fleet([_backend(settings, engine) for engine in settings.backends])
    line = Line(settings.admission, clock)
    permits = Permits(settings.admission, line)
    pairs = Pairs(settings.pairs)
    registry.register(FleetMetrics(fleet, permits, line, pairs, clock))
    connections = Connections(settings.timeouts.connect_s)
    releases = Releases(connections, settings.handoff, metrics, fleet.stand_ins)

    def call_who_waits(backend: Backend) -> None:
        for model in backend.models:  # they may go now, or need not wait any more
            line.call_next(model, answering_pool(backend))
        if backend.standing.state is State.DOWN or backend not in fleet.backends:
            chooser.forget(backend)
            fleet.forget_paces(backend)

    def notice(backend: Backend) -> None:
        _note_standing(backend, pairs, warm_ups)
        call_who_waits(backend)

    client = httpx.AsyncClient(transport=EngineTransport(connections), trust_env=False)
    prober = Prober(fleet, client, settings.probes, clock=clock, notice=notice, rng=rng)
    membership = Membership(fleet, prober, pairs, lambda engine: _backend(settings, engine), call_who_waits)
    exchange = _exchange(settings, connections, releases)
    partners = partners_of(pairs, clock)
    rehearsal = Rehearsal(exchange, settings.pairs.warm_up_timeout_s, clock)
    warm_ups = WarmUps(fleet, pairs, rehearsal, lambda p, d: bool(partners(d, (p,))), clock, metrics)
    chooser = Chooser(settings.routing, permits.with_room, rng, partners, lambda: pairs.cold)
    traces, tracing = _traces(settings)
    pace, recent = Pace(), Recent(clock)
    autoscaler = _autoscaler(settings, fleet, line, pace, registry)
    truth = chooser.prefixes.truth if chooser.prefixes else None
    registry.register(KvEventMetrics(fleet, truth.estimated_tokens if truth else None))
    gateway = Gateway(
        fleet=fleet,
        chooser=chooser,
        permits=permits,
        line=line,
        queue_timeout_s=settings.admission.queue_timeout_s,
        exchange=exchange,
        retries=_retries(settings, fleet, pairs, rng, (notice, permits.note_full)),
        observers=(metrics, pace, recent, *([AccessLog(log_lines)] if log_lines else ()), *tracing),
        clock=clock,
        strip_engine_fields=settings.edge.strip_engine_fields,
        json_bounds=JsonBounds(settings.edge.max_json_depth, settings.edge.max_json_values),
        traces=traces,
    )
    readiness, operators = Readiness(fleet), _operators(settings.ops)
    edge_metrics, ids = EdgeMetrics(registry), RequestIds()
    limits = _limits(settings, edge_metrics)
    changes = controls(membership, fleet, chooser, operators, clock)
    explainer = Explainer(fleet, chooser, permits, line, pairs, clock)
    changes.routes.append(Explain(gateway, explainer, operators, limits, ids).route)
    operations = operations_app(fleet, pairs, readiness, registry, changes, clock)
    view = Console(fleet, pairs, permits, line, recent, autoscaler, lambda: chooser.modes.mode, clock)
    for routes in (scaling(autoscaler), console(view, readiness, operators)):
        operations.include_router(routes)
    data_guards, operations_guards = _guards(settings, edge_metrics, ids, readiness)
    return App(
        settings=settings,
        fleet=fleet,
        pairs=pairs,
        permits=permits,
        line=line,
        connections=connections,
        releases=releases,
        rehearsal=rehearsal,
        warm_ups=warm_ups,
        readiness=readiness,
        prober=prober,
        scraper=Scraper(fleet, client, settings.scrapes, clock),
        kv_events=Subscriptions(fleet, truth) if truth else None,
        membership=membership,
        autoscaler=autoscaler,
        data=DataApp(gateway, fleet, limits, ids),
        operations=operations,
        registry=registry,
        data_guards=data_guards,
        operations_guards=operations_guards,
        loop_lag=LoopLag(registry),
        audit=Audit(fleet, permits, connections, releases, warm_ups, registry),
        traces=traces,
    )


def _traces(settings: Settings) -> tuple[Traces, Sequence[Observer]]:
    """Who records requests, and as an observer too, if anybody does."""
    if not settings.tracing.on(os.environ):
        return NoTraces(), ()
    from router.telemetry.tracing import OtlpTraces  # noqa: PLC0415 - only there with the extra, and slow to import

    traces = OtlpTraces(settings.tracing, time.monotonic)
    return traces, (traces,)


def partners_of(pairs: Pairs, clock: Clock) -> Partners:
    """Which prefill engines may hand over to a decode engine: those of its group that are not left alone with it."""

    def partners(decode: Backend, prefill: Sequence[Backend]) -> list[Backend]:
        same = in_group(decode, prefill)
        if not pairs.any_left_alone:
            return same
        return [engine for engine in same if pairs.usable(engine.id, decode.id, clock())]

    return partners


def _exchange(settings: Settings, connections: Connections, releases: Releases) -> Exchange:
    max_bytes = settings.edge.max_answer_bytes
    return Exchange(connections, releases, settings.timeouts, max_answer_bytes=max_bytes, clock=time.monotonic)


def _autoscaler(settings: Settings, fleet: Fleet, line: Line, pace: Pace, registry: CollectorRegistry) -> Autoscaler:
    capacity = Capacity(settings.routing.prefill_tokens_per_s, settings.admission.decode_permits)
    autoscaler = Autoscaler(fleet, line.depth, pace, settings.autoscale, capacity, time.monotonic)
    registry.register(ScalingMetrics(autoscaler))
    return autoscaler


def _retries(
    settings: Settings, fleet: Fleet, pairs: Pairs, rng: random.Random, told: tuple[Notice, Notice]
) -> Retries:
    notice, full = told
    return Retries(
        fleet=fleet,
        pairs=pairs,
        rules=settings.retries,
        fails_without_prefill=settings.routing.on_prefill_unavailable == "fail",
        total_s=settings.timeouts.total_s,
        clock=time.monotonic,
        rng=rng,
        notice=notice,
        full=full,
        budgets={leg: RetryBudget(settings.retries) for leg in Leg},
    )


def _limits(settings: Settings, metrics: EdgeMetrics) -> Limits:
    edge, key = settings.edge, clients_key(settings.listen)
    bodies = BodyMemory(edge.max_buffered_body_bytes, metrics)
    api_key = ApiKey(key.get_secret_value()) if key else None
    metrics.key_required(key is not None)
    return Limits(edge.max_body_bytes, settings.timeouts.write_stall_s, bodies, edge.early_status_s, api_key)


def _operators(ops: Ops) -> Operators:
    token = operators_token(ops)
    return Operators(ops.host, token.get_secret_value() if token else None)


def _guards(settings: Settings, metrics: EdgeMetrics, ids: RequestIds, readiness: Readiness) -> tuple[Guards, Guards]:
    """Those of the data and of the operations listener."""
    edge = settings.edge
    connections = edge.max_connections or connections_for(file_limit())
    clients = Census(connections, edge.max_connections_per_address, metrics)
    metrics.read_connections_from(lambda: clients.open)
    operators = Census(OPERATIONS_CONNECTIONS, OPERATIONS_CONNECTIONS, metrics)
    of_data = Guards(edge, settings.timeouts.write_stall_s, clients, metrics, ids, lambda: readiness.draining)
    return of_data, replace(of_data, census=operators, outbox=Outbox())


def _backend(settings: Settings, backend: BackendSettings) -> Backend:
    """An engine of the fleet. Raises `InvalidRequest` when its key, or what its KV events take, is not there."""
    if backend.key_env and not os.environ.get(backend.key_env):
        raise InvalidRequest(f"the environment variable {backend.key_env} is not set", param="key_env")
    if backend.kv_events and not kv_events_installed():
        raise InvalidRequest(f"kv_events: {NO_KV_EVENTS}", param="kv_events")
    key = engine_key(backend)
    return Backend(
        backend,
        settings.probes,
        now=time.monotonic(),
        key=key.get_secret_value() if key else None,
        max_age_s=settings.handoff.handoff_max_age_s,
        ejection=settings.ejection,
    )


def _note_standing(backend: Backend, pairs: Pairs, warm_ups: WarmUps) -> None:
    """An engine's state has changed."""
    if backend.standing.state is State.UP:
        pairs.forget(backend.id)  # it may have been away, and be another engine now
    warm_ups.look()
    level = logging.INFO if backend.standing.usable else logging.WARNING
    facts = {"pool": backend.role.value, "backend": backend.id, "why": backend.standing.why}
    log.log(level, f"engine {backend.standing.state.value}", extra={"facts": facts})


@dataclass(frozen=True, slots=True)
class Running:
    """A gateway that serves; the URLs say where."""

    app: App
    data: Listener
    ops: Listener
    data_url: str
    ops_url: str

    def stop_now(self) -> None:
        """Do not wait for open streams when the block ends."""
        self.data.force_exit = self.ops.force_exit = True


@asynccontextmanager
async def running(settings: Settings, log_lines: Lines | None = None) -> AsyncIterator[Running]:
    """A gateway that serves while the block lasts. Raises `ListenError` when an address is taken.

    Its door opens after one look at every engine. At the end it stops listening, lets open streams go on for at most
    `drain.drain_timeout_s`, and gives back what it holds.
    """
    raise_file_limit()
    app = build(settings, log_lines)
    background = Tasks()
    async with AsyncExitStack() as held:
        data_socket = held.enter_context(_data_socket(settings.listen))
        ops_socket = held.enter_context(listen(settings.ops.host, settings.ops.port))
        held.push_async_callback(app.traces.close)
        held.callback(app.connections.close)
        held.push_async_callback(app.releases.close)
        held.push_async_callback(background.close)
        sources = Sources(settings.discovery, app.membership)
        await sources.look()
        await app.prober.probe_all()
        background.spawn(app.prober.run(), "probes")
        background.spawn(app.scraper.run(), "scrapes")
        if app.kv_events:
            background.spawn(app.kv_events.run(), "KV events")
        if settings.pairs.warm_up:
            background.spawn(app.warm_ups.run(), "warm-ups")
        background.spawn(app.autoscaler.run(), "autoscaler")
        background.spawn(app.loop_lag.run(), "loop lag")
        background.spawn(app.audit.run(), "audit")
        for name, following in sources.loops():
            background.spawn(following, name)
        data = listener(app.data, app.data_guards, settings.drain.drain_timeout_s)
        ops = listener(app.operations, app.operations_guards, 1)
        async with asyncio.TaskGroup() as listeners:
            serving = listeners.create_task(data.serve_on(data_socket), name="data listener")
            operating = listeners.create_task(ops.serve_on(ops_socket), name="operations listener")
            try:
                yield Running(app, data, ops, url_of(data_socket), url_of(ops_socket))
            finally:
                app.readiness.draining = True
                data.should_exit = True
                await serving
                ops.should_exit = True
                await operating  # cancelled, as when the block fails, it would leave its listener open


def _data_socket(where: Listen) -> socket.socket:
    return listen(where.host, where.port) if where.fd is None else inherit(where.fd)


def _collect_rarely() -> None:
    """Look for cyclic garbage less often, and not among what is there from the start.

    At Python's own pace that takes 4 % of the CPU under load, and requests leave hardly any.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER_OBJECTS, 20, 100)


def _warn_if_open(where: Listen) -> None:
    """Tell who may not have meant it."""
    if clients_key(where) is None and not where.on_loopback:
        facts = {"listen.host": where.host, "to_ask_for_one": f"set {where.api_key_env} or listen.api_key_file"}
        log.warning("clients on other machines need no key", extra={"facts": facts})


async def serve(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT, then drain; a second signal ends at once. Returns the exit code."""
    log_lines = configure(settings.log)
    _collect_rarely()
    signals: asyncio.Queue[signal.Signals] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, signals.put_nowait, number)
    async with running(settings, log_lines) as gateway:
        _warn_if_open(settings.listen)
        log.info("serving", extra={"facts": {"data": gateway.data_url, "operations": gateway.ops_url}})
        received = await signals.get()
        log.info("draining", extra={"facts": {"signal": received.name, "inflight": gateway.app.fleet.inflight}})
        gateway.app.readiness.draining = True
        with suppress(TimeoutError):
            await asyncio.wait_for(signals.get(), settings.drain.drain_accept_s)
            gateway.stop_now()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, gateway.stop_now)
    log.info("stopped")
    return 0
