"""The answer's way to the client. Its first byte is the commit point: before it a request may be tried again, after
it a failure can only be told inside the answer."""

from typing import Protocol

from router.errors import BadAnswer, EngineError, RequestError
from router.exchange import rewrite
from router.exchange.events import DONE, END, is_comment
from router.exchange.exchange import Opened
from router.exchange.judge import EVENT_STREAM, JSON
from router.telemetry.events import Clock, Journey


class Client(Protocol):
    """Who gets the answer. All methods wait while the client is slow, and raise `ClientGone` when it left."""

    async def start(self, content_type: bytes) -> None:
        """Say 200 and what follows."""

    async def send(self, data: bytes) -> None:
        """Some of the body."""

    async def finish(self, data: bytes = b"") -> None:
        """The last of the body."""

    async def answer(self, content_type: bytes, body: bytes) -> None:
        """A complete 200 answer."""

    async def fail(self, error: RequestError) -> None:
        """Tell an error: as the answer, or inside a stream that has begun."""


async def relay(opened: Opened, client: Client, journey: Journey) -> None:
    """Pass an answer on to its end. Raises `EngineFault` when it has none."""
    if opened.events:
        await _relay_stream(opened, client, journey)
        return
    body = rewrite.answer(opened.body, opened.prefill_cached_tokens)
    journey.committed()
    journey.answer_bytes = len(body)
    await client.answer(JSON, body)


async def _relay_stream(opened: Opened, client: Client, journey: Journey) -> None:
    journey.committed()
    await client.start(EVENT_STREAM)
    pace = _Pace(journey)
    events, done = opened.events, False
    while True:
        if done and events:
            raise BadAnswer("the stream went on after [DONE]")
        done = await _pass_on(events, opened, client, journey) or done
        pace.note(len(events) - (events[-1:] == [DONE]))
        data = await opened.answer.read()
        if not data:
            break
        events = [event for event in opened.splitter.feed(data) if not is_comment(event)]
    if not done or not opened.splitter.clean:
        raise BadAnswer("the stream ended without [DONE]")
    await client.finish(DONE + END)


async def _pass_on(events: list[bytes], opened: Opened, client: Client, journey: Journey) -> bool:
    """Send events on; tells whether the last of them was `[DONE]`, which is kept until the body has ended too."""
    done = events[-1:] == [DONE]
    out: list[bytes] = []
    for event in events[:-1] if done else events:
        if opened.is_error(event):
            raise EngineError("an error event in mid-stream")
        out.append(rewrite.event(event, opened.prefill_cached_tokens))
    if out:
        data = END.join([*out, b""])
        journey.answer_bytes += len(data)
        await client.send(data)
    return done


class _Pace:
    """Notes the time between events; those that come in one read come at once, as the client sees them."""

    def __init__(self, journey: Journey) -> None:
        self._journey = journey
        self._clock: Clock = journey.clock
        self._last_at: float | None = None

    def note(self, events: int) -> None:
        now = self._clock()
        if self._last_at is not None and events:
            self._journey.event_gaps_s.append(now - self._last_at)
            self._journey.event_gaps_s.extend([0.0] * (events - 1))
        self._journey.events += events
        self._last_at = now if events else self._last_at
