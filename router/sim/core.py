"""What is one life of an engine process?

Everything that a restart loses: its id, its blocks, its sequences, its counters, its connections to other engines.
"""

import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING

from router.sim.config import SimConfig
from router.sim.kv_cache import KvCache
from router.sim.leases import Leases
from router.sim.ledger import Gauges, Ledger
from router.sim.metrics import Counters
from router.sim.peers import Peers
from router.sim.scheduler import Parts, Scheduler
from router.sim.side_channel import SideChannel

if TYPE_CHECKING:
    from router.sim.publisher import Publisher

CORE_DIED = "EngineCore encountered an issue. See stack trace (above) for the root cause."


class EngineCore:
    """One engine process behind its HTTP server; `on_death` is called when an assertion kills it."""

    def __init__(self, config: SimConfig, ledger: Ledger, on_death: Callable[[], None]) -> None:
        self.engine_id = str(uuid.uuid4())
        self.dead = False
        self.counters = Counters()
        self._config = config
        self._ledger = ledger
        self._on_death = on_death
        self.cache = cache = KvCache(config)
        self.pool = cache.pool
        self._events: Publisher | None = None
        self.leases = Leases(config, cache.pool, self.counters, ledger, self._blocks_freed)
        self.peers = Peers(config, self.counters)
        self.side_channel = SideChannel(config, self.engine_id, self.leases)
        self._parts = Parts(config, cache, self.leases, self.peers, self.counters, ledger)
        self.scheduler = Scheduler(self._parts, self.die)

    def __repr__(self) -> str:
        return f"<EngineCore {self.engine_id} {self.scheduler!r} {self.pool!r}>"

    async def start(self, host: str) -> None:
        """Open the side channel, when there is a connector, and publish KV events, when that is asked for."""
        if self._config.kv_events:
            from router.sim.publisher import Publisher  # noqa: PLC0415 - an extra

            self._events = Publisher(self._config)
            self._parts.publish = self._publish
        if self._config.has_connector:
            await self.side_channel.start(host)
            self._parts.address = {
                "remote_engine_id": self.engine_id,
                "remote_host": host,
                "remote_port": self.side_channel.port,
            }

    def freeze(self) -> None:
        """Nothing moves any more, as after SIGSTOP."""
        self.scheduler.freeze()
        self.leases.freeze()
        self.side_channel.freeze()

    def thaw(self) -> None:
        """Go on, as after SIGCONT."""
        self.leases.thaw()
        self.side_channel.thaw()
        self.scheduler.thaw()

    def die(self, _reason: str) -> None:
        """An assertion has failed: all sequences fail, all blocks are gone, the HTTP server lives on for a moment."""
        if not self.dead:
            self._ledger.totals.deaths += 1
            self._end(CORE_DIED)
            self._on_death()

    async def aclose(self) -> None:
        """End the process."""
        self._end("The engine is shutting down.")
        await self.peers.aclose()
        await self.side_channel.wait_closed()

    def gauges(self, *, connections_open: int, exchanges_open: int) -> Gauges:
        """What the process holds; a dead one holds nothing."""
        gauges = Gauges(exchanges_open=exchanges_open, connections_open=connections_open)
        if not self.dead:
            gauges.requests_running = self.scheduler.running
            gauges.requests_waiting = self.scheduler.waiting
            gauges.handoffs_open = len(self.leases)
            gauges.blocks_in_use = self.pool.in_use
            gauges.blocks_free = self.pool.free
            gauges.blocks_cached = self.pool.cached
        return gauges

    def _end(self, message: str) -> None:
        self.dead = True
        if self._events is not None:
            self._parts.publish = None
            self._events.close()
        self.leases.close()
        self.side_channel.close()
        self.scheduler.close(message)

    def _publish(self) -> None:
        if self._events is not None and self.cache.journal is not None:
            self._events.publish(self.cache.journal.take())

    def _blocks_freed(self) -> None:
        self.scheduler.wake()
