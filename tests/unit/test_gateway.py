"""Every request gets one answer and has one end, and what it held is given back, whichever step fails."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from router.admission.line import Line
from router.admission.permits import Permits
from router.call import Api, Call, Trace
from router.edge.client import Presence
from router.errors import BadAnswer, ClientGone, EngineRefusal, Outcome, RequestError, TooLarge, Unavailable
from router.exchange.answer import Answer
from router.exchange.exchange import Exchange, Legs, Opened
from router.fleet.backend import Backend
from router.fleet.fleet import Fleet
from router.gateway import Gateway
from router.routing.choose import Chooser
from router.settings import Admission, Role, Routing
from router.telemetry.events import Journey, RouteKind, Stage
from tests.support.builders import a_backend, a_body, a_retries

ANSWER = b'{"choices":[]}'


@dataclass
class FakeClient:
    """A client that sent `raw` and remembers what it was told; `direct` is that of a server that lends no socket."""

    raw: bytes | RequestError
    trace: Trace = field(default_factory=lambda: Trace("r-1"))
    direct: None = None
    told: list[bytes | RequestError] = field(default_factory=list)
    leaves: bool = False

    async def body(self) -> bytes:
        if isinstance(self.raw, RequestError):
            raise self.raw
        return self.raw

    def present(self) -> AbstractContextManager[None]:
        return Presence(Departure(), receive) if self.leaves else nullcontext()

    async def start(self, content_type: bytes, first: bytes) -> None: ...

    async def send(self, data: bytes) -> None: ...

    async def finish(self, last: bytes) -> None: ...

    async def answer(self, content_type: bytes, body: bytes) -> None:
        self.told.append(body)

    async def fail(self, error: RequestError) -> None:
        self.told.append(error)


class Departure:
    """A client that leaves as soon as it is watched."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.leaving = False

    def when_gone(self, gone: Callable[[], None] | None) -> None:
        if gone is not None:
            self.loop.call_soon(gone)


async def receive() -> Mapping[str, Any]:
    raise AssertionError("not asked")


class FakeExchange:
    """Engines that answer, or fail with `fault`; remembers the legs, and the loads while they ran."""

    def __init__(self, fault: BaseException | None = None) -> None:
        self.fault = fault
        self.legs: Legs | None = None
        self.busy: list[int] = []

    @asynccontextmanager
    async def open(self, call: Call, legs: Legs, journey: Journey) -> AsyncIterator[Opened]:
        self.legs = legs
        self.busy = [legs.prefill.load.requests if legs.prefill else 0, legs.decode.load.requests]
        await asyncio.sleep(0)
        if self.fault:
            raise self.fault
        legs.prefill_over(Outcome.OK)
        self.busy += [legs.prefill.load.requests if legs.prefill else 0, legs.decode.load.requests]
        yield Opened(cast("Answer", None), None, ANSWER)


class Ends:
    """An observer of how requests ended."""

    def __init__(self) -> None:
        self.journeys: list[Journey] = []

    def observe(self, stage: Stage, journey: Journey) -> None:
        if stage is Stage.SETTLED:
            self.journeys.append(journey)


class Site:
    """A gateway of two engines."""

    def __init__(self, fault: BaseException | None = None, **admission: int) -> None:
        self.backends: list[Backend] = [a_backend(Role.PREFILL, 1), a_backend(Role.DECODE, 2)]
        self.line = Line(Admission(**admission), lambda: 0.0)
        self.permits = Permits(Admission(**admission), self.line)
        self.exchange = FakeExchange(fault)
        self.ends = Ends()
        rules = Routing(min_novel_tokens=0, min_concurrency=0)
        fleet = Fleet(self.backends)
        self.gateway = Gateway(
            fleet=fleet,
            retries=a_retries(fleet),
            chooser=Chooser(rules, self.permits.has_room, random.Random(0)),
            permits=self.permits,
            line=self.line,
            queue_timeout_s=10,
            exchange=cast("Exchange", self.exchange),
            observers=(self.ends,),
            clock=lambda: 0.0,
            strip_engine_fields=False,
        )

    async def ask(self, client: FakeClient) -> Journey:
        """The journey of one request, after which nothing may be held."""
        try:
            await self.gateway.handle(Api.CHAT, client)
        finally:
            assert [backend.load.requests for backend in self.backends] == [0, 0]
            assert [self.permits.taken(backend) for backend in self.backends] == [0, 0]
        (journey,) = self.ends.journeys
        return journey


def asks(**fields: Any) -> FakeClient:
    return FakeClient(a_body(**fields))


async def test_a_request_goes_over_both_engines_and_is_answered_once() -> None:
    site, client = Site(), asks()
    journey = await site.ask(client)
    assert client.told == [ANSWER]
    assert (journey.outcome, journey.status, journey.route) == (Outcome.OK, 200, RouteKind.DISAGGREGATED)
    assert (journey.prefill, journey.decode) == ("127.0.0.1:1", "127.0.0.1:2")


async def test_the_prefill_engine_is_let_go_before_the_answer_ends() -> None:
    site = Site()
    await site.ask(asks())
    assert site.exchange.busy == [1, 1, 0, 1]


@pytest.mark.parametrize(
    ("fault", "outcome", "status"),
    [
        (BadAnswer("cut"), Outcome.UPSTREAM_ERROR, 502),
        (EngineRefusal(422, b"{}"), Outcome.CLIENT_ERROR, 422),
        (ClientGone(), Outcome.CLIENT_GONE, 499),
    ],
)
async def test_a_failing_exchange_is_told_once_and_leaves_nothing(
    fault: RequestError, outcome: Outcome, status: int
) -> None:
    site, client = Site(fault), asks()
    journey = await site.ask(client)
    assert client.told == [fault]
    assert (journey.outcome, journey.status, journey.error) == (outcome, status, fault)


async def test_a_client_of_a_gateway_that_stops_is_told_so() -> None:
    site, client = Site(asyncio.CancelledError()), asks()
    with pytest.raises(asyncio.CancelledError):
        await site.ask(client)
    (error,) = client.told
    assert isinstance(error, Unavailable)
    assert error.code == "stopping"
    assert site.ends.journeys[0].error is error


async def test_a_client_that_leaves_ends_its_exchange() -> None:
    client = asks()
    client.leaves = True
    journey = await Site().ask(client)
    assert journey.outcome is Outcome.CLIENT_GONE


async def test_a_body_that_cannot_be_read_reaches_no_engine() -> None:
    site, client = Site(), FakeClient(TooLarge("too large"))
    journey = await site.ask(client)
    assert (journey.status, journey.route, journey.model) == (413, RouteKind.NONE, "other")
    assert site.exchange.legs is None


async def test_an_unknown_model_is_404_and_counted_as_other() -> None:
    site, client = Site(), asks(model="nobody-serves-this")
    journey = await site.ask(client)
    assert (journey.status, journey.model) == (404, "other")
    assert isinstance(client.told[0], RequestError)
    assert client.told[0].param == "model"


async def test_without_room_the_answer_is_503_and_says_when_to_come_back() -> None:
    site, client = Site(decode_permits=1, prefill_permits=1), asks()
    held = site.permits.take(site.backends[1])
    await site.gateway.handle(Api.CHAT, client)
    held.release()
    (error,) = client.told
    assert isinstance(error, Unavailable)
    assert (error.status, error.code, error.retry_after_s) == (503, "decode_saturated", 1)
    assert site.ends.journeys[0].outcome is Outcome.REJECTED
