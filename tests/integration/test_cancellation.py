"""A request that ends at any step of its life leaves nothing behind, on the gateway or on an engine.

It ends because its client leaves, or because its task is cancelled, once or twice.
The loop is stepped by hand: each request lives for one step longer than the one before, until one lives to its end.
Engines are simulated and on real sockets; time is virtual, so that what may take two seconds takes none.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest

from router.admission.line import Line
from router.admission.permits import Permits
from router.call import Api, Trace
from router.edge.client import Presence
from router.errors import Outcome, RequestError
from router.exchange.exchange import Exchange
from router.exchange.pool import Connections
from router.exchange.relay import Direct
from router.exchange.release import Releases
from router.fleet.fleet import Fleet
from router.gateway import Gateway
from router.routing.choose import Chooser
from router.settings.admission import Admission
from router.settings.exchange import HandoffSettings, Timeouts
from router.settings.routing import Routing
from router.sim.engine import SimEngine
from router.telemetry.events import Journey, Observers, Stage
from tests.support.builders import a_backend, a_retries
from tests.support.fleet import engine
from tests.support.virtual_time import virtual_time

MAX_STEPS = 600
GIVEN_BACK_WITHIN_S = 2.0
IDLE_EXPIRY_S = 4.0


class Socket:
    """A client's socket, lent to the relay."""

    def __init__(self, write: Callable[[bytes], None]) -> None:
        self.write = write
        self.lent = False

    def lend(self, pause: Callable[[], None], resume: Callable[[], None]) -> None:
        """Part of `Direct`."""
        self.lent = True

    def take_back(self) -> None:
        """Part of `Direct`."""
        self.lent = False


class FakeClient:
    """A client that takes everything and takes a step of the loop for each of it."""

    def __init__(self, number: int, *, stream: bool, spliced: bool) -> None:
        self.trace = Trace(f"r-{number}")
        self.session: str | None = None
        self.got = bytearray()
        self.finished = False
        self.errors: list[RequestError] = []
        self._told: Callable[[], None] | None = None
        self.loop = asyncio.get_running_loop()
        self.leaving = False
        self._stream = stream
        self._socket = Socket(self.got.extend) if spliced else None
        self._prompt = f"{number} bottles of beer on the wall. " * 8

    @property
    def direct(self) -> Direct | None:
        """The socket, where it is lent."""
        return self._socket

    @property
    def held(self) -> int:
        """What the gateway has of this client."""
        return (self._told is not None) + (self._socket is not None and self._socket.lent)

    def leave(self) -> None:
        """Close the connection, as the gateway is told of it."""
        self.leaving = True
        if self._told is not None:
            self._told()

    async def body(self) -> bytes:
        """A prompt of its own, so that no engine has it cached."""
        await asyncio.sleep(0)
        fields = {"model": "sim-8b", "stream": self._stream, "prompt": self._prompt, "max_tokens": 4}
        return orjson.dumps(fields)

    def present(self, *, stream: bool) -> Presence:
        """The block ends when it leaves."""
        return Presence(self, _receive)

    def when_gone(self, gone: Callable[[], None] | None) -> None:
        """Part of `Leaver`."""
        self._told = gone

    async def start(self, content_type: bytes, first: bytes) -> None:
        """Part of `Client`."""
        await self.send(first)

    async def send(self, data: bytes) -> None:
        """Part of `Client`."""
        await asyncio.sleep(0)
        self.got += data

    async def finish(self, last: bytes) -> None:
        """Part of `Client`."""
        await self.send(last)
        self.finished = True

    async def answer(self, content_type: bytes, body: bytes) -> None:
        """Part of `Client`."""
        await self.finish(body)

    async def fail(self, error: RequestError) -> None:
        """Part of `Client`."""
        await asyncio.sleep(0)
        self.errors.append(error)


async def _receive() -> Mapping[str, Any]:
    raise AssertionError("the client tells that it leaves")


