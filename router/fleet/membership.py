"""Which engines are there? They come and go while the gateway runs, by file, DNS or API, without a request noticing.

An engine that is taken out gets no new request at once, is not probed any more, and finishes what it has: leases hold
the engine, not its name. One that comes in is used once its first probe was good.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping

from router.errors import InvalidRequest
from router.fleet.backend import Backend
from router.fleet.fleet import Fleet
from router.fleet.pairs import Pairs
from router.fleet.probes import Prober
from router.fleet.standing import State
from router.settings.engines import BackendSettings

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
        self._listed: dict[str, dict[str, BackendSettings]] = {}
        self._left_out: dict[str, list[str]] = {}
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

    def found(self, source: str, engines: Iterable[BackendSettings], *, told_again: bool = False) -> list[str]:
        """What a source of engines lists now: what is new comes in, what no source lists any more goes.

        Engines that did not come from a source are not touched; of what several list, the first has its way. Returns
        what of this list could not be done, one line each. With `told_again` the source repeats itself, so that the
        last usable engine of a pool can stay until its successors were probed.
        """
        self._fleet.sources[source] = None
        listed = self._listed[source] = {settings.url: settings for settings in engines}
        wanted = {url: settings for one in reversed(self._listed.values()) for url, settings in one.items()}
        for url, (settings, backend) in list(self._found.items()):
            stays = told_again and url not in wanted and self._is_awaited(backend, wanted)
            if wanted.get(url) != settings and not stays:
                del self._found[url]
                if backend in self._fleet.backends:
                    self.remove(backend.id)
        faults = self._take_in(wanted)
        overruled = (url for url, settings in listed.items() if wanted[url] != settings)
        left_out = [*(fault for url, fault in faults.items() if url in listed), *map(_overruled, overruled)]
        self._left_out[source] = left_out
        return left_out

    def failed(self, source: str, why: str) -> None:
        """A source cannot be read now; what it listed last stays."""
        self._fleet.sources[source] = why

    def complaints(self) -> Iterator[str]:
        """What was wrong with the sources at their last look: it failed, named no engine, or one that was left out."""
        for source, why in self._fleet.sources.items():
            if why is not None:
                yield f"{source}: {why}"
            elif not self._listed[source]:
                yield f"{source}: no engine is listed there"
            yield from (f"{source}: left out: {fault}" for fault in self._left_out.get(source, ()))

    def _is_awaited(self, last: Backend, wanted: Mapping[str, BackendSettings]) -> bool:
        """Whether nobody can take over from an engine yet, and somebody may as soon as it was probed."""
        pool = [b for b in self._fleet.backends if b.role is last.role and b is not last]
        unknown = {b.url for b in pool if b.standing.state is State.UNKNOWN}
        coming = any(s.role is last.role and (url in unknown or url not in self._found) for url, s in wanted.items())
        return last.standing.usable and coming and not any(b.standing.usable and b.url in wanted for b in pool)

    def _take_in(self, wanted: Mapping[str, BackendSettings]) -> dict[str, str]:
        """Add what is not there yet; returns why it could not be, by address."""
        faults = {}
        for url, settings in wanted.items():
            if url not in self._found:
                try:
                    self._found[url] = settings, self.add(settings)
                except InvalidRequest as error:
                    faults[url] = error.message if url in error.message else f"{url}: {error.message}"
        return faults


def _overruled(url: str) -> str:
    return f"{url} is listed elsewhere with another role or other settings, which it keeps"
