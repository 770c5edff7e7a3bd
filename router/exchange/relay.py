"""The answer's way to the client. Its first byte is the commit point: before it a request may be tried again, after
it a failure can only be told inside the answer."""

from collections.abc import Callable
from typing import Protocol

from router.errors import RequestError
from router.exchange.answer import Answer
from router.exchange.events import LAST, EventStream
from router.exchange.exchange import Opened
from router.exchange.judge import EVENT_STREAM, JSON
from router.telemetry.events import Journey


class Direct(Protocol):
    """A client's socket, for writing without a task: some servers lend it while a stream is relayed."""

    def write(self, data: bytes) -> None:
        """Some of the body, at once."""

    def lend(self, pause: Callable[[], None], resume: Callable[[], None]) -> None:
        """Have `pause` and `resume` called as the client falls behind and catches up."""

    def take_back(self) -> None:
        """No more calls."""


class Client(Protocol):
    """Who gets the answer. What is awaited waits while the client is slow, and raises `ClientGone` when it left."""

    @property
    def direct(self) -> Direct | None:
        """The client's socket, where the server lends it."""

    async def start(self, content_type: bytes, first: bytes) -> None:
        """Say 200 and what follows, and the first of the body."""

    async def send(self, data: bytes) -> None:
        """Some of the body."""

    async def finish(self, last: bytes) -> None:
        """The last of the body."""

    async def answer(self, content_type: bytes, body: bytes) -> None:
        """A complete 200 answer."""

    async def fail(self, error: RequestError) -> None:
        """Tell an error: as the answer, or inside a stream that has begun."""


async def relay(opened: Opened, client: Client, journey: Journey) -> None:
    """Pass an answer on to its end. Raises `EngineFault` when it has none."""
    journey.committed()
    if opened.stream is None:
        journey.answer_bytes = len(opened.body)
        await client.answer(JSON, opened.body)
        return
    await client.start(EVENT_STREAM, opened.body)
    opened.body = b""  # a stream may last for minutes
    if (direct := client.direct) is not None:
        await _splice(opened.answer, opened.stream, direct)
    else:
        await _forward(opened.answer, opened.stream, client)
    opened.stream.end()
    await client.finish(LAST)


async def _splice(answer: Answer, stream: EventStream, direct: Direct) -> None:
    """Engine's socket to client's socket; this task sleeps until the end, however many tokens pass."""
    take, write = stream.take, direct.write

    def receive(data: bytes) -> None:
        if events := take(data):
            write(events)

    direct.lend(answer.pause, answer.resume)
    try:
        await answer.push_to(receive)
    finally:
        direct.take_back()


async def _forward(answer: Answer, stream: EventStream, client: Client) -> None:
    """The same through `client.send`, for servers that lend no socket."""
    while data := await answer.read():
        if events := stream.take(data):
            await client.send(events)