class Ends:
    """An observer that notes how far each request came; also of releases."""

    def __init__(self) -> None:
        self.notes = {Stage.SETTLED: self.settled}
        self.furthest: list[Stage | None] = []
        self.outcomes: list[Outcome | None] = []
        self.stranded_reasons: list[str] = []
        self.releases = 0

    def settled(self, journey: Journey) -> None:
        """Note it."""
        times = {Stage.COMMITTED: journey.committed_at, Stage.PREFILLED: journey.prefilled_at}
        reached = [stage for stage, at in times.items() if at is not None]
        self.furthest.append(reached[0] if reached else Stage.CHOSEN if journey.decode else None)
        self.outcomes.append(journey.outcome)

    def released(self, reason: str) -> None:
        """Part of `ReleaseObserver`."""
        self.releases += 1

    def stranded(self, reason: str) -> None:
        """Part of `ReleaseObserver`."""
        self.stranded_reasons.append(reason)


class Cut:
    """An observer that has the decode engine close the connection that waits for it while prefill runs."""

    def __init__(self, connections: Connections, decode: SimEngine) -> None:
        self._pool = connections.to(decode.url)
        self.notes = {Stage.PREFILLED: self.cut}

    def cut(self, _: Journey) -> None:
        """The prefill leg has ended."""
        for connection in list(self._pool._open):
            connection.abort()


class Site:
    """A gateway without a listener, over a pair of engines."""

    def __init__(self, prefill: SimEngine, decode: SimEngine, *, disaggregated: bool, cut: bool) -> None:
        clock, rng = asyncio.get_running_loop().time, random.Random(1)
        self.engines = (prefill, decode)
        self.ends = Ends()
        rules = Admission(prefill_permits=1, decode_permits=1)
        self.line = Line(rules, clock)
        self.permits = Permits(rules, self.line)
        ports = [(one.config.role, int(one.url.rsplit(":", 1)[1])) for one in self.engines]
        self.fleet = Fleet([a_backend(role, port) for role, port in ports])
        self.connections = Connections(connect_s=1)
        self.releases = Releases(self.connections, HandoffSettings(), self.ends)
        routing = Routing(mode="disaggregated" if disaggregated else "local")
        self.gateway = Gateway(
            fleet=self.fleet,
            retries=a_retries(self.fleet, clock),
            chooser=Chooser(routing, self.permits.with_room, rng),
            permits=self.permits,
            line=self.line,
            queue_timeout_s=10,
            exchange=Exchange(self.connections, self.releases, Timeouts(), max_answer_bytes=1 << 20, clock=clock),
            observers=Observers(self.ends, *([Cut(self.connections, decode)] if cut else [])),
            clock=clock,
            strip_engine_fields=False,
        )

    def held(self) -> dict[str, object]:
        """What is held for requests, on either side."""
        pools = self.connections._pools.values()
        counts: dict[str, object] = {
            "requests": sum(backend.load.requests for backend in self.fleet.backends),
            "tokens": sum(backend.load.tokens for backend in self.fleet.backends),
            "permits": sum(map(self.permits.taken, self.fleet.backends)),
            "releases": self.releases.open,
            "busy connections": sum(pool.open - pool.idle for pool in pools),
            "engines": [one.ledger.outstanding() for one in self.engines if one.ledger.outstanding()],
        }
        return {name: count for name, count in counts.items() if count}


@asynccontextmanager
async def a_site(*, disaggregated: bool = True, cut: bool = False) -> AsyncIterator[Site]:
    """A gateway and engines that leave it to the gateway to close idle connections."""
    async with engine("prefill", keep_alive_s=3600) as prefill, engine("decode", keep_alive_s=3600) as decode:
        site = Site(prefill, decode, disaggregated=disaggregated, cut=cut)
        yield site
        site.connections.close()


Ending = Callable[[FakeClient, asyncio.Task[None]], object]


def leaves(client: FakeClient, _: asyncio.Task[None]) -> None:
    """The client is gone."""
    client.leave()


