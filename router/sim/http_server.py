"""How does an engine speak HTTP/1.1?

As uvicorn does under vLLM (keep-alive, one chunk per event of a stream), and on top what only a transport can do:
reset a connection, cut it in mid-answer, or never answer. No task per request: what is to be sent is written at once.
"""

import asyncio
import os
import socket
import struct
from collections import deque
from collections.abc import Callable
from http import HTTPStatus
from typing import cast

import httptools

JSON = "application/json"
EVENT_STREAM = "text/event-stream; charset=utf-8"
_REASONS = {status.value: status.phrase.encode() for status in HTTPStatus}
_LINGER_NOT = struct.pack("ii", 1, 0)


class Exchange:
    """One request and the answer to it. Writing to a client that has gone does nothing."""

    def __init__(self, connection: "Connection", method: str, keep_alive: bool) -> None:
        self.method = method
        self.path = ""
        self.headers: dict[str, str] = {}
        self.body = b""
        self.on_gone: Callable[[], None] | None = None
        """Called at most once, when the client leaves before the answer is complete."""
        self.streaming = False
        self._connection: Connection | None = connection
        self._keep_alive = keep_alive

    def __repr__(self) -> str:
        return f"<Exchange {self.method} {self.path} {'open' if self.open else 'ended'}>"

    @property
    def open(self) -> bool:
        """Whether the answer is incomplete and the client still there."""
        return self._connection is not None

    def respond(self, status: int, body: bytes, content_type: str = JSON) -> None:
        """The whole answer at once."""
        if self._connection is not None:
            head = self._head(status, content_type, b"content-length: %d" % len(body))
            self._connection.write(head + body)
            self._finish()

    def start(self, content_type: str = EVENT_STREAM) -> None:
        """Begin a streamed answer."""
        self.streaming = True
        if self._connection is not None:
            self._connection.write(self._head(200, content_type, b"transfer-encoding: chunked"))

    def send(self, data: bytes) -> None:
        """One chunk of a streamed answer."""
        if self._connection is not None:
            self._connection.write(b"%x\r\n%b\r\n" % (len(data), data))

    def end(self) -> None:
        """The end of a streamed answer."""
        if self._connection is not None:
            self._connection.write(b"0\r\n\r\n")
            self._finish()

    def write_raw(self, data: bytes) -> None:
        """Bytes as they are, valid HTTP or not."""
        if self._connection is not None:
            self._connection.write(data)

    def close(self) -> None:
        """End the connection now (FIN), whatever is missing."""
        if self._connection is not None:
            self._connection.close()

    def reset(self) -> None:
        """Break the connection now (RST)."""
        if self._connection is not None:
            self._connection.reset()

    def gone(self) -> None:
        """The connection has ended; tell whoever works on the answer."""
        if self._connection is not None:
            self._connection = None
            if self.on_gone is not None:
                self.on_gone()

    def _finish(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.finished(keep_alive=self._keep_alive)

    def _head(self, status: int, content_type: str, length: bytes) -> bytes:
        return b"HTTP/1.1 %d %b\r\nserver: uvicorn\r\ncontent-type: %b\r\n%b\r\n%b\r\n" % (
            status,
            _REASONS.get(status, b""),
            content_type.encode(),
            length,
            b"" if self._keep_alive else b"connection: close\r\n",
        )


class Connection(asyncio.Protocol):
    """One client connection; its requests are answered one after the other."""

    def __init__(self, server: "HttpServer") -> None:
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._incoming: Exchange | None = None
        self._url = b""
        self._headers: dict[str, str] = {}
        self._body: list[bytes] = []
        self._current: Exchange | None = None
        self._pipelined: deque[Exchange] = deque()
        self._idle: asyncio.TimerHandle | None = None
        self.lost: asyncio.Future[None] = self._loop.create_future()

    @property
    def current(self) -> Exchange | None:
        """The exchange that is being answered."""
        return self._current

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Part of asyncio.Protocol."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are no subclass
        self._server.connections.add(self)
        self._wait_idle()

    def data_received(self, data: bytes) -> None:
        """Part of asyncio.Protocol."""
        self._cancel_idle()
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self.close()
        except httptools.HttpParserError:
            self.write(b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
            self.close()
        else:
            self._serve_next()

    def connection_lost(self, exc: Exception | None) -> None:
        """Part of asyncio.Protocol."""
        self._cancel_idle()
        self._transport = None
        self._server.connections.discard(self)
        self.lost.set_result(None)
        current, self._current = self._current, None
        self._pipelined.clear()
        if current is not None:
            current.gone()

    # httptools

    def on_message_begin(self) -> None:
        """Part of httptools' protocol."""
        self._url, self._headers, self._body = b"", {}, []

    def on_url(self, url: bytes) -> None:
        """Part of httptools' protocol."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Part of httptools' protocol."""
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        """Part of httptools' protocol."""
        if self._headers.get("expect", "").lower() == "100-continue":
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        """Part of httptools' protocol."""
        self._body.append(body)

    def on_message_complete(self) -> None:
        """Part of httptools' protocol."""
        method = self._parser.get_method().decode("latin-1")
        exchange = Exchange(self, method, self._parser.should_keep_alive())
        exchange.path = self._url.partition(b"?")[0].decode("latin-1")
        exchange.headers = self._headers
        exchange.body = b"".join(self._body)
        self._pipelined.append(exchange)

    # for exchanges

    def write(self, data: bytes) -> None:
        """Write to the client, if it is there."""
        if self._transport is not None:
            self._transport.write(data)

    def finished(self, *, keep_alive: bool) -> None:
        """The current answer is complete."""
        self._current = None
        if not keep_alive or self._server.closing:
            self.close()
        else:
            self._wait_idle()
            self._serve_next()

    def close(self) -> None:
        """End the connection after what has been written (FIN)."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """End the connection without waiting for what has been written to arrive."""
        if self._transport is not None:
            self._transport.abort()

    def reset(self) -> None:
        """Drop what has been written and break the connection (RST)."""
        if self._transport is None:
            return
        descriptor = os.dup(self._transport.get_extra_info("socket").fileno())
        with socket.socket(fileno=descriptor) as duplicate:
            duplicate.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
        self._transport.abort()

    def _serve_next(self) -> None:
        """Serve the next request, outside of the parser: what goes wrong in there is not the client's fault."""
        if self._pipelined and self._current is None:
            self._cancel_idle()
            self._current = self._pipelined.popleft()
            self._server.serve(self._current)

    def _wait_idle(self) -> None:
        self._idle = self._loop.call_later(self._server.keep_alive_s, self.close)

    def _cancel_idle(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None


class HttpServer:
    """Listens, and hands each request to `serve` as an `Exchange`."""

    def __init__(self, serve: Callable[[Exchange], None], keep_alive_s: float) -> None:
        self.serve = serve
        self.keep_alive_s = keep_alive_s
        self.connections: set[Connection] = set()
        self.closing = False
        self.port = 0
        self._server: asyncio.Server | None = None

    async def start(self, host: str, port: int) -> None:
        """Listen; `port` 0 takes a free one, known as `port` afterwards."""
        loop = asyncio.get_running_loop()
        self.closing = False
        self._server = await loop.create_server(lambda: Connection(self), host, port, backlog=2048)
        self.port = self._server.sockets[0].getsockname()[1]

    def close(self, *, reset: bool = False) -> None:
        """Stop listening and end every connection at once, by RST when asked."""
        self.closing = True
        if self._server is not None:
            self._server.close()
            self._server = None
        for connection in self.connections:
            if reset:
                connection.reset()
            else:
                connection.abort()

    async def wait_closed(self) -> None:
        """Wait until every connection has ended."""
        await asyncio.gather(*(connection.lost for connection in self.connections))
