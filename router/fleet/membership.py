"""Which engines are there? They come and go while the gateway runs, by file, DNS or API, without a request noticing.

An engine that is taken out gets no new request at once, is not probed any more, and finishes what it has: leases hold
the engine, not its name. One that comes in is used once its first probe was good, unless an operator has drained what
is at its address: a source may leave an engine out for a moment, or change its settings.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

from router.errors import InvalidRequest
from router.fleet.backend import Backend
from router.fleet.fleet import Fleet
from router.fleet.pairs import Pairs
from router.fleet.probes import Prober
from router.fleet.standing import State
from router.settings.engines import BackendSettings

log = logging.getLogger(__name__)

MOST_DRAINED = 1024
"""Addresses that are kept as drained, also while nothing is there; beyond that the oldest is forgotten."""

Make = Callable[[BackendSettings], Backend]
Changed = Callable[[Backend], None]


class _Found(NamedTuple):
    """An engine that a source listed, and how. `repeated`: by one that repeats itself."""

    settings: BackendSettings
    backend: Backend
    repeated: bool


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
        self._repeating: set[str] = set()
        self._found: dict[str, _Found] = {}
        self._drained: dict[str, None] = {}

    def add(self, settings: BackendSettings) -> Backend:
        """One more engine, drained if its address is. Raises `InvalidRequest` when its address is taken."""
        if any(backend.url == settings.url for backend in self._fleet.backends):
            raise InvalidRequest(f"{settings.url} is in the fleet already; an engine has one role", param="url")
        backend = self._make(settings)
        if backend.id in self._drained:
            backend.standing.drained = True
            log.warning("an engine that came in is drained", extra={"facts": {"backend": backend.id}})
        self._fleet.backends = (*self._fleet.backends, backend)
        self._prober.follow(backend)
        return backend

    def remove(self, backend_id: str) -> Backend:
        """One less, by an operator: what comes to its address is not drained. Raises `NotFound`."""
        self._drained.pop(backend_id, None)
        return self._take_out(self._fleet.backend(backend_id))

    def _take_out(self, backend: Backend) -> Backend:
        self._fleet.backends = tuple(b for b in self._fleet.backends if b is not backend)
        self._pairs.forget(backend.id)
        self._changed(backend)
        return backend

    def drain(self, backend_id: str, *, drained: bool) -> Backend:
        """Send what is at an address no more requests, or requests again. Raises `NotFound`.

        An engine that is not there cannot be drained; that it was, is forgotten all the same.
        """
        self._drained.pop(backend_id, None)
        backend = self._fleet.backend(backend_id)
        if drained:
            self._drained[backend_id] = None
            while len(self._drained) > MOST_DRAINED:
                del self._drained[next(iter(self._drained))]
        backend.standing.drained = drained
        self._changed(backend)
        return backend

    def found(self, source: str, engines: Iterable[BackendSettings], *, told_again: bool = False) -> list[str]:
        """What a source of engines lists now: what is new comes in, what no source lists any more goes.

        Engines that did not come from a source are not touched; of what several list, or one twice, the first has its
        way. Returns what of this list could not be done, one line each. With `told_again` the source repeats itself, so
        that the last usable engine of a pool can stay until its successors were probed, whoever is heard meanwhile.
        """
        self._fleet.sources[source] = None
        if told_again:
            self._repeating.add(source)
        told = list(engines)
        listed = self._listed[source] = _by_address(told)
        twice = [_doubled(settings.url) for settings in told if listed[settings.url] != settings]
        wanted = {url: settings for one in reversed(self._listed.values()) for url, settings in one.items()}
        for url, (settings, backend, repeated) in list(self._found.items()):
            stays = repeated and url not in wanted and self._is_awaited(backend, wanted)
            if wanted.get(url) != settings and not stays:
                del self._found[url]
                if backend in self._fleet.backends:
                    self._take_out(backend)
        faults = self._take_in(wanted)
        self._note_who_repeats()
        overruled = (url for url, settings in listed.items() if wanted[url] != settings)
        left_out = [*twice, *(fault for url, fault in faults.items() if url in listed), *map(_overruled, overruled)]
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
                    self._found[url] = _Found(settings, self.add(settings), repeated=False)
                except InvalidRequest as error:
                    faults[url] = error.message if url in error.message else f"{url}: {error.message}"
        return faults

    def _note_who_repeats(self) -> None:
        """Of every engine, whether who lists it now repeats itself; the word of who listed it last stays."""
        for source, listed in reversed(self._listed.items()):
            for url in listed.keys() & self._found.keys():
                self._found[url] = self._found[url]._replace(repeated=source in self._repeating)


def _by_address(engines: Iterable[BackendSettings]) -> dict[str, BackendSettings]:
    """The first of each address."""
    first: dict[str, BackendSettings] = {}
    for settings in engines:
        first.setdefault(settings.url, settings)
    return first


def _overruled(url: str) -> str:
    return f"{url} is listed elsewhere with another role or other settings, which it keeps"


def _doubled(url: str) -> str:
    return f"{url} is listed twice, with different roles or settings; the first has its way"
