"""A server connection that cannot be used to starve or to mislead: uvicorn's protocol within limits of size and time.

uvicorn has no bound on heads, no timer for heads and bodies, and closes in a way that can destroy the answer it just
gave. Here every connection is in one phase, each phase has its deadline, and what is refused gets an error in the
OpenAI shape after the answers to all that was asked before it. After a refusal nothing more is parsed.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto

import httptools
from uvicorn._types import ASGI3Application, ASGIVersions, HTTPScope
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from router.deadline import Deadline
from router.edge import replies
from router.edge.census import Census, site_of
from router.edge.flow import Flow, LazyEvent
from router.edge.head_rules import RequestLine, fault_in, head_too_large, target_too_long, upgrade_refused
from router.edge.http10 import close_delimited
from router.edge.outbox import Outbox
from router.edge.pace import body_deadline
from router.edge.request_ids import RequestIds
from router.edge.stall import Stall
from router.edge.targets import target_of
from router.errors import Malformed, RequestError
from router.settings.edge import Edge
from router.telemetry.events import EdgeObserver

LINGER_S = 2.0
"""How long a client may take to read a refusal before the connection is cut."""

LAST_HEAD_S = 1.0
"""When the server stops, how long who has just connected may take to ask: the request may be on its way already."""

LINGER_BYTES = 1 << 16
"""How much of what a refused client goes on sending is thrown away; then it is not read any more."""

MAX_WAITING_REQUESTS = 1000
"""How many requests may wait on one connection for the answer to the one before. Clients that pipeline send a few."""

FRAMING_BYTES = 1 << 14
"""What chunk sizes, chunk extensions and trailers may take beyond the body's own size."""


class Phase(Enum):
    """What a connection is waiting for."""

    FRESH = auto()
    HEAD = auto()
    BODY = auto()
    ANSWER = auto()
    IDLE = auto()
    CLOSING = auto()


ASGI: ASGIVersions = {"version": "3.0", "spec_version": "2.3"}

BEFORE_HEAD = frozenset({Phase.FRESH, Phase.HEAD, Phase.IDLE})


@dataclass(frozen=True, slots=True)
class Guards:
    """What the connections of one listener share."""

    limits: Edge
    write_stall_s: float
    census: Census
    observer: EdgeObserver
    ids: RequestIds
    draining: Callable[[], bool] = lambda: False
    outbox: Outbox = field(default_factory=Outbox)


class Outlet:
    """The transport as a request sees it: its `close` leaves the client time to read the answer."""

    __slots__ = ("close", "is_closing", "write")

    def __init__(self, protocol: "GuardedProtocol", transport: asyncio.Transport) -> None:
        self.write = transport.write
        self.is_closing = transport.is_closing
        self.close = protocol.end


