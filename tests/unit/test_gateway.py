"""Every request gets one answer and has one end, and what it held is given back, whichever step fails."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, cast
from unittest import mock

import pytest

from router.admission.line import Line
from router.admission.permits import Permits, concerned_pools
from router.call import Api, Call, Trace
from router.edge.client import Presence
from router.errors import (
    BadAnswer,
    ClientGone,
    EngineRefusal,
    InternalFault,
    Outcome,
    RequestError,
    TooLarge,
    Unavailable,
)
from router.exchange.answer import Answer
from router.exchange.events import EventStream
from router.exchange.exchange import Exchange, Legs, Opened
from router.fleet.backend import Backend
from router.fleet.fleet import Fleet
from router.gateway import Gateway
from router.retries import Tries
from router.routing.choose import Chooser
from router.settings.admission import Admission
from router.settings.engines import Role
from router.settings.routing import Routing
from router.telemetry.events import Clock, Journey, Observers, RouteKind, Stage
from tests.support.builders import MODEL, a_backend, a_body, a_call, a_retries
from tests.support.virtual_time import virtual_time

ANSWER = b'{"choices":[]}'


@dataclass
class FakeClient:
    """A client that sent `raw` and remembers what it was told; `direct` is that of a server that lends no socket."""

    raw: bytes | RequestError
    trace: Trace = field(default_factory=lambda: Trace("r-1"))
    direct: None = None
    told: list[bytes | RequestError] = field(default_factory=list)
    leaves: bool = False
    session: str | None = None

    async def body(self) -> bytes:
        if isinstance(self.raw, RequestError):
            raise self.raw
        return self.raw

    def present(self, *, stream: bool) -> AbstractContextManager[None]:
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


class FakeStream:
    """A stream that ends at once, and its answer."""

    def __init__(self, *, was_paused: bool) -> None:
        self.was_paused = was_paused

    async def read(self) -> bytes:
        return b""

    def end(self) -> None: ...


class FakeExchange:
    """Engines that answer, or fail with `fault`; remembers the legs, and the loads while they ran."""

    def __init__(self, fault: BaseException | None = None) -> None:
        self.fault = fault
        self.stream: FakeStream | None = None
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
        if self.stream is not None:
            journey.events = 100
        yield Opened(cast("Answer", self.stream), cast("EventStream | None", self.stream), ANSWER)


class Ends:
    """An observer of how requests ended."""

    def __init__(self) -> None:
        self.journeys: list[Journey] = []
        self.notes = {Stage.SETTLED: self.journeys.append}


class Site:
    """A gateway of two engines."""

    def __init__(
        self, fault: BaseException | None = None, *, clock: Clock = lambda: 0.0, budget: int = 8192, **admission: int
    ) -> None:
        self.backends: list[Backend] = [a_backend(Role.PREFILL, 1), a_backend(Role.DECODE, 2)]
        self.line = Line(Admission(**admission), clock)
        self.permits = Permits(Admission(**admission), self.line)
        self.exchange = FakeExchange(fault)
        self.ends = Ends()
        rules = Routing(min_novel_tokens=100, min_concurrency=0, local_prefill_budget_tokens=budget)
        fleet = Fleet(self.backends)
        self.gateway = Gateway(
            fleet=fleet,
            retries=a_retries(fleet),
            chooser=Chooser(rules, self.permits.with_room, random.Random(0)),
            permits=self.permits,
            line=self.line,
            queue_timeout_s=10,
            exchange=cast("Exchange", self.exchange),
            observers=Observers(self.ends),
            clock=clock,
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


def asks(prompt_tokens: int = 500, **fields: Any) -> FakeClient:
    return FakeClient(a_body(messages=[{"role": "user", "content": "four" * prompt_tokens}], **fields))


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


@pytest.mark.parametrize(("was_paused", "samples"), [(False, 1), (True, 0)])
async def test_how_fast_a_client_reads_is_not_taken_for_the_engines_pace(was_paused: bool, samples: int) -> None:
    site = Site()
    site.exchange.stream = FakeStream(was_paused=was_paused)
    await site.ask(asks(stream=True))
    assert site.backends[1].paces.decode.samples == samples


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


async def test_what_nobody_foresaw_is_told_once_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    site, client = Site(ZeroDivisionError("a secret")), asks()
    journey = await site.ask(client)
    (error,) = client.told
    assert isinstance(error, InternalFault)
    assert (error.status, error.code, error.type) == (500, "internal_error", "internal_error")
    assert "secret" not in error.message + (error.detail or "")
    assert (journey.outcome, journey.status, journey.error) == (Outcome.INTERNAL_ERROR, 500, error)
    (record,) = caplog.records
    assert (record.levelname, record.exc_info and record.exc_info[0]) == ("ERROR", ZeroDivisionError)


async def test_an_answer_that_has_ended_is_not_followed_by_an_error(caplog: pytest.LogCaptureFixture) -> None:
    site, client = Site(), asks()

    def fail(_: Journey) -> None:
        raise ZeroDivisionError

    site.gateway.observers.at[Stage.SETTLED] += (fail,)
    await site.ask(client)
    assert client.told == [ANSWER]
    assert len(caplog.records) == 1


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
    held = site.permits.take(site.backends[1], 10)
    await site.gateway.handle(Api.CHAT, client)
    held.release()
    (error,) = client.told
    assert isinstance(error, Unavailable)
    assert (error.status, error.code, error.retry_after_s) == (503, "decode_saturated", 1)
    assert site.ends.journeys[0].outcome is Outcome.REJECTED


class Crowd:
    """Requests that are asked one after the other, and the order in which they were answered."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.answered: list[str] = []
        self.tasks: list[asyncio.Task[None]] = []

    async def ask(self, name: str, prompt_tokens: int) -> None:
        async def handle() -> None:
            client = asks(prompt_tokens)
            await self.site.gateway.handle(Api.CHAT, client)
            self.answered.append(name if client.told == [ANSWER] else f"-{name}")

        self.tasks.append(asyncio.get_running_loop().create_task(handle()))
        await asyncio.sleep(0.01)


