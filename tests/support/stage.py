"""A whole gateway on a stepped loop, before engines that a test plays: every order of events is one it can choose."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

from prometheus_client import CollectorRegistry

from router.admission.line import Line
from router.admission.permits import Permit, Permits, concerned_pools
from router.call import Api, Call, Trace
from router.edge.client import Presence
from router.errors import Leg, RequestError
from router.exchange.exchange import Exchange
from router.exchange.pool import Connections
from router.exchange.relay import Direct
from router.exchange.release import Releases
from router.exchange.warm_up import WarmUps
from router.fleet.backend import Backend
from router.fleet.fleet import Fleet, Snapshot
from router.fleet.pairs import Pairs
from router.fleet.standing import Standing
from router.gateway import Gateway
from router.routing.choose import Chooser, Partners, Room
from router.routing.route import Route, Shortage
from router.settings.admission import Admission
from router.settings.engines import Role
from router.settings.exchange import HandoffSettings, Timeouts
from router.settings.fleet import Ejection, PairRules, Probes
from router.settings.routing import Routing
from router.telemetry.audit import Audit
from router.telemetry.events import Clock, Journey, Note, Observers, RouteKind, Stage
from tests.support.builders import MODEL, a_backend, a_body, a_retries
from tests.support.legs import Told
from tests.support.played_engines import PlayedEngines, well
from tests.support.stepped_loop import SteppedLoop

EJECTION = Ejection(failures=2, first_s=1, longest_s=4)
LOST = ("connect_failed", "connection_lost")


class PlayedClient:
    """A client that takes a step of the loop for whatever it is sent; `ends` counts the ends of its answer."""

    def __init__(self, loop: SteppedLoop, number: int, *, stream: bool, spliced: bool, words: int) -> None:
        self.trace = Trace(f"r-{number}")
        self.session: str | None = None
        self.loop: asyncio.AbstractEventLoop = loop
        self.leaving = False
        self.begun_at: float | None = None
        self.asked = False
        self.started = False
        self.ends = 0
        self.errors: list[RequestError] = []
        self.direct: Direct | None = Lent() if spliced else None
        self._fields = {"stream": stream, "messages": [{"role": "user", "content": "four" * words}]}
        self._told: Callable[[], None] | None = None

    @property
    def held(self) -> bool:
        """The gateway still has something of this client."""
        return self._told is not None or (isinstance(self.direct, Lent) and self.direct.lent)

    def leave(self) -> None:
        """Close the connection."""
        self.leaving = True
        if self._told is not None:
            self._told()

    async def body(self) -> bytes:
        """Part of `Connected`."""
        self.asked = True
        await asyncio.sleep(0)
        return a_body(**self._fields)

    def present(self, *, stream: bool) -> Presence:
        """Part of `Connected`."""
        self.begun_at = self.loop.time()
        return Presence(self, _never)

    def when_gone(self, gone: Callable[[], None] | None) -> None:
        """Part of `Leaver`."""
        self._told = gone

    async def start(self, content_type: bytes, first: bytes) -> None:
        """Part of `Client`."""
        assert not self.started, "two answers"
        await asyncio.sleep(0)
        self.started = True

    async def send(self, data: bytes) -> None:
        """Part of `Client`."""
        await asyncio.sleep(0)
        assert (self.started, self.ends) == (True, 0)

    async def finish(self, last: bytes) -> None:
        """Part of `Client`."""
        await self.send(last)
        self.ends += 1

    async def answer(self, content_type: bytes, body: bytes) -> None:
        """Part of `Client`."""
        assert not self.started, "two answers"
        await asyncio.sleep(0)
        self.ends += 1

    async def fail(self, error: RequestError) -> None:
        """Part of `Client`."""
        await asyncio.sleep(0)
        self.errors.append(error)
        self.ends += 1


class Lent:
    """A client's socket."""

    lent = False

    def write(self, data: bytes) -> None:
        """Part of `Direct`."""

    def lend(self, pause: Callable[[], None], resume: Callable[[], None]) -> None:
        """Part of `Direct`."""
        self.lent = True

    def take_back(self) -> None:
        """Part of `Direct`."""
        self.lent = False


