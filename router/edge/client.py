"""One client's request and answer, over ASGI."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol

from router.call import Trace
from router.edge import replies
from router.edge.api_key import ApiKey
from router.edge.body_memory import BodyMemory
from router.edge.early import COMMENT, EarlyStatus
from router.edge.protocol import EXTENSION, DirectWriter
from router.errors import ClientGone, RequestError, TooLarge, UnsupportedMedia
from router.exchange.judge import EVENT_STREAM, JSON

Scope = Mapping[str, Any]
Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

SESSION = b"x-session-id"
"""What the client calls its conversation: a hint for routing, which no engine gets to see."""

MAX_LENGTH_DIGITS = 18
"""Longer numbers are larger than any limit, and may be too long to be read."""

TRACEPARENT = re.compile(rb"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


@dataclass(frozen=True, slots=True)
class Limits:
    """What one client may ask for: a body of so many bytes, and so many seconds without taking a byte.

    `bodies` is what the bodies of all clients may take together. Who waits for a stream hears something every
    `early_status_s`, if that is set. Who has not the `key` is told so, if there is one.
    """

    max_body_bytes: int
    write_stall_s: float
    bodies: BodyMemory
    early_status_s: float | None = None
    key: ApiKey | None = None


class AsgiClient:
    """A client behind an ASGI server."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, request_id: str, limits: Limits) -> None:
        self._sent = scope["headers"]
        self._headers = headers = dict(self._sent)
        self._receive = receive
        self._send = send
        self._limits = limits
        self._started = False
        self._unread = False
        self._early: EarlyStatus | None = None
        self._held = limits.bodies.share()
        # taken out, as the two would keep each other until garbage is looked for, and memory that is free early is warm
        direct: DirectWriter | None = scope.get("extensions", {}).pop(EXTENSION, None)
        self._direct = direct
        self.direct = direct if direct is not None and direct.chunks else None
        """The client's socket, where the server lends it and a stream can be framed in chunks."""
        self.trace = Trace(request_id, _trace_context(headers.get(b"traceparent")))
        session = headers.get(SESSION)
        self.session = session.decode("latin-1") if session else None

    async def body(self) -> bytes:
        """The whole body, which counts as held until the client is watched or told of a failure.

        Raises `WrongKey` before reading anything, `TooLarge` before what is over the limit, `UnsupportedMedia`,
        `Unavailable`.
        """
        self._unread = True
        if self._limits.key is not None:
            self._limits.key.admit(self._sent)
        self._check_media()
        body = self._direct.whole_body() if self._direct is not None else None
        if body is not None:
            self._hold(len(body))
        else:
            body = await self._received()
        self._unread = False
        return body

    async def _received(self) -> bytes:
        """The body, of which more is to come."""
        declared = self._headers.get(b"content-length", b"").lstrip(b"0")  # of which there may be thousands
        if declared.isdigit() and (len(declared) > MAX_LENGTH_DIGITS or int(declared) > self._limits.max_body_bytes):
            raise self._too_large()
        try:
            return b"".join(await self._parts())
        except BaseException:
            self._held.give_back()
            raise

    async def _parts(self) -> list[bytes]:
        parts: list[bytes] = []
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            parts.append(message.get("body", b""))
            self._hold(len(parts[-1]))
            if not message.get("more_body"):
                return parts

    def _hold(self, more_bytes: int) -> None:
        if self._held.held_bytes + more_bytes > self._limits.max_body_bytes:
            raise self._too_large()
        self._held.take(more_bytes)

    def present(self, *, stream: bool) -> "Presence":
        """A block that runs while the client is there, and ends with `ClientGone` when it leaves.

        By now the body is parsed: it does not count as held any more. `stream`: what the client waits for is one.
        """
        self._held.give_back()
        if stream and self._limits.early_status_s is not None:
            self._early = EarlyStatus(self._limits.early_status_s, self._still_waiting)
        return Presence(self._direct, self._receive, self._early)

    async def start(self, content_type: bytes, first: bytes) -> None:
        """Begin a streamed 200, unless its status went out early."""
        if self._early is not None:
            self._early.stop()
        if not self._started:
            await self._begin(content_type, first)
        elif self.direct is not None:
            self.direct.write(first)
        else:
            await self.send(first)

    async def _still_waiting(self) -> None:
        if not self._started:
            await self._begin(EVENT_STREAM, COMMENT)
        elif self.direct is not None:
            self.direct.write(COMMENT)
        else:
            await self.send(COMMENT)

    async def _begin(self, content_type: bytes, first: bytes) -> None:
        """A head has been started once it is written: a wait for a slow client before that may be cancelled."""
        if self.direct is not None:
            await self.direct.start(replies.stream_lines(content_type, self.trace.request_id), first)
            self._started = True
        else:
            headers = replies.headers(content_type, self.trace.request_id, replies.STREAM_HEADERS)
            await self._write(replies.start_message(200, headers))
            self._started = True
            await self.send(first)

    async def send(self, data: bytes) -> None:
        """Some of the body; waits while the client is slow."""
        await self._write({"type": "http.response.body", "body": data, "more_body": True})

    async def finish(self, last: bytes) -> None:
        """The last of the body."""
        if self.direct is not None:
            await self.direct.finish(last)
        else:
            await self._write({"type": "http.response.body", "body": last})

    async def answer(self, content_type: bytes, body: bytes) -> None:
        """A complete 200."""
        await self._complete(200, content_type, body)

    async def fail(self, error: RequestError) -> None:
        """Tell an error, in whatever form is still possible. What was not read of the body is not waited for."""
        self._held.give_back()
        if isinstance(error, ClientGone):
            return
        if self._started:
            await self.finish(replies.error_events(error))
        else:
            more = (*replies.error_headers(error), *(replies.CLOSE if self._unread else ()))
            await self._complete(error.status, b"application/json", replies.error_body(error), more)

    async def _complete(self, status: int, content_type: bytes, body: bytes, more: replies.Headers = ()) -> None:
        headers = replies.headers(content_type, self.trace.request_id, (*replies.length(body), *more))
        if self._direct is not None:
            await self._direct.answer(status, headers, body)
            self._started = True
        else:
            await self._write(replies.start_message(status, headers))
            self._started = True
            await self._write({"type": "http.response.body", "body": body})

    async def _write(self, message: dict[str, Any]) -> None:
        if self._direct is not None:  # that server drops a client which stalls
            await self._send(message)
            return
        try:
            async with asyncio.timeout(self._limits.write_stall_s):
                await self._send(message)
        except (TimeoutError, OSError):
            raise ClientGone from None

    def _check_media(self) -> None:
        kind = self._headers.get(b"content-type", JSON)
        if kind != JSON and kind.split(b";")[0].strip().lower() != JSON:
            raise UnsupportedMedia("content-type must be application/json")
        encoding = self._headers.get(b"content-encoding")
        if encoding is not None and encoding.strip().lower() != b"identity":
            raise UnsupportedMedia("compressed bodies are not accepted; send the JSON as it is")

    def _too_large(self) -> TooLarge:
        return TooLarge(f"the body must not be larger than {self._limits.max_body_bytes} bytes")


