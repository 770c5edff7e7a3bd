"""The server's side of one client connection: a guarded one, with what the gateway needs beside ASGI.

ASGI has no way to write without a task, none to write head and body at once, and none to hear that a client left
without waiting for it. All are offered to the application as an extension in its scope.
"""

import asyncio
from collections.abc import Callable
from typing import cast

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from router.edge import replies
from router.edge.guarded import GuardedProtocol, Outlet
from router.edge.head_rules import RequestLine
from router.edge.replies import Headers, header_lines

EXTENSION = "pd_router.direct"

LAST_CHUNK = b"0\r\n\r\n"

CHUNKED = b"transfer-encoding: chunked\r\n\r\n"

(CLOSE,) = replies.CLOSE
CLOSE_LINE = header_lines(replies.CLOSE)


class DirectWriter:
    """What a request may do with its client's connection beside ASGI's `receive` and `send`.

    Responses go out through it or through `send`, not through both.
    """

    __slots__ = ("_cycle", "_flow", "_protocol", "_put", "_transport", "chunks", "loop")

    def __init__(self, protocol: "GatewayProtocol", cycle: RequestResponseCycle) -> None:
        self._protocol = protocol
        self._cycle = cycle
        self._flow = protocol.flow
        self.loop = protocol.loop
        self._transport = protocol.transport
        self._put = protocol.guards.outbox.put
        self.chunks = cycle.scope["http_version"] == "1.1"
        """Bodies of unknown length can be sent, framed in chunks; HTTP/1.0 has none."""

    def whole_body(self) -> bytes | None:
        """The body of the request, if all of it has come; None if it is to be received. To be asked once, at first."""
        cycle = self._cycle
        if cycle.more_body or cycle.disconnected:
            return None
        body, cycle.body = cycle.body, bytearray()
        cycle.message_event.clear()
        if self._flow.read_paused:
            self._flow.resume_reading()
        return bytes(body)

    async def answer(self, status: int, headers: Headers, body: bytes) -> None:
        """A whole response; `headers` tell the length."""
        if self._flow.write_paused:
            await self._caught_up()
        if not self._cycle.disconnected:
            cycle = self._cycle
            if CLOSE in headers or cycle.more_body:
                cycle.keep_alive = False
                headers = [header for header in headers if header != CLOSE]
            content = b"" if cycle.scope["method"] == "HEAD" else body
            self._transport.write(self._head(status) + header_lines(headers) + b"\r\n" + content)
            self._complete()

    async def start(self, lines: bytes, first: bytes) -> None:
        """The head of a 200 of unknown length, with these header lines, and the first of its body."""
        if self._flow.write_paused:
            await self._caught_up()
        if not self._cycle.disconnected:
            self._transport.write(b"%b%b%b%b" % (self._head(200), lines, CHUNKED, _chunk(first)))

    def write(self, data: bytes) -> None:
        """More of the body, as one chunk, in this round of the loop; nothing once the client has left."""
        self._put(self.loop, self._transport, b"%x\r\n%b\r\n" % (len(data), data))

    async def finish(self, last: bytes) -> None:
        """The last of the body."""
        self._protocol.guards.outbox.flush()
        if self._flow.write_paused:
            await self._caught_up()
        if not self._cycle.disconnected:
            self._transport.write(_chunk(last) + LAST_CHUNK)
            self._complete()

    def lend(self, pause: Callable[[], None], resume: Callable[[], None]) -> None:
        """Have `pause` and `resume` called as the client falls behind and catches up."""
        self._protocol.on_slow = (pause, resume)
        if self._flow.write_paused:
            pause()

    def take_back(self) -> None:
        """No more calls."""
        self._protocol.on_slow = None

    @property
    def leaving(self) -> bool:
        """The client has left, or is being left."""
        return self._transport.is_closing()

    def when_gone(self, gone: Callable[[], None] | None) -> None:
        """Have `gone` called once when the client leaves.

        The server stops reading after a large body, and without reading nobody hears of a client that leaves.
        """
        self._protocol.on_gone = gone
        if self._flow.read_paused:
            self._flow.resume_reading()

    async def _caught_up(self) -> None:
        """A client that is behind takes what it has before it gets more; the server drops one that stays behind."""
        if not self._cycle.disconnected:
            await self._flow.drain()

    def _head(self, status: int) -> bytes:
        """The status line, and what every response says."""
        cycle = self._cycle
        cycle.response_started = True
        cycle.waiting_for_100_continue = False
        head = STATUS_LINE[status] + header_lines(cycle.default_headers)
        return head if cycle.keep_alive else head + CLOSE_LINE

    def _complete(self) -> None:
        """What uvicorn does at the end of a response."""
        cycle = self._cycle
        cycle.response_complete = True
        cycle.message_event.set()
        if not cycle.keep_alive:
            cast("Outlet", cycle.transport).close()
        cycle.on_response()


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""


class GatewayProtocol(GuardedProtocol):
    """One client connection."""

    __slots__ = ("on_gone", "on_slow")

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Nobody is interested yet."""
        self.on_gone: Callable[[], None] | None = None
        self.on_slow: tuple[Callable[[], None], Callable[[], None]] | None = None
        super().connection_made(transport)

    def _cycle_of(self, line: RequestLine) -> RequestResponseCycle:
        """Offer the extension to the request.

        It is bound to the request's own cycle: with pipelining, `self.cycle` is that of a later request.
        """
        cycle = super()._cycle_of(line)
        cycle.scope["extensions"] = {EXTENSION: DirectWriter(self, cycle)}  # type: ignore[dict-item]
        return cycle

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the request that its client left."""
        super().connection_lost(exc)
        if self.on_gone is not None:
            self.on_gone()

    def pause_writing(self) -> None:
        """Slow the engine down."""
        super().pause_writing()
        if self.on_slow is not None:
            self.on_slow[0]()

    def resume_writing(self) -> None:
        """Let the engine go on."""
        super().resume_writing()
        if self.on_slow is not None:
            self.on_slow[1]()