class GuardedProtocol(HttpToolsProtocol):
    """One client connection; `guards` is set by the listener's subclass.

    Slots, as beyond 30 attributes a dictionary is one connection's own: uvicorn's have room in a shared one.
    """

    __slots__ = (
        "_ahead_bytes",
        "_body_begun_at",
        "_body_bytes",
        "_deadline",
        "_discarded_bytes",
        "_head_room",
        "_is_another",
        "_lingering",
        "_outlet",
        "_phase",
        "_read_bytes",
        "_received_bytes",
        "_refusal",
        "_running",
        "_site",
        "_stall",
    )

    guards: Guards
    flow: Flow  # type: ignore[assignment]

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Let the client in, or tell it that there is no room."""
        super().connection_made(transport)
        self.flow = Flow(transport)
        self.pipeline = []  # type: ignore[assignment]  # of what a client asks while it is answered: mostly nothing
        self._phase = Phase.FRESH
        self._refusal: RequestError | None = None
        self._running: RequestResponseCycle | None = None  # with pipelining, `self.cycle` is that of a later request
        self._stall: Stall | None = None
        self._body_begun_at = 0.0
        self._read_bytes = self._received_bytes = self._body_bytes = self._discarded_bytes = self._ahead_bytes = 0
        self._lingering = self._is_another = False
        guards = self.guards
        self._outlet = Outlet(self, transport)
        self._head_room = guards.limits.max_head_bytes
        self._deadline = Deadline(self.loop, self._too_slow)
        self._site = site_of(self.client[0]) if self.client else ""
        shed = guards.census.enter(self._site)
        if shed is None:
            self._deadline.set_after(guards.limits.head_timeout_s)
            return
        self._phase = Phase.CLOSING
        self._write_error(shed)
        if guards.census.overrun:
            transport.close()  # may reset it, but what has arrived can be read even so
        else:
            self.end()

    def connection_lost(self, exc: Exception | None) -> None:
        """Give back the place, and tell the request that is being answered."""
        running = self._running
        if running is not None and not running.response_complete:
            running.disconnected = True
            running.message_event.set()
        super().connection_lost(exc)
        self._deadline.close()
        self._end_stall()
        self.guards.census.leave(self._site)

    def shutdown(self) -> None:
        """The server stops: who has been told everything is not waited for, who is about to ask is."""
        if self._phase in (Phase.FRESH, Phase.HEAD):
            self._deadline.set_after(min(LAST_HEAD_S, self.guards.limits.head_timeout_s))
        elif self._lingering or self.cycle is None or self.cycle.response_complete:
            self._hang_up()
        else:
            self.cycle.keep_alive = False

    # What comes in

    def data_received(self, data: bytes) -> None:
        """Parse it, within the limits."""
        before = self._phase
        if before is Phase.CLOSING:
            self._discard(len(data))
            return
        try:
            self._feed(data)
        except httptools.HttpParserError as error:
            self._refuse(_fault_of(error))
        except RequestError as fault:
            self._refuse(fault)
        else:
            if self.pipeline:
                self._hold_back(len(data))
            if self._phase is not before or self._is_another:
                self._set_deadline()

    def on_message_begin(self) -> None:
        """The first byte of a head."""
        self.url = b""
        self.headers = []
        self.expect_100_continue = False
        self._phase = Phase.HEAD

    def on_headers_complete(self) -> None:
        """Judge the head, and begin with the request. What is raised here ends the parsing for good."""
        parser = self.parser
        line = RequestLine(parser.get_method(), self.url, parser.get_http_version())
        limits = self.guards.limits
        fault = fault_in(line, self.headers, limits, self._read_bytes)
        if fault is None and parser.should_upgrade():
            fault = upgrade_refused()
        if fault is not None:
            raise fault
        if len(self.pipeline) >= MAX_WAITING_REQUESTS:
            raise _too_many_waiting()
        cycle = self._cycle_of(line)  # may still find the target bad: until here nothing has begun
        before, self.cycle = self.cycle, cycle
        self._head_room = limits.max_head_bytes
        self._phase = Phase.BODY
        self._is_another = True
        self._received_bytes = self._body_bytes = 0
        self.headers = []  # trailers come here, and are not headers of the request
        if before is None or before.response_complete:
            self._start_asgi_task(cycle, self.app)
        else:
            self.pipeline.insert(0, (cycle, self.app))

    def on_body(self, body: bytes) -> None:
        """Keep it, without a copy where it is all there is, and count what is body and not framing."""
        self._body_bytes += len(body)
        cycle = self.cycle
        if cycle.response_complete:
            return
        cycle.body = _joined(cycle.body, body) if cycle.body else body  # type: ignore[assignment]
        if len(cycle.body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
        cycle.message_event.set()

    def on_message_complete(self) -> None:
        """The end of a request."""
        self._phase = Phase.ANSWER
        cycle = self.cycle
        if not cycle.response_complete:
            cycle.more_body = False
            cycle.message_event.set()

    def _feed(self, data: bytes) -> None:
        """Parse, but never more of a head than a head may have."""
        self._read_bytes = len(data) + (self._read_bytes if self._phase is Phase.HEAD else 0)
        rest: bytes | memoryview = data
        if self._phase in BEFORE_HEAD:
            self._head_room -= len(data)
            if self._head_room < 0:
                allowed = len(data) + self._head_room
                self._head_room = 0
                self.parser.feed_data(memoryview(data)[:allowed])
                if not self._head_room:  # not the end of a head, which makes room for the next
                    raise self._oversize()
                rest = memoryview(data)[allowed:]
        elif self._phase is Phase.BODY:
            self._received_bytes += len(data)
        self.parser.feed_data(rest)
        if self._received_bytes > 2 * self._body_bytes + FRAMING_BYTES:
            raise Malformed("the framing of the body is larger than the body")

    def _hold_back(self, more_bytes: int) -> None:
        """Let a client feel that it is far ahead of its answers.

        One that is a little ahead is read, as without reading nobody hears that it leaves.
        """
        self._ahead_bytes += more_bytes
        if self._ahead_bytes > HIGH_WATER_LIMIT:
            self.flow.hold()

    def _oversize(self) -> Malformed:
        limits = self.guards.limits
        return head_too_large(limits) if self.headers else target_too_long(limits)

    # What goes out

    def _cycle_of(self, line: RequestLine) -> RequestResponseCycle:
        """What uvicorn keeps of a request and its answer. It makes one in twice as many steps, for what is not used."""
        target = target_of(line.target)
        scope: HTTPScope = {
            "type": "http",
            "asgi": ASGI,
            "http_version": line.version,
            "server": self.server,
            "client": self.client,
            "scheme": self.scheme or "http",
            "method": line.method.decode(),
            "root_path": "",
            "path": target.path,
            "raw_path": target.raw_path,
            "query_string": target.query,
            "headers": self.headers,
        }
        persistent = line.version != "1.0"
        return RequestResponseCycle(
            scope=scope,
            transport=self._outlet,  # type: ignore[arg-type]
            flow=self.flow,  # type: ignore[arg-type]
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=self.server_state.default_headers,
            message_event=LazyEvent(),  # type: ignore[arg-type]
            expect_100_continue=persistent and self.expect_100_continue,
            keep_alive=persistent and self.parser.should_keep_alive() and not self.guards.draining(),
            on_response=self.on_response_complete,
        )

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._running = cycle
        if cycle.scope["http_version"] == "1.0":
            app = close_delimited(app, cycle)
        task = self.loop.create_task(cycle.run_asgi(app))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def on_response_complete(self) -> None:
        """Go on with the next request, or wait for one. uvicorn's own arms and cancels a timer for each."""
        self.server_state.total_requests += 1
        answered, self._running = self._running, None
        if answered is not None:
            answered.body = b""  # type: ignore[assignment]  # which nobody may have asked for
        if self.transport.is_closing() or self._lingering:
            return
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
            if not self.pipeline and self._phase is not Phase.CLOSING:
                self._read_on()
        elif self._refusal is not None:
            self._say(self._refusal)
        elif self._phase is Phase.BODY:  # answered without having been read to its end
            self.end()
        elif self._phase is not Phase.CLOSING:
            self._read_on()
            if self._phase is Phase.ANSWER:
                self._phase = Phase.IDLE
                self._deadline.set_after(self.guards.limits.keep_alive_s)

    def _read_on(self) -> None:
        """Nothing waits any more."""
        self._ahead_bytes = 0
        self.flow.release()

    def pause_writing(self) -> None:
        """The client falls behind, and is dropped if it stays so."""
        super().pause_writing()
        self._watch()

    def resume_writing(self) -> None:
        """The client has caught up; with the rest, too, before it is closed."""
        super().resume_writing()
        if not self.transport.is_closing():
            self._end_stall()

    def _watch(self) -> None:
        if self._stall is None:
            self._stall = Stall(self.loop, self.transport, self.guards.write_stall_s)

    def _end_stall(self) -> None:
        if self._stall is not None:
            self._stall.end()
            self._stall = None

    def end(self) -> None:
        """Close. A client that is still sending gets time to read its answer: a plain close would reset it."""
        sending = self._phase is not Phase.ANSWER
        if sending and self.transport.can_write_eof():
            self._phase = Phase.CLOSING
            self._linger()
        else:
            self._hang_up()

    def _hang_up(self) -> None:
        """Close, once the client has taken what is left for it; the transport would wait for that for ever."""
        self._phase = Phase.CLOSING
        self._deadline.clear()
        self.transport.close()
        if self.transport.get_write_buffer_size():
            self._watch()

    def _refuse(self, fault: RequestError) -> None:
        """Parse no more; say why when all that was asked before has been answered, and close."""
        self.guards.observer.refused(fault.code)
        broken = self.cycle if self._phase is Phase.BODY else None
        self._phase = Phase.CLOSING
        self._deadline.clear()
        if broken is not None and not self._withdrawn(broken):
            return
        if self._answering(broken):
            self._refusal = fault
        else:
            self._say(fault)

    def _withdrawn(self, broken: RequestResponseCycle) -> bool:
        """Take back a request whose body broke off; False when it has been answered in part, which goes on."""
        if self.pipeline and self.pipeline[0][0] is broken:
            del self.pipeline[0]
        elif broken.response_started:
            broken.keep_alive = False
            return False
        else:
            broken.disconnected = True
            broken.message_event.set()
        return True

    def _answering(self, broken: RequestResponseCycle | None) -> bool:
        """An earlier request has no complete answer yet."""
        if broken is not None:
            return not broken.disconnected  # it was queued behind one
        return self.cycle is not None and not self.cycle.response_complete

    def _say(self, error: RequestError) -> None:
        """Answer with an error, and close."""
        self._write_error(error)
        self.end()

    def _write_error(self, error: RequestError) -> None:
        body = replies.error_body(error)
        more = (*replies.length(body), *replies.CLOSE, *replies.error_headers(error))
        headers = replies.headers(b"application/json", self.guards.ids.new(), more)
        lines = replies.header_lines((*self.server_state.default_headers, *headers))
        self.transport.write(b"%b%b\r\n%b" % (STATUS_LINE[error.status], lines, body))

    # How long it may take

    def _set_deadline(self) -> None:
        """The phase is a new one, or the same of another request."""
        self._is_another = False
        limits = self.guards.limits
        if self._phase is Phase.HEAD:
            self._deadline.set_after(limits.head_timeout_s)
        elif self._phase is Phase.BODY:
            self._body_begun_at = self.loop.time()
            self._deadline.set_at(self._body_due())
        else:
            self._deadline.clear()

    def _body_due(self) -> float:
        limits = self.guards.limits
        received_bytes = self._received_bytes
        return body_deadline(self._body_begun_at, received_bytes, limits.body_timeout_s, limits.min_body_bytes_per_s)

    def _too_slow(self) -> None:
        if self._phase is Phase.CLOSING:
            self.transport.abort()
        elif self._phase is Phase.HEAD:
            self._head_too_slow()
        elif self._phase is Phase.BODY:
            self._body_too_slow()
        else:
            self._hang_up()  # nobody asked for anything

    def _head_too_slow(self) -> None:
        if self.flow.read_paused:  # it is not the client who is slow
            self._deadline.set_after(self.guards.limits.head_timeout_s)
        else:
            self._refuse(_timeout("the head of the request did not come in time"))

    def _body_too_slow(self) -> None:
        if self.flow.read_paused:  # it is not the client who is slow
            self._body_begun_at = self.loop.time()
            self._received_bytes = self._body_bytes = 0
        due = self._body_due()
        if due > self.loop.time():
            self._deadline.set_at(due)
        else:
            self._refuse(_timeout("the body of the request did not come in time"))

    def _linger(self) -> None:
        """Say that there is no more to come, and wait for the client to close."""
        self._lingering = True
        self.flow.release()
        self.transport.write_eof()
        self._deadline.set_after(LINGER_S)

    def _discard(self, size_bytes: int) -> None:
        self._discarded_bytes += size_bytes
        if self._discarded_bytes > LINGER_BYTES:
            self.flow.hold()


def _fault_of(error: httptools.HttpParserError) -> RequestError:
    """The judgement that stopped the parser, or the parser's own."""
    if isinstance(error.__context__, RequestError):
        return error.__context__
    return Malformed(f"this is not a valid HTTP request: {error}" if error.__context__ is None else "bad target")


def _joined(kept: bytes | bytearray, more: bytes) -> bytearray:
    """Both; in place from the third piece on."""
    if isinstance(kept, bytearray):
        kept += more
        return kept
    return bytearray().join((kept, more))


def _too_many_waiting() -> Malformed:
    text = f"there must not be more than {MAX_WAITING_REQUESTS} requests that wait on one connection"
    return Malformed(text, code="too_many_waiting")


def _timeout(text: str) -> Malformed:
    return Malformed(text, status=408, code="request_timeout")