def _trace_context(sent: bytes | None) -> str | None:
    return sent.decode() if sent and TRACEPARENT.fullmatch(sent) else None


class Leaver(Protocol):
    """Who tells when a client leaves."""

    loop: asyncio.AbstractEventLoop

    @property
    def leaving(self) -> bool:
        """It has left already."""

    def when_gone(self, gone: Callable[[], None] | None) -> None:
        """Have `gone` called once, when it leaves."""


class Presence:
    """A block that is cancelled, and ends with `ClientGone`, as soon as the client leaves.

    The server tells (`direct`); behind other servers a task waits for ASGI's word. `asyncio.timeout` would do the same
    at three times the cost.
    """

    __slots__ = ("_cancelling", "_direct", "_early", "_gone", "_receive", "_task", "_watcher")

    def __init__(self, direct: Leaver | None, receive: Receive, early: EarlyStatus | None = None) -> None:
        self._early = early
        self._direct = direct
        self._receive = receive
        self._gone = False
        self._watcher: asyncio.Task[None] | None = None

    def __enter__(self) -> None:
        direct = self._direct
        if direct is not None and direct.leaving:
            raise ClientGone
        loop = asyncio.get_running_loop() if direct is None else direct.loop
        task = asyncio.current_task(loop)
        assert task is not None
        self._task, self._cancelling = task, task.cancelling()
        if direct is not None:
            direct.when_gone(self._end)
        else:
            self._watcher = loop.create_task(self._end_when_gone(), name="client watch")
        if self._early is not None:
            self._early.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._direct is not None:
            self._direct.when_gone(None)
        elif self._watcher is not None:
            self._watcher.cancel()
        if self._early is not None:
            self._early.stop()
        if self._gone and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise ClientGone from None

    def _end(self) -> None:
        if not self._gone:
            self._gone = True
            self._task.cancel()

    async def _end_when_gone(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._end()