def crowded(**admission: int) -> tuple[Site, Crowd]:
    """A gateway whose decode engine computes no prompt in prefill's stead, on the loop's time."""
    site = Site(None, clock=asyncio.get_running_loop().time, budget=0, **admission)
    return site, Crowd(site)


@virtual_time
async def test_novel_prompts_wait_for_prefill_while_others_pass() -> None:
    site, crowd = crowded(prefill_permits=1)
    held = site.permits.take(site.backends[0], 1)
    await crowd.ask("novel", 500)
    await crowd.ask("short", 10)
    assert (crowd.answered, site.line.depth(Role.PREFILL), site.line.depth(Role.DECODE)) == (["short"], 1, 0)
    held.release()
    await asyncio.wait(crowd.tasks)
    assert crowd.answered == ["short", "novel"]
    assert site.ends.journeys[-1].queue == "prefill"


@virtual_time
async def test_who_comes_later_does_not_overtake_who_waits_for_prefill() -> None:
    site, crowd = crowded(prefill_permits=2, prefill_permit_tokens=300)
    held = [site.permits.take(site.backends[0], 1) for _ in range(2)]
    await crowd.ask("long", 500)
    held[0].release()  # room for a short one, not for the long one in front of it
    await crowd.ask("shorter", 200)
    assert crowd.answered == []
    held[1].release()
    await asyncio.wait(crowd.tasks)
    assert crowd.answered == ["long", "shorter"]


@virtual_time
async def test_who_has_waited_for_prefill_and_finds_decode_full_waits_for_that_first_in_line() -> None:
    site, crowd = crowded(prefill_permits=1, decode_permits=1)
    prefill, decode = (site.permits.take(backend, 1) for backend in site.backends)
    decode.release()
    await crowd.ask("novel", 500)
    decode = site.permits.take(site.backends[1], 1)
    await crowd.ask("short", 10)
    prefill.release()
    await asyncio.sleep(0.01)
    assert (site.line.depth(Role.PREFILL), site.line.depth(Role.DECODE)) == (0, 2)
    decode.release()
    await asyncio.wait(crowd.tasks)
    assert crowd.answered == ["novel", "short"]


