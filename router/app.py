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
from router.edge.api_key import ApiKey
from router.edge.body_memory import BodyMemory
from router.edge.census import Census, connections_for, file_limit, raise_file_limit
from router.edge.client import Limits
from router.edge.controls import controls
from router.edge.data import DataApp
from router.edge.guarded import Guards
from router.edge.operations import operations_app
from router.edge.operators import Operators
from router.edge.outbox import Outbox
from router.edge.readiness import Readiness
from router.edge.request_ids import RequestIds
from router.edge.server import Listener, inherit, listen, listener, url_of
from router.errors import InvalidRequest, Leg
from router.exchange.budget import RetryBudget
from router.exchange.exchange import Exchange
from router.exchange.pool import Connections
from router.exchange.rehearsal import Rehearsal
from router.exchange.release import Releases
from router.exchange.transport import EngineTransport
from router.exchange.warm_up import WarmUps
from router.fleet.backend import Backend
from router.fleet.discovery.sources import Sources
from router.fleet.fleet import Fleet
from router.fleet.membership import Membership
from router.fleet.pairs import Pairs
from router.fleet.probes import Prober
from router.fleet.scrape import Scraper
from router.fleet.standing import State
from router.gateway import Gateway
from router.json_bounds import JsonBounds
from router.retries import Notice, Retries
from router.routing.choose import Chooser, Match, same_group
from router.settings import BackendSettings, Listen, Ops, Settings, can_trace, clients_key, engine_key, operators_token
from router.supervision import Tasks
from router.telemetry.audit import Audit
from router.telemetry.edge import EdgeMetrics
from router.telemetry.events import Clock, NoTraces, Observer, Traces
from router.telemetry.logs import AccessLog, Lines, configure
from router.telemetry.loop_lag import LoopLag
from router.telemetry.metrics import FleetMetrics, RequestMetrics

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
    membership: Membership
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

    def notice(backend: Backend) -> None:
        _note_standing(backend, pairs, warm_ups)
        call_who_waits(backend)

    client = httpx.AsyncClient(transport=EngineTransport(connections), trust_env=False)
    prober = Prober(fleet, client, settings.probes, clock=clock, notice=notice, rng=rng)
    membership = Membership(fleet, prober, pairs, lambda engine: _backend(settings, engine), call_who_waits)
    exchange = Exchange(
        connections, releases, settings.timeouts, max_answer_bytes=settings.edge.max_answer_bytes, clock=clock
    )
    may_pair = _may_pair(pairs, clock)
    rehearsal = Rehearsal(exchange, settings.pairs.warm_up_timeout_s, clock)
    warm_ups = WarmUps(fleet, pairs, rehearsal, may_pair, clock, metrics)
    chooser = Chooser(settings.routing, permits.has_room, rng, may_pair, lambda: pairs.cold)
    traces, tracing = _traces(settings)
    gateway = Gateway(
        fleet=fleet,
        chooser=chooser,
        permits=permits,
        line=line,
        queue_timeout_s=settings.admission.queue_timeout_s,
        exchange=exchange,
        retries=_retries(settings, fleet, pairs, rng, (notice, permits.note_full)),
        observers=(metrics, *([AccessLog(log_lines)] if log_lines else ()), *tracing),
        clock=clock,
        strip_engine_fields=settings.edge.strip_engine_fields,
        json_bounds=JsonBounds(settings.edge.max_json_depth, settings.edge.max_json_values),
        traces=traces,
    )
    readiness = Readiness(fleet)
    changes = controls(membership, fleet, chooser, _operators(settings.ops), clock)
    edge_metrics, ids = EdgeMetrics(registry), RequestIds()
    bodies = BodyMemory(settings.edge.max_buffered_body_bytes, edge_metrics)
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
        membership=membership,
        data=DataApp(gateway, fleet, _limits(settings, bodies, edge_metrics), ids),
        operations=operations_app(fleet, pairs, readiness, registry, changes, clock),
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
    if not can_trace():  # the variables may be everybody's on this machine
        log.warning("requests are not traced", extra={"facts": {"why": "pip install 'pd-router[otel]'"}})
        return NoTraces(), ()
    from router.telemetry.tracing import OtlpTraces  # noqa: PLC0415 - only there with the extra, and slow to import

    traces = OtlpTraces(settings.tracing, time.monotonic)
    return traces, (traces,)


def _may_pair(pairs: Pairs, clock: Clock) -> Match:
    def may_pair(prefill: Backend, decode: Backend) -> bool:
        return same_group(prefill, decode) and pairs.usable(prefill.id, decode.id, clock())

    return may_pair


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


def _limits(settings: Settings, bodies: BodyMemory, metrics: EdgeMetrics) -> Limits:
    edge, key = settings.edge, clients_key(settings.listen)
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
    """An engine of the fleet. Raises `InvalidRequest` when its key is not in the environment."""
    if backend.key_env and not os.environ.get(backend.key_env):
        raise InvalidRequest(f"the environment variable {backend.key_env} is not set", param="key_env")
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
        if settings.pairs.warm_up:
            background.spawn(app.warm_ups.run(), "warm-ups")
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
