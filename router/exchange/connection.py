"""One HTTP/1.1 connection to an engine: requests go out in one write, answers are pushed to a sink as they arrive.

The transport calls the sink from `data_received`, without a task in between: a reader that wants to await uses the
sink in `answer.py`, one that relays pushes on. The engine's framing is parsed, never trusted: a head of bounded size,
no redirects' bodies followed, nothing accepted outside an exchange.

    IDLE --send--> BUSY --message complete, keep-alive--> IDLE
                   BUSY --anything else--> CLOSED            IDLE --any byte, end--> CLOSED
"""

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress
from enum import Enum
from typing import Protocol, cast

import httptools

from router.deadline import Deadline
from router.errors import BadAnswer, ConnectionLost, EngineFault

MAX_HEAD_BYTES = 64 << 10
WRITELINES_FROM_BYTES = 16 << 10
"""Below this size one joined buffer is cheaper than a vectored write."""


class Sink(Protocol):
    """Receives one answer. `on_end` or `on_fault` is the last call, and comes once."""

    def on_head(self, status: int, headers: dict[bytes, bytes]) -> None:
        """Status and headers; names are lower case, of repeated ones the last counts."""

    def on_body(self, data: bytes) -> None:
        """Some bytes of the body, unframed."""

    def on_end(self) -> None:
        """The answer is complete."""

    def on_fault(self, fault: EngineFault) -> None:
        """The answer will not be completed."""

    def on_due(self) -> None:
        """The moment that the sink had set in the connection's `deadline` has come."""


class State(Enum):
    """What a connection is doing."""

    IDLE = "idle"
    BUSY = "busy"
    CLOSED = "closed"


IDLE, BUSY, CLOSED = State.IDLE, State.BUSY, State.CLOSED
"""By their own names, as they are looked at more often than anything here: a member of an enumeration takes five times
as long to look up."""