async def _never() -> Mapping[str, Any]:
    raise AssertionError("the client tells that it leaves")


class WatchedLine(Line):
    """Tells who waits for a pool, and until when: with the names of their tasks, the first first."""

    def __init__(self, rules: Admission, clock: Clock) -> None:
        super().__init__(rules, clock)
        self.waiting: dict[Role, list[tuple[float, str]]] = {role: [] for role in Role}

    async def wait(self, model: str, pool: Role, by: float, *, again: bool = False) -> None:
        """The same, watched."""
        place, line = (by, _task_name()), self.waiting[pool]
        later = (at for at, (other_by, _) in enumerate(line) if other_by >= by)
        line.insert(next(later, len(line)) if again else len(line), place)
        try:
            await super().wait(model, pool, by, again=again)
        finally:
            line.remove(place)


class WatchedChooser(Chooser):
    """Tells for whom there is a route now, by the names of their tasks."""

    def __init__(self, rules: Routing, with_room: Room, partners: Partners) -> None:
        super().__init__(rules, with_room, random.Random(0), partners)
        self._last: dict[str, Callable[[], Route | Shortage]] = {}

    def watched(self, fleet: "WatchedFleet") -> None:
        """Choose anew among these engines."""
        self._fleet = fleet

    def choose(self, call: Call, snapshot: Snapshot, *, local: bool = False) -> Route | Shortage:
        """The same, watched."""
        choose, avoid = super().choose, self._fleet.avoided
        self._last[_task_name()] = lambda: choose(call, self._fleet.look(avoid), local=local)
        return choose(call, snapshot, local=local)

    def has_route(self, name: str) -> bool:
        """Whether the request would go if it looked now."""
        return isinstance(self._last[name](), Route)


class WatchedFleet(Fleet):
    """Tells which engines were avoided last."""

    avoided: Collection[Backend] = ()

    def snapshot(self, model: str, avoid: Collection[Backend] = (), at: float = 0.0) -> Snapshot:
        """The same, watched."""
        self.avoided = avoid
        return super().snapshot(model, avoid, at)

    def look(self, avoid: Collection[Backend]) -> Snapshot:
        """Unwatched."""
        return super().snapshot(MODEL, avoid)


def _task_name() -> str:
    task = asyncio.current_task()
    assert task is not None
    return task.get_name()


class StrictPermits(Permits):
    """Fails where a request goes to an engine that may not be used."""

    def take(self, backend: Backend, prompt_tokens: int) -> Permit:
        """The same, strictly."""
        assert backend.standing.usable, f"a request for {backend!r}"
        return super().take(backend, prompt_tokens)


@dataclass
class Ends:
    """How often each journey was settled, and the retries that the budget has to allow."""

    settled: Counter[str] = field(default_factory=Counter)
    reached: Counter[Stage] = field(default_factory=Counter)
    retried_at: list[tuple[str, float]] = field(default_factory=list)
    lost: set[str] = field(default_factory=set)

    @property
    def notes(self) -> Mapping[Stage, Note]:
        """Part of `Observer`."""
        return {stage: partial(self.note, stage) for stage in Stage}

    def note(self, stage: Stage, journey: Journey) -> None:
        """Count a stage."""
        self.reached[stage] += 1
        if stage is Stage.SETTLED:
            self.settled[journey.request_id] += 1
        elif stage is Stage.RETRIED and not self._is_free(journey):
            self.retried_at.append((journey.retry_leg or "", journey.clock()))

    def _is_free(self, journey: Journey) -> bool:
        """Decode that computes the prompt is no other try of decode; nor is the first lost connection counted."""
        if journey.retry_leg == Leg.PREFILL and journey.route is RouteKind.LOCAL:
            return True
        free = journey.retry_reason in LOST and journey.request_id not in self.lost
        self.lost |= {journey.request_id} if free else set()
        return free


