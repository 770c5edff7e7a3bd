"""How much has each engine to do, as it counts itself? Their `/metrics` are read all the time, one after the other.

The pages of a large fleet are spread over the interval, so that reading them never holds up the loop. What they say is
good for `FRESH` intervals; then it is not known what others have on an engine.
"""

import asyncio
from weakref import WeakKeyDictionary

from router.engines.gauges import read_gauges
from router.engines.vllm import cache_tokens
from router.errors import EngineFault
from router.fleet.ask import Ask
from router.fleet.backend import Backend
from router.fleet.fleet import Fleet
from router.settings.fleet import Scrapes
from router.supervision import LastResort
from router.telemetry.events import Clock

FRESH = 3


class Scraper:
    """Reads the engines' metrics until cancelled. An engine without any is left as unknown."""

    def __init__(self, fleet: Fleet, ask: Ask, rules: Scrapes, clock: Clock) -> None:
        self._fleet = fleet
        self._ask = ask
        self._rules = rules
        self._clock = clock
        self._reading: set[Backend] = set()
        self._last_resorts: WeakKeyDictionary[Backend, LastResort] = WeakKeyDictionary()

    def forget_stale(self, backend: Backend) -> None:
        """What others have on an engine is not known any more, unless it was read lately."""
        read_at = backend.progress.read_at
        if read_at is None or self._clock() - read_at > FRESH * self._rules.interval_s:
            backend.load.note_others()

    async def run(self) -> None:
        """Read for ever, each engine once an interval; one that is slow is left out until it has answered."""
        async with asyncio.TaskGroup() as group:
            while True:
                backends = self._fleet.backends
                for backend in backends:
                    await asyncio.sleep(self._rules.interval_s / len(backends))
                    self.forget_stale(backend)
                    if backend not in self._reading:
                        self._reading.add(backend)
                        group.create_task(self._read(backend), name=f"scrape {backend.id}")
                if not backends:
                    await asyncio.sleep(self._rules.interval_s)

    @property
    def open(self) -> int:
        """Pages that are being read."""
        return len(self._reading)

    async def scrape(self, backend: Backend) -> None:
        """Read one engine's page; one that cannot be read tells nothing."""
        asked_at, load = self._clock(), backend.load
        sent, ever = load.requests, load.ever
        try:
            async with asyncio.timeout(self._rules.timeout_s):  # connecting included
                reply = await self._ask(backend, "/metrics", self._rules.timeout_s)
        except (EngineFault, TimeoutError):
            return
        page = reply.body
        if reply.ok and (gauges := read_gauges(page)):
            backend.progress.note(gauges, self._clock())
            backend.cache_tokens = cache_tokens(page) or backend.cache_tokens
            ours, theirs = sent + load.ever - ever, gauges.waiting + gauges.running
            backend.unfinished.note(asked_at, theirs, ours)
            in_use_tokens = int(gauges.kv_usage_ratio * (backend.cache_tokens or 0))
            load.note_others(theirs - ours, in_use_tokens - load.tokens)

    async def _read(self, backend: Backend) -> None:
        last_resort = self._last_resorts.get(backend)
        if last_resort is None:
            last_resort = self._last_resorts[backend] = LastResort(f"scrape of {backend.id}")
        try:
            with last_resort.turn():
                await self.scrape(backend)
        finally:
            self._reading.discard(backend)
