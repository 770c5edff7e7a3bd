"""The legs of one request: prefill, hand-over, decode, up to the point where a client may hear of it."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

from router.call import Call
from router.engines.dialect import Source
from router.engines.handoff import Handoff
from router.errors import BadAnswer, BadHandoff, EngineFault, Leg, Outcome
from router.exchange import judge, rewrite
from router.exchange.answer import END, Answer
from router.exchange.events import EventStream
from router.exchange.head import post
from router.exchange.pool import Checkout, Connections
from router.exchange.release import Releases
from router.fleet.backend import Backend
from router.settings.exchange import Timeouts
from router.telemetry.events import Clock, Journey

TIMEOUT_TOKENS_PER_S = 1000
"""Timers that cover a prefill grow by a second per so many prompt tokens; a loaded H100 does ten times as many."""


@dataclass(slots=True)
class Legs:
    """The engines of one try. `prefill_over` is told how the prefill leg ended, as soon as it has."""

    decode: Backend
    prefill: Backend | None
    prefill_over: Callable[[Outcome], None]


@dataclass(slots=True)
class Opened:
    """An answer that has proved to be one: the engine's work has begun (stream) or is complete.

    `body` is a complete answer, or the first events of a `stream` that goes on in `answer`.
    """

    answer: Answer
    stream: EventStream | None
    body: bytes

    @property
    def at_own_pace(self) -> bool:
        """Whether it is a stream whose engine never had to wait for the client: it took the engine's own time."""
        return self.stream is not None and not self.answer.was_paused