@dataclass(eq=False)
class Asking:
    """A client and its request."""

    client: PlayedClient
    task: asyncio.Task[None]
    cancelled: bool = False


class Stand:
    """Two engines of each pool and a gateway; `make` it in the running loop."""

    def __init__(self, admission: Admission, *, prefill: int = 2, decode: int = 2, max_releases: int = 64) -> None:
        self.engines = PlayedEngines()
        self.loop = SteppedLoop(self.engines)
        self.engines.loop = self.loop
        self.told, self.ends = Told(), Ends()
        self.requests: list[Asking] = []
        self.rules = a_retries(Fleet([])).rules
        with self.loop.running():
            self._make(admission, [*([Role.PREFILL] * prefill), *([Role.DECODE] * decode)], max_releases)

    def _make(self, admission: Admission, roles: list[Role], max_releases: int) -> None:
        clock: Clock = self.loop.time
        self.line = WatchedLine(admission, clock)
        self.permits = StrictPermits(admission, self.line)
        engines = [a_backend(role, 9000 + number) for number, role in enumerate(roles)]
        for backend in engines:  # before there is a fleet: it hears of the standings that its engines have then
            backend.standing = Standing(Probes(), EJECTION, clock())
            backend.standing.good_probe(clock())
        self.fleet = WatchedFleet(engines)
        self.pairs = Pairs(PairRules())
        self.connections = Connections(connect_s=1)
        self.releases = Releases(self.connections, HandoffSettings(max_releases=max_releases), self.told)
        no_warm_ups = cast("WarmUps", SimpleNamespace(open=0))
        self.audit = Audit(self.fleet, self.permits, self.connections, self.releases, no_warm_ups, CollectorRegistry())
        self.chooser = WatchedChooser(
            Routing(min_novel_tokens=0, min_concurrency=0, local_prefill_budget_tokens=150),
            self.permits.with_room,
            lambda decode, prefill: [p for p in prefill if self.pairs.usable(p.id, decode.id, clock())],
        )
        self.chooser.watched(self.fleet)
        retries = a_retries(self.fleet, clock, self.pairs, min_pause_s=0.01, max_pause_s=0.1, reserve=2)
        self.rules = retries.rules
        self.gateway = Gateway(
            fleet=self.fleet,
            retries=replace(retries, notice=self.call_who_waits),
            chooser=self.chooser,
            permits=self.permits,
            line=self.line,
            queue_timeout_s=admission.queue_timeout_s,
            exchange=Exchange(self.connections, self.releases, Timeouts(), max_answer_bytes=1 << 20, clock=clock),
            observers=Observers(self.ends),
            clock=clock,
            strip_engine_fields=False,
        )

    def call_who_waits(self, backend: Backend) -> None:
        """As the application does when an engine's state has changed."""
        for pool in concerned_pools(backend):
            self.line.call_first(backend.models, pool)

    # What happens

    def arrive(self, *, stream: bool = True, spliced: bool = True, words: int = 4) -> Asking:
        """One more request."""
        client = PlayedClient(self.loop, len(self.requests), stream=stream, spliced=spliced, words=words)
        task = self.loop.start(self.gateway.handle(Api.CHAT, client), client.trace.request_id)
        self.requests.append(Asking(client, task))
        return self.requests[-1]

    def cancel(self, asking: Asking) -> None:
        """The server ends a request."""
        with self.loop.running():
            asking.cancelled |= asking.client.asked and asking.task.cancel()
            if not asking.client.asked:
                asking.task.cancel()

    def probe(self, backend: Backend, *, good: bool) -> None:
        """A probe has ended."""
        now = self.loop.time()
        if backend.standing.good_probe(now) if good else backend.standing.bad_probe("no", now):
            self.call_who_waits(backend)

    def drain(self, backend: Backend, *, drained: bool) -> None:
        """An operator takes an engine out, or back in."""
        backend.standing.drained = drained
        self.call_who_waits(backend)

    @property
    def living(self) -> list[Asking]:
        """Requests that have not ended."""
        return [asking for asking in self.requests if not asking.task.done()]

    def finish(self, order: Callable[[], int] = lambda: 0) -> None:
        """Everything goes well from now on, until nothing is left to do."""
        for _ in range(1000):
            self.loop.settle(order)
            moved = self.engines.accept(0) or self.engines.play(0, well) or self.engines.go_on(0)
            if not moved and not ((self.living or self.connections.open) and self.loop.pass_time()):
                return
        raise AssertionError(f"it does not end: {self.living}")

    # What must hold

    def violations(self) -> Iterator[str]:
        """What does not hold, which must hold between any two steps."""
        yield from (what for _, what in self.audit.violations())
        yield from (str(crash) for crash in self.loop.crashes)
        answering = self.fleet.inflight
        waiting = sum(map(self.line.depth, Role))
        if answering + waiting > len(self.living):
            yield f"who waits holds something: {answering} + {waiting} of {len(self.living)}"
        yield from self._too_many_retries()

    def _too_many_retries(self) -> Iterator[str]:
        since = self.loop.time() - self.rules.window_s
        begun = [asking.client.begun_at for asking in self.requests]
        allowed = sum(at is not None and at > since for at in begun) * self.rules.share + self.rules.reserve
        for leg in Leg:
            times = [at for of, at in self.ends.retried_at if leg == of and at > since]
            if times and times[-1] == self.loop.time() and len(times) > allowed:
                yield f"{len(times)} retries of {leg} where {allowed} are allowed"

    def waits_in_vain(self) -> list[str]:
        """Who is first in a line and could go; with no step due, nobody has been told of it."""
        first = [line[0][1] for line in self.line.waiting.values() if line]
        return [name for name in first if self.chooser.has_route(name)]

    def left(self) -> dict[str, Any]:
        """What is held though everything has ended."""
        counts: dict[str, Any] = {
            "requests": sum(b.load.requests for b in self.fleet.backends),
            "tokens": sum(b.load.tokens for b in self.fleet.backends),
            "on trial": sum(b.standing.on_trial for b in self.fleet.backends),
            "permits": sum(map(self.permits.taken, self.fleet.backends)) + self.permits.all_requests,
            "waiting": sum(map(self.line.depth, Role)),
            "releases": self.releases.open,
            "connections": self.connections.open,
            "clients": sum(asking.client.held for asking in self.requests),
            "kv": len(self._forgotten()),
        }
        return {name: count for name, count in counts.items() if count}

    def _forgotten(self) -> set[str]:
        """KV that was neither used nor given back, beyond what was counted as stranded."""
        books = self.engines.books
        unaccounted = books.named - books.sent - books.freeing
        stranded = sum(count for what, count in self.told.counts.items() if what.startswith("stranded"))
        return unaccounted if len(unaccounted) > stranded else set()

    def badly_ended(self) -> list[str]:
        """Requests without exactly one answer and one end; cut off in the middle of their answer, they have none."""
        return [
            f"{client.trace.request_id}: {client.ends} answers, {self.ends.settled[client.trace.request_id]} ends, "
            f"cancelled: {asking.cancelled}, {asking.task!r}"
            for asking in self.requests
            if (client := asking.client).asked and not self._is_well_ended(asking)
        ]

    def _is_well_ended(self, asking: Asking) -> bool:
        client, task = asking.client, asking.task
        if self.ends.settled[client.trace.request_id] != 1 or task.cancelled() is not asking.cancelled:
            return False
        if not task.cancelled():
            task.result()
        if client.leaving and not asking.cancelled and client.ends == 1 and client.errors:
            return True  # whatever it was told, it is not there
        return client.ends == 1 or (asking.cancelled and client.ends == 0)
