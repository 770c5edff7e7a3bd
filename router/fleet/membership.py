"""Which engines are there? They come and go while the gateway runs, by file, by API, without a request noticing.

An engine that is taken out gets no new request at once, is not probed any more, and finishes what it has: leases hold
the engine, not its name. One that comes in is used once its first probe was good.
"""

from collections.abc import Callable, Iterable

from router.errors import InvalidRequest
from router.fleet.backend import Backend
from router.fleet.fleet import Fleet
from router.fleet.pairs import Pairs
from router.fleet.probes import Prober
from router.settings import BackendSettings

Make = Callable[[BackendSettings], Backend]
Changed = Callable[[Backend], None]


class Membership:
    """Changes `fleet`; `make` builds an engine from its settings, and may raise `InvalidRequest`.

    `changed` hears of each engine that may get requests from now on, or may not any more.
    """

    def __init__(self, fleet: Fleet, prober: Prober, pairs: Pairs, make: Make, changed: Changed) -> None:
        self._fleet = fleet
        self._prober = prober
        self._pairs = pairs
        self._make = make
        self._changed = changed
        self._found: dict[str, tuple[BackendSettings, Backend]] = {}

    def add(self, settings: BackendSettings) -> Backend:
        """One more engine. Raises `InvalidRequest` when its address is taken."""
        if any(backend.url == settings.url for backend in self._fleet.backends):
            raise InvalidRequest(f"{settings.url} is in the fleet already; an engine has one role", param="url")
        backend = self._make(settings)
        self._fleet.backends = (*self._fleet.backends, backend)
        self._prober.follow(backend)
        return backend

    def remove(self, backend_id: str) -> Backend:
        """One less. Raises `NotFound`."""
        backend = self._fleet.backend(backend_id)
        self._fleet.backends = tuple(b for b in self._fleet.backends if b is not backend)
        self._pairs.forget(backend.id)
        self._changed(backend)
        return backend

    def drain(self, backend_id: str, *, drained: bool) -> Backend:
        """Send an engine no more requests, or requests again. Raises `NotFound`."""
        backend = self._fleet.backend(backend_id)
        backend.standing.drained = drained
        self._changed(backend)
        return backend

    def found(self, engines: Iterable[BackendSettings]) -> list[str]:
        """What a source of engines lists now: what is new comes in, what it lists no more goes, the rest stays.

        Engines that did not come from it are not touched. Returns what could not be done, one line each.
        """
        listed = {settings.url: settings for settings in engines}
        for url, (settings, backend) in list(self._found.items()):
            if listed.get(url) != settings:
                del self._found[url]
                if backend in self._fleet.backends:
                    self.remove(backend.id)
        faults = []
        for url, settings in listed.items():
            if url not in self._found:
                try:
                    self._found[url] = settings, self.add(settings)
                except InvalidRequest as error:
                    faults.append(error.message)
        return faults
