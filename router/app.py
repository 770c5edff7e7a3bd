"""A gateway that runs: `running` serves while a block lasts, `serve` until a signal, and drains."""

import asyncio
import gc
import logging
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass

from router.assembly import Assembly, build
from router.edge.census import raise_file_limit
from router.edge.server import Listener, inherit, listen, listener, url_of
from router.fleet.discovery.sources import Sources
from router.settings.edge import Listen
from router.settings.keys import clients_key
from router.settings.tree import Settings
from router.supervision import Tasks
from router.telemetry.logs import Lines, configure

log = logging.getLogger(__name__)

COLLECT_AFTER_OBJECTS = 20_000
"""New container objects, some tens of requests' worth, after which the youngest are looked through."""


@dataclass(frozen=True, slots=True)
class Running:
    """A gateway that serves; the URLs say where."""

    app: Assembly
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
                data.stop()
                await serving
                ops.stop()
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
