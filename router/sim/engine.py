"""What is a whole simulated engine, from its HTTP port to its KV blocks?"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from router.sim.api import Api
from router.sim.config import SimConfig
from router.sim.core import EngineCore
from router.sim.faults import GENERATION_PATHS, Fault, Faults
from router.sim.http_server import Exchange, HttpServer
from router.sim.ledger import Gauges, Ledger


class SimEngine:
    """One engine; everything in it runs in the event loop that starts it.

    `ledger` and `faults` outlive restarts. The port stays the same from the first start on.
    """

    def __init__(self, config: SimConfig | None = None) -> None:
        self.config = config or SimConfig()
        self.ledger = Ledger(gauges=self._gauges)
        self.faults = Faults(self.config.seed, self._engine_fault)
        self._server = HttpServer(self._serve, self.config.keep_alive_s)
        self._core: EngineCore | None = None
        self._api: Api | None = None
        self._host = "127.0.0.1"
        self._timers: set[asyncio.TimerHandle] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        state = repr(self._core) if self._core is not None else "stopped"
        return f"<SimEngine {self.config.role} {self._host}:{self._server.port} {state}>"

    @property
    def url(self) -> str:
        """Where the engine listens, or last listened."""
        return f"http://{self._host}:{self._server.port}"

    @property
    def core(self) -> EngineCore:
        """The engine process; raises RuntimeError when there is none."""
        if self._core is None:
            raise RuntimeError("the engine is not running")
        return self._core

    @property
    def running(self) -> bool:
        """Whether there is an engine process."""
        return self._core is not None

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> None:
        """Start an engine process, with a new id and empty blocks, behind an HTTP server on `port` (0: a free one)."""
        if self._core is not None:
            raise RuntimeError("the engine is running")
        self._host = host
        core = self._core = EngineCore(self.config, self.ledger, self._core_died)
        try:
            await core.start(host)
            self._api = Api(self.config, core, self.ledger, self.faults)
            await self._server.start(host, port)
        except OSError:
            self._core = None
            await core.aclose()
            raise

    async def stop(self) -> None:
        """End everything; requests in flight are cut off."""
        for timer in self._timers:
            timer.cancel()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._end(reset=False)

    async def kill(self) -> None:
        """End the process as SIGKILL does: every connection breaks, nothing is answered."""
        await self._end(reset=True)

    async def restart(self, down_s: float = 0.0) -> None:
        """Kill the process; after `down_s` a new one listens on the same port."""
        port = self._server.port
        await self.kill()
        await asyncio.sleep(down_s)
        self.ledger.totals.restarts += 1
        await self.start(self._host, port)

    def freeze(self) -> None:
        """Stop the engine's loop and its side channel, as SIGSTOP does; HTTP is still accepted, /health answered."""
        self.core.freeze()

    def thaw(self) -> None:
        """Go on after `freeze`."""
        if self._core is not None:
            self._core.thaw()

    async def __aenter__(self) -> "SimEngine":
        """Start on a free port."""
        await self.start()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        """Stop."""
        await self.stop()

    def _serve(self, exchange: Exchange) -> None:
        if self._api is not None:
            self._api.serve(exchange)

    async def _end(self, *, reset: bool) -> None:
        self._server.close(reset=reset)
        core, self._core, self._api = self._core, None, None
        await self._server.wait_closed()
        if core is not None:
            await core.aclose()

    def _core_died(self) -> None:
        self._after(self.config.death_linger_s, self._bury)

    def _bury(self) -> None:
        """The HTTP server of a dead engine ends, unless there is a new engine by now."""
        if self._core is not None and self._core.dead:
            self._spawn(self._end(reset=False))

    def _engine_fault(self, fault: Fault) -> None:
        match fault.kind:
            case "freeze":
                self.freeze()
                if fault.delay_s is not None:
                    self._after(fault.delay_s, self.thaw)
            case "restart":
                self._spawn(self.restart(fault.delay_s or 0.0))
            case "kill":
                self._spawn(self.kill())
            case _:
                self.core.die("asked to")

    def _after(self, delay_s: float, call: Callable[[], object]) -> None:
        self._timers.add(asyncio.get_running_loop().call_later(delay_s, call))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _gauges(self) -> Gauges:
        connections = self._server.connections
        current = [connection.current for connection in connections]
        exchanges_open = sum(1 for exchange in current if exchange is not None and exchange.path in GENERATION_PATHS)
        if self._core is None:
            return Gauges(connections_open=len(connections), exchanges_open=exchanges_open)
        return self._core.gauges(connections_open=len(connections), exchanges_open=exchanges_open)