def is_cancelled(_: FakeClient, task: asyncio.Task[None]) -> None:
    """The server cancels the request."""
    task.cancel()


async def live_for(steps: int, task: asyncio.Task[None], client: FakeClient, endings: Sequence[Ending]) -> bool:
    """Let a request live for some steps of the loop, then end it, one way a step; tells whether it still lived."""
    for _ in range(steps):
        if task.done():
            break
        await asyncio.sleep(0)
    if alive := not task.done():
        for end in endings:
            end(client, task)
            await asyncio.sleep(0)
    await asyncio.wait([task])
    assert task.cancelled() is (alive and endings[0] is is_cancelled), "a cancellation was swallowed"
    if not task.cancelled():
        task.result()
    return alive


async def sweep(site: Site, *endings: Ending, stream: bool = True, spliced: bool = True) -> None:
    """End a request after each number of steps, until one is over before its turn."""
    loop = asyncio.get_running_loop()
    tasks = len(asyncio.all_tasks())
    for steps in range(MAX_STEPS):
        client = FakeClient(steps, stream=stream, spliced=spliced)
        task = loop.create_task(site.gateway.handle(Api.COMPLETIONS, client))
        alive = await live_for(steps, task, client, endings)
        await asyncio.sleep(GIVEN_BACK_WITHIN_S)
        assert (site.held(), client.held) == ({}, 0), f"ended after {steps} steps"
        await asyncio.sleep(IDLE_EXPIRY_S)
        sockets = [site.connections.open, *(one.ledger.gauges().connections_open for one in site.engines)]
        assert (sockets, len(asyncio.all_tasks())) == ([0, 0, 0], tasks), f"ended after {steps} steps"
        if not alive:
            assert (client.finished, client.errors) == (True, [])
            return
    pytest.fail(f"a request lived for {MAX_STEPS} steps")


@pytest.mark.parametrize(
    "endings", [(leaves,), (is_cancelled,), (is_cancelled, is_cancelled)], ids=["leaves", "cancelled", "twice"]
)
@pytest.mark.parametrize(
    ("stream", "spliced"), [(True, True), (True, False), (False, False)], ids=["spliced", "forwarded", "complete"]
)
@virtual_time
async def test_a_disaggregated_request_that_ends_at_any_step_leaves_nothing(
    stream: bool, spliced: bool, endings: tuple[Ending, ...]
) -> None:
    async with a_site() as site:
        await sweep(site, *endings, stream=stream, spliced=spliced)
        prefill, decode = (one.ledger.totals for one in site.engines)
    assert {Stage.CHOSEN, Stage.PREFILLED, Stage.COMMITTED} <= set(site.ends.furthest)
    assert Outcome.OK in site.ends.outcomes
    assert site.ends.stranded_reasons == []
    assert site.ends.releases > 0
    assert prefill.issued == prefill.pulled + prefill.released
    assert (prefill.pulled_again, prefill.pulled_late, prefill.expired, decode.wrong_texts) == (0, 0, 0, 0)


@pytest.mark.parametrize("ending", [leaves, is_cancelled])
@virtual_time
async def test_a_request_that_ends_between_its_legs_gives_the_kv_back(ending: Ending) -> None:
    async with a_site(cut=True) as site:
        await sweep(site, ending)
        totals = site.engines[0].ledger.totals
    assert totals.issued == totals.pulled + totals.released
    assert (totals.expired, site.ends.stranded_reasons) == (0, [])


@pytest.mark.parametrize("spliced", [True, False])
@virtual_time
async def test_a_local_request_that_ends_at_any_step_leaves_nothing(spliced: bool) -> None:
    async with a_site(disaggregated=False) as site:
        await sweep(site, leaves, spliced=spliced)
    assert {Stage.CHOSEN, Stage.COMMITTED} <= set(site.ends.furthest)
    assert set(site.ends.outcomes) == {Outcome.CLIENT_GONE, Outcome.OK}