@virtual_time
async def test_all_that_go_on_from_one_line_to_the_other_keep_their_order() -> None:
    site, crowd = crowded(prefill_permits=1, decode_permits=1)
    prefill = site.permits.take(site.backends[0], 1)
    for name in ("novel 1", "novel 2", "novel 3"):
        await crowd.ask(name, 500)
    decode = site.permits.take(site.backends[1], 1)
    await crowd.ask("short", 10)
    prefill.release()
    await asyncio.sleep(0.01)
    assert (site.line.depth(Role.PREFILL), site.line.depth(Role.DECODE)) == (0, 4)
    decode.release()
    await asyncio.wait(crowd.tasks)
    assert crowd.answered == ["novel 1", "novel 2", "novel 3", "short"]


def comes_up(site: Site, role: Role) -> Backend:
    """One more engine, of which those are told whom it concerns."""
    engine = a_backend(role, 3)
    site.gateway.fleet.backends = (*site.backends, engine)
    for pool in concerned_pools(engine):
        site.line.call_first(engine.models, pool)
    return engine


@virtual_time
async def test_an_aggregated_engine_that_comes_up_serves_who_waits_for_prefill() -> None:
    site, crowd = crowded(prefill_permits=1)
    held = site.permits.take(site.backends[0], 1)
    await crowd.ask("first", 500)
    await crowd.ask("second", 500)
    comes_up(site, Role.AGGREGATED)
    await asyncio.sleep(0.01)
    assert crowd.answered == ["first", "second"]
    held.release()


@virtual_time
async def test_who_waits_for_prefill_stays_where_he_is_when_an_engine_comes_up_that_is_of_no_use_to_him() -> None:
    site, crowd = crowded(prefill_permits=1)
    held = site.permits.take(site.backends[0], 1)
    await crowd.ask("first", 500)
    await crowd.ask("second", 500)
    chosen = mock.Mock(wraps=site.gateway.chooser.choose)
    with mock.patch.object(Chooser, "choose", chosen):
        comes_up(site, Role.DECODE)  # which has no budget for prompts either
        await asyncio.sleep(1)
    assert (crowd.answered, site.line.depth(Role.PREFILL), chosen.call_count) == ([], 2, 1)
    held.release()
    await asyncio.wait(crowd.tasks)
    assert crowd.answered == ["first", "second"]


@virtual_time
async def test_a_turn_that_is_of_no_use_is_passed_on() -> None:
    site, crowd = crowded(prefill_permits=1, decode_permits=2)
    prefill = site.permits.take(site.backends[0], 1)
    held = [site.permits.take(site.backends[1], 1) for _ in range(2)]
    await crowd.ask("novel", 500)
    await crowd.ask("short", 10)
    held[0].release()
    await asyncio.sleep(0.01)
    assert crowd.answered == ["short"], "the first in line had to go on to wait for prefill"
    prefill.release()
    await asyncio.wait(crowd.tasks)
    assert crowd.answered == ["short", "novel"]


@virtual_time
async def test_an_engine_that_has_computed_a_prompt_in_prefills_stead_may_compute_another() -> None:
    site = Site(clock=asyncio.get_running_loop().time, budget=600, prefill_permits=1)
    site.backends[1].load.local_tokens = 500
    crowd, _ = Crowd(site), site.permits.take(site.backends[0], 1)
    await crowd.ask("novel", 500)
    assert site.line.depth(Role.PREFILL) == 1
    site.backends[1].load.local_tokens = 0
    site.permits.prompt_computed(site.backends[1])
    await asyncio.wait(crowd.tasks)
    assert crowd.answered == ["novel"]


@virtual_time
async def test_who_has_waited_takes_also_an_engine_that_failed_it() -> None:
    site = Site(clock=asyncio.get_running_loop().time, decode_permits=1)
    failed, other = site.backends[1], a_backend(Role.DECODE, 3)
    site.gateway.fleet.backends = (failed, other)
    permits = [site.permits.take(engine, 1) for engine in (failed, other)]
    tries, journey = Tries(MODEL, avoid=frozenset({failed})), Journey("r-1", "chat", 0.0, lambda: 0.0, Observers())
    call = a_call()
    placing = asyncio.get_running_loop().create_task(site.gateway._place(call, tries, journey))
    await asyncio.sleep(0.01)
    permits[0].release()
    assert (await placing).decode is failed
