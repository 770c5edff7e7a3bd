"""The server's side of one client connection: a guarded one, with what the gateway needs beside ASGI.

ASGI has no way to write without a task, and none to hear that a client left without waiting for it. Both are offered
to the application as an extension in its scope.
"""

import asyncio
from collections.abc import Callable

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from router.edge.guarded import GuardedProtocol

EXTENSION = "pd_router.direct"


class DirectWriter:
    """What a request may do with its client's connection beside ASGI's `receive` and `send`."""

    def __init__(self, protocol: "GatewayProtocol", cycle: RequestResponseCycle) -> None:
        self._protocol = protocol
        self._cycle = cycle

    @property
    def chunked(self) -> bool:
        """The response has begun and its body is framed in chunks, so that `write` is possible."""
        return bool(self._cycle.chunked_encoding)

    def write(self, data: bytes) -> None:
        """One chunk of the response's body, straight to the socket; nothing once the client has left."""
        transport = self._protocol.transport
        if not transport.is_closing():
            transport.write(b"%x\r\n%b\r\n" % (len(data), data))

    def lend(self, pause: Callable[[], None], resume: Callable[[], None]) -> None:
        """Have `pause` and `resume` called as the client falls behind and catches up."""
        self._protocol.on_slow = (pause, resume)
        if self._protocol.flow.write_paused:
            pause()

    def take_back(self) -> None:
        """No more calls."""
        self._protocol.on_slow = None

    def when_gone(self, gone: Callable[[], None] | None) -> None:
        """Have `gone` called once when the client leaves; at once if it has left.

        The server stops reading after a large body, and without reading nobody hears of a client that leaves.
        """
        if gone is not None and self._protocol.transport.is_closing():
            gone()
            return
        self._protocol.on_gone = gone
        self._protocol.flow.resume_reading()


class GatewayProtocol(GuardedProtocol):
    """One client connection."""

    on_gone: Callable[[], None] | None = None
    on_slow: tuple[Callable[[], None], Callable[[], None]] | None = None
    _stall: asyncio.TimerHandle | None = None

    def on_headers_complete(self) -> None:
        """Offer the extension to the request, whose task starts in the loop's next round at the earliest.

        It is bound to the request's own cycle: with pipelining, `self.cycle` is that of a later request.
        """
        super().on_headers_complete()
        self.scope["extensions"] = {EXTENSION: DirectWriter(self, self.cycle)}  # type: ignore[dict-item]

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the request that its client left."""
        super().connection_lost(exc)
        self._end_stall()
        if self.on_gone is not None:
            self.on_gone()

    def pause_writing(self) -> None:
        """The client falls behind: slow the engine down, and drop a client that stays behind."""
        super().pause_writing()
        self._stall = self.loop.call_later(self.guards.write_stall_s, self.transport.abort)
        if self.on_slow is not None:
            self.on_slow[0]()

    def resume_writing(self) -> None:
        """The client has caught up."""
        super().resume_writing()
        self._end_stall()
        if self.on_slow is not None:
            self.on_slow[1]()

    def _end_stall(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None