class Exchange:
    """Speaks to engines for requests. Times are loop times."""

    def __init__(
        self, connections: Connections, releases: Releases, timeouts: Timeouts, *, max_answer_bytes: int, clock: Clock
    ) -> None:
        self._connections = connections
        self._releases = releases
        self._timeouts = timeouts
        self._max_answer_bytes = max_answer_bytes
        self._clock = clock

    def open(self, call: Call, legs: Legs, journey: Journey) -> "Opening":
        """Both legs, up to a proven answer, which lives as long as the block.

        The connection to the decode engine comes first, so that one that refuses connections wastes no prefill. A
        hand-over that no decode engine takes is released, however the block ends. Entering raises `EngineRefusal`, and
        `EngineFault` that knows its leg.
        """
        return Opening(self, self._connections.to(legs.decode.url).checkout(), call, legs, journey)

    async def open_on(self, held: Checkout, call: Call, legs: Legs, journey: Journey) -> Opened:
        """Both legs, on a connection to the decode engine.

        What only they need, body and hand-over, is not kept for as long as a stream lasts.
        """
        try:
            if not held.live:
                await held.connect()
        except EngineFault as fault:
            raise fault.in_leg(Leg.DECODE) from None
        handoff = await self._handoff(call, legs, journey)
        with self._releases.unless_used(handoff, legs.decode):
            try:
                opened = await self._decode(held, call, legs.decode, handoff, journey)
            except EngineFault as fault:
                raise fault.in_leg(Leg.DECODE) from None
        call.drop_body()
        return opened

    async def _handoff(self, call: Call, legs: Legs, journey: Journey) -> Handoff | None:
        """The prefill leg, if the route has one; None when decode is to compute the prompt itself."""
        if legs.prefill is None:
            return None
        try:
            handoff = await self._prefill(call, legs.prefill, legs, journey)
        except EngineFault as fault:
            legs.prefill_over(fault.outcome)
            raise fault.in_leg(Leg.PREFILL) from None
        legs.prefill_over(Outcome.OK)
        if handoff is None:
            journey.fell_back("nothing_to_hand_over", None)
        else:
            journey.prefilled()
        return handoff

    async def _prefill(self, call: Call, backend: Backend, legs: Legs, journey: Journey) -> Handoff | None:
        body = backend.paired.prefill_body(call)
        journey.prefill_sent()
        with self._connections.to(backend.url).checkout() as held:
            if not held.live:
                await held.connect()
            sent_at = self._clock()
            answer = held.send(post(backend, call.api, len(body), call.trace.of_leg(Leg.PREFILL)), body)
            self._expect(answer, "prefill answer", self._timeouts.prefill_timeout_s, backend, call, journey)
            try:
                return await self._claim(answer, call, backend, sent_at)
            except asyncio.CancelledError:
                claim = partial(self._claim, answer, call, backend, sent_at)
                self._releases.see_off(held.hand_over(), partial(self._renounce, claim, legs.decode))
                raise

    async def _claim(self, answer: Answer, call: Call, backend: Backend, sent_at: float) -> Handoff | None:
        """The hand-over in a prefill answer, once that is complete."""
        content = await self._content(answer, judge.JSON, backend)
        unfinished_at = backend.unfinished.until(sent_at)
        source = Source(backend.kv_peers, backend.settings.kv_hosts, unfinished_at, backend.handoff_max_age_s)
        return backend.paired.handoff(call, content, source)

    async def _renounce(self, claim: Callable[[], Awaitable[Handoff | None]], decode: Backend) -> None:
        """Release what a prefill leg still brings after its request gave it up."""
        if handoff := await claim():
            self._releases.release(handoff, decode, "prefill_given_up")

    async def _decode(
        self, held: Checkout, call: Call, backend: Backend, handoff: Handoff | None, journey: Journey
    ) -> Opened:
        journey.prefill_usage = handoff.usage if handoff else None
        stream = EventStream(backend.dialect, journey, shows_usage=call.include_usage) if call.stream else None
        if not held.live:
            await held.connect()  # before the hand-over is spent: one that was never sent can be given back
        body = self._decode_body(call, backend, handoff, journey)
        answer = held.send(post(backend, call.api, len(body), call.trace.of_leg(Leg.DECODE)), body)
        try:
            if stream is not None:
                self._expect(answer, "first event", self._timeouts.first_event_timeout_s, backend, call, journey)
                content = await self._first_events(answer, stream, backend)
            else:
                self._expect(answer, END, self._timeouts.total_s, backend, call, journey)
                content = rewrite.answer(await self._content(answer, judge.JSON, backend), journey)
        except BadAnswer as fault:
            fault.over = answer.complete
            raise
        except asyncio.CancelledError:
            if handoff is not None:
                self._releases.see_off(held.hand_over(), partial(self._first_bytes, answer))
            raise
        answer.limit(self._timeouts.stream_idle_s, journey.received_at + self._timeouts.total_s)
        return Opened(answer, stream, content)

    def _decode_body(self, call: Call, backend: Backend, handoff: Handoff | None, journey: Journey) -> bytes:
        """With the hand-over while it may still be used; a plain body, always right, when it got too old."""
        if handoff is not None:
            try:
                return backend.paired.decode_body(call, handoff, self._clock())
            except BadHandoff as fault:
                self._releases.release(handoff, backend, "over_age")
                journey.fell_back("over_age", fault.detail)
        return backend.dialect.plain_body(call)

    async def _content(self, answer: Answer, wanted: bytes, backend: Backend) -> bytes:
        """The whole body of a 200."""
        status = answer.status or await answer.head()
        content = await answer.read_all(self._max_answer_bytes)
        if status != 200:
            raise judge.fault_of_status(status, backend.id, content)
        judge.check_head(answer.headers, wanted, backend.id)
        return content

    async def _first_events(self, answer: Answer, stream: EventStream, backend: Backend) -> bytes:
        """The first events of a 200 stream; the first of them proves that the engine works on it."""
        if (answer.status or await answer.head()) != 200:
            await self._content(answer, judge.EVENT_STREAM, backend)
        judge.check_head(answer.headers, judge.EVENT_STREAM, backend.id)
        while data := await answer.read():
            if events := stream.take(data):
                return events
        raise BadAnswer(f"{backend.id}: a stream without an event")

    async def _first_bytes(self, answer: Answer) -> None:
        """Until a decode engine has certainly taken the request up."""
        if await answer.head() == 200:
            await answer.read()

    def _expect(
        self, answer: Answer, awaited: str, limit_s: float, backend: Backend, call: Call, journey: Journey
    ) -> None:
        """Wait for `limit_s` of a small prompt, longer for a long one, inside the request's total time.

        No byte comes before all of it is there, so an engine that still works is not silent.
        """
        timeouts = self._timeouts
        grown_s = limit_s + call.prompt_tokens / TIMEOUT_TOKENS_PER_S
        answer.expect(
            awaited,
            self._clock() + grown_s,
            ends_at=journey.received_at + timeouts.total_s,
            silent_s=timeouts.stream_idle_s,
            worked_at=backend.progress.worked_at,
        )


class Opening:
    """A block around an answer: entering it goes through the legs, leaving it gives the connection back."""

    __slots__ = ("_call", "_exchange", "_held", "_journey", "_legs")

    def __init__(self, exchange: Exchange, held: Checkout, call: Call, legs: Legs, journey: Journey) -> None:
        self._exchange, self._held = exchange, held
        self._call, self._legs, self._journey = call, legs, journey

    async def __aenter__(self) -> Opened:
        held = self._held.__enter__()
        try:
            return await self._exchange.open_on(held, self._call, self._legs, self._journey)
        except BaseException:
            held.__exit__()
            raise

    async def __aexit__(self, *_: object) -> None:
        self._held.__exit__()