class EngineConnection(asyncio.Protocol):
    """A connection that carries one exchange at a time. `engine` is only for its name in faults.

    `last_read_at`, `idle_since` and `deadline` are in the time of `loop`; the deadline is the exchange's to set.
    `idle_since` is when the last answer ended, as the engine counts, however long its reader kept it.
    """

    __slots__ = (
        "_ends_with_connection",
        "_engine",
        "_framing_bytes",
        "_head_complete",
        "_headers",
        "_informational",
        "_left",
        "_now",
        "_on_closed",
        "_parser",
        "_paused",
        "_sink",
        "_take_body",
        "_transport",
        "deadline",
        "exchanges",
        "idle_since",
        "last_read_at",
        "loop",
        "state",
    )

    def __init__(
        self, engine: str, on_closed: "Callable[[EngineConnection], None]", loop: asyncio.AbstractEventLoop
    ) -> None:
        self._engine = engine
        self._on_closed = on_closed
        self._transport: asyncio.Transport | None = None
        self._sink: Sink | None = None
        self._take_body: Callable[[bytes], None] = _nowhere
        self._parser = httptools.HttpResponseParser(self)
        self._now = loop.time
        self._headers: dict[bytes, bytes] = {}
        self._framing_bytes: int | None = 0  # read since the last of the body; None in a read that brings some
        self._head_complete = False
        self._informational = False
        self._ends_with_connection = False
        self._paused = False
        self._left = False
        self.loop = loop
        self.deadline = Deadline(loop, self._overdue)
        self.last_read_at = 0.0
        self.state = CLOSED
        self.exchanges = 0
        self.idle_since = 0.0

    # What its owner does

    def send(self, head: bytes, body: bytes, sink: Sink) -> None:
        """Write one request; its answer goes to `sink`."""
        assert self.state is IDLE, f"request on {self!r}"
        assert self._transport is not None
        self.state = BUSY
        self.exchanges += 1
        self._sink, self._take_body = sink, sink.on_body
        self._headers = {}
        self._framing_bytes = 0
        self._head_complete = self._informational = self._ends_with_connection = False
        if len(body) < WRITELINES_FROM_BYTES:
            self._transport.write(head + body)
        else:
            self._transport.writelines((head, body))

    def divert(self, take_body: Callable[[bytes], None]) -> None:
        """Give the rest of the body to `take_body` instead of the sink. What it raises is the answer's fault."""
        self._take_body = take_body
        acknowledge_late(cast("asyncio.Transport", self._transport))

    def pause(self) -> None:
        """Stop reading, so that the engine feels a slow client."""
        if not self._paused and self.state is BUSY:
            self._paused = True
            cast("asyncio.Transport", self._transport).pause_reading()

    def resume(self) -> None:
        """Read on."""
        if self._paused and self.state is not CLOSED:
            cast("asyncio.Transport", self._transport).resume_reading()
        self._paused = False

    def leave(self) -> None:
        """Tell the engine that nobody waits any more (FIN). What it had answered by then still comes."""
        if self.state is BUSY and not self._left:
            self._left = True
            cast("asyncio.Transport", self._transport).write_eof()

    def abort(self) -> None:
        """Close at once, without telling the sink: its owner knows."""
        self._sink, self._take_body = None, _nowhere
        self._close()

    # What the transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self.state = IDLE
        self.idle_since = self._now()

    def data_received(self, data: bytes) -> None:
        if self._sink is None:
            self._close()
            return
        self.last_read_at = self._now()
        try:
            self._parser.feed_data(data)
            if self._framing_bytes is None:
                self._framing_bytes = 0
            else:
                self._bound_framing(self._framing_bytes + len(data))
        except httptools.HttpParserCallbackError as error:
            if not isinstance(error.__context__, EngineFault):
                raise  # not the engine's fault but a sink's: the loop logs it and closes, which ends the exchange
            self._fail(error.__context__)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fail(BadAnswer(f"{self._engine}: not HTTP: {error}"))

    def eof_received(self) -> bool:
        if self.state is BUSY and self._head_complete and self._ends_with_connection:
            self._finish()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.state = CLOSED
        self.deadline.close()
        if self._sink is not None:
            self._tell_fault(ConnectionLost(f"{self._engine}: connection lost{f': {exc}' if exc else ''}"))
        self._on_closed(self)

    # What the parser calls

    def on_message_begin(self) -> None:
        if self.state is not BUSY:  # bytes after the end of an answer: never the next request's
            self._close()

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._head_complete:  # trailers come after the head was judged, and without end
            self._headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        self._informational = status < 200
        if self._informational:
            return
        self._head_complete = True
        framed = b"content-length" in self._headers or b"transfer-encoding" in self._headers
        self._ends_with_connection = not framed and status not in (204, 304)
        if self._sink is not None:
            self._sink.on_head(status, self._headers)

    def on_body(self, body: bytes) -> None:
        self._framing_bytes = None
        self._take_body(body)

    def on_message_complete(self) -> None:
        if self._informational:
            self._headers = {}
            return
        self._finish()

    # Inside

    def _bound_framing(self, framing_bytes: int) -> None:
        """A read without a byte of the body: of the head, of a chunk's size, of trailers, which the parser keeps."""
        self._framing_bytes = framing_bytes
        if framing_bytes > MAX_HEAD_BYTES and self._sink is not None:
            what = "more than {} bytes and nothing of the body" if self._head_complete else "head larger than {} bytes"
            self._fail(BadAnswer(f"{self._engine}: {what.format(MAX_HEAD_BYTES)}"))

    def _overdue(self) -> None:
        if self._sink is not None:
            self._sink.on_due()

    def _finish(self) -> None:
        sink, self._sink, self._take_body = self._sink, None, _nowhere
        self.deadline.clear()
        ends = self._left or self._ends_with_connection
        if self.state is BUSY and self._parser.should_keep_alive() and not ends:
            self.state = IDLE
            self.idle_since = self.last_read_at
            if self._paused:
                self.resume()
        else:
            self._close()
        if sink is not None:
            sink.on_end()

    def _fail(self, fault: EngineFault) -> None:
        self._tell_fault(fault)
        self._close()

    def _tell_fault(self, fault: EngineFault) -> None:
        sink, self._sink, self._take_body = self._sink, None, _nowhere
        if sink is not None:
            sink.on_fault(fault)

    def _close(self) -> None:
        self.state = CLOSED
        self.deadline.close()
        if self._transport is not None:
            self._transport.abort()

    def __repr__(self) -> str:
        return f"<EngineConnection {self._engine} {self.state.value} {self.exchanges} exchanges>"


def acknowledge_late(transport: asyncio.BaseTransport) -> None:
    """Have the kernel acknowledge every other token of a stream instead of each: half of the packets to the engine.

    By itself it takes a small packet on a quiet connection for one whose sender waits for the acknowledgement. Engines
    do not wait (asyncio and uvicorn set TCP_NODELAY), and to read and acknowledge costs twice what it costs to read.
    The kernel goes back to that whenever an acknowledgement was due for 40 ms, so that each stream asks anew.
    """
    connected = transport.get_extra_info("socket")
    if connected is None:
        return
    with suppress(OSError):  # a kernel that does not know it costs a connection nothing but packets
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 0)


def _nowhere(_body: bytes) -> None:
    """Where bytes go that nobody waits for."""
