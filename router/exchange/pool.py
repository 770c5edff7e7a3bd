"""Keep-alive connections to engines: the only sockets to them.

Last in, first out, so that a quiet period leaves few connections warm; idle ones are closed before the engine does it
(uvicorn: after 5 s), so that a request does not meet a connection that is just ending. Who checks one out owns it
until the block ends: a finished exchange puts it back, anything else closes it, cancellation included.
"""

import asyncio
import errno
import socket
from typing import Self
from urllib.parse import urlsplit

from router.errors import ConnectFailed, OutOfFiles
from router.exchange.answer import Answer
from router.exchange.connection import IDLE, EngineConnection

IDLE_EXPIRY_S = 4.0
"""How long after an answer a connection may get the next request; before the first, no engine counts."""


class ConnectionPool:
    """Connections to one engine, an origin `http://host:port`."""

    def __init__(self, origin: str, connect_s: float) -> None:
        parts = urlsplit(origin)
        assert parts.hostname is not None
        assert parts.port is not None
        self._host, self._port = parts.hostname, parts.port
        self._name = origin.removeprefix("http://")
        self._connect_s = connect_s
        self._idle: list[EngineConnection] = []
        self._open: set[EngineConnection] = set()
        self._sweep: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()  # looked up once: each time it asks the kernel for the process's id

    def checkout(self) -> "Checkout":
        """A connection for one exchange, as a block: an idle one, or none before `connect`."""
        return Checkout(self)

    @property
    def open(self) -> int:
        """Sockets, idle or not."""
        return len(self._open)

    @property
    def idle(self) -> int:
        """Sockets that wait for use."""
        return len(self._idle)

    def close(self) -> None:
        """Close every connection, in use or not."""
        if self._sweep is not None:
            self._sweep.cancel()
        for connection in tuple(self._open):
            connection.abort()
        self._idle.clear()

    def take_idle(self) -> EngineConnection | None:
        """The connection that was given back last, of those that still may be used; none is kept that may not."""
        while self._idle:
            connection = self._idle.pop()
            if self.keeps(connection):
                return connection
            self.drop(connection)
        return None

    def keeps(self, connection: EngineConnection) -> bool:
        """Whether a request may go out on it now: it is open, and its engine is not just about to end it."""
        if connection.state is not IDLE:
            return False
        return connection.exchanges == 0 or self._loop.time() - connection.idle_since < IDLE_EXPIRY_S

    def drop(self, connection: EngineConnection) -> None:
        """Close, and count no more: that the loop hears of it a step later is nobody's socket in use."""
        connection.abort()
        self._open.discard(connection)

    async def connect(self) -> EngineConnection:
        """A new connection. Raises `ConnectFailed`."""
        connection = EngineConnection(self._name, self._forget, self._loop)
        try:
            async with asyncio.timeout(self._connect_s):
                await self._loop.create_connection(lambda: connection, self._host, self._port)
        except TimeoutError:
            connection.abort()
            raise ConnectFailed(f"{self._name}: no connection in {self._connect_s:g} s") from None
        except OSError as error:
            kind = OutOfFiles if _is_out_of_files(error) else ConnectFailed
            raise kind(f"{self._name}: {error.strerror or error}") from None
        except asyncio.CancelledError:
            connection.abort()
            raise
        if connection.state is not IDLE:  # a server that sheds says so as soon as one connects
            connection.abort()
            raise ConnectFailed(f"{self._name}: spoke or closed before it was asked")
        self._open.add(connection)
        return connection

    def give_back(self, connection: EngineConnection) -> None:
        """Keep a connection for the next exchange if its last one is over, else close it."""
        if connection.state is not IDLE:
            self.drop(connection)
            return
        self._idle.append(connection)
        if self._sweep is None:
            self._sweep = self._loop.call_at(connection.idle_since + IDLE_EXPIRY_S, self._close_expired)

    def _close_expired(self) -> None:
        self._sweep = None
        oldest_allowed = self._loop.time() - IDLE_EXPIRY_S
        expired = [c for c in self._idle if c.idle_since <= oldest_allowed]
        self._idle = [c for c in self._idle if c.idle_since > oldest_allowed]
        for connection in expired:
            self.drop(connection)
        if self._idle:
            oldest = min(connection.idle_since for connection in self._idle)
            self._sweep = self._loop.call_at(oldest + IDLE_EXPIRY_S, self._close_expired)

    def _forget(self, connection: EngineConnection) -> None:
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)

    def __repr__(self) -> str:
        return f"<ConnectionPool {self._name} {self.open} open, {self.idle} idle>"


class Checkout:
    """A connection that is held for one exchange, which may start later: it waits while the prefill leg runs."""

    __slots__ = ("_handed_over", "_pool", "answer", "connection")

    def __init__(self, pool: ConnectionPool) -> None:
        self._pool = pool
        self._handed_over = False
        self.connection: EngineConnection | None = None
        self.answer: Answer | None = None

    def __enter__(self) -> Self:
        self.connection = self._pool.take_idle()
        return self

    def __exit__(self, *_: object) -> None:
        if not self._handed_over:
            self.close()

    def hand_over(self) -> Self:
        """Leave it to a new owner, who closes it; the block that checked it out does not."""
        self._handed_over = True
        return self

    def leave(self) -> None:
        """Tell the engine that its answer is not wanted; it still comes if it is on its way."""
        if self.connection is not None:
            self.connection.leave()

    def close(self) -> None:
        """Give the connection back, or close it when its exchange is not over."""
        if self.connection is not None:
            self._pool.give_back(self.connection)

    @property
    def live(self) -> bool:
        """Whether a request can be sent now: an engine may close a connection, or be about to, while that waits."""
        return self.connection is not None and self._pool.keeps(self.connection)

    async def connect(self) -> None:
        """A new connection, in place of one on which nothing was sent, if there was one. Raises `ConnectFailed`."""
        if self.connection is not None:
            stale, self.connection = self.connection, None
            self._pool.drop(stale)
        self.connection = await self._pool.connect()

    def send(self, head: bytes, body: bytes) -> Answer:
        """Send a request on a live connection; the answer is on its way."""
        assert self.answer is None, "one exchange a checkout"
        assert self.connection is not None
        self.answer = answer = Answer(self.connection)
        self.connection.send(head, body, answer)
        return answer

    async def exchange(self, head: bytes, body: bytes) -> Answer:
        """The same, on a new connection if need be. Raises `ConnectFailed`."""
        if not self.live:
            await self.connect()
        return self.send(head, body)


class Connections:
    """The pools of all engines, by origin."""

    def __init__(self, connect_s: float) -> None:
        self._connect_s = connect_s
        self._pools: dict[str, ConnectionPool] = {}

    def to(self, origin: str) -> ConnectionPool:
        """The pool of one engine."""
        pool = self._pools.get(origin)
        if pool is None:
            pool = self._pools[origin] = ConnectionPool(origin, self._connect_s)
        return pool

    @property
    def open(self) -> int:
        """Sockets to all engines."""
        return sum(pool.open for pool in self._pools.values())

    @property
    def idle(self) -> int:
        """Those of them that wait for use."""
        return sum(pool.idle for pool in self._pools.values())

    def close(self) -> None:
        """Close every connection to every engine."""
        for pool in self._pools.values():
            pool.close()

    def __repr__(self) -> str:
        return f"<Connections {list(self._pools.values())}>"


def _is_out_of_files(error: OSError) -> bool:
    """Whether it is the gateway that may open no more. A name is then not found, rather than not looked up."""
    if isinstance(error, socket.gaierror):
        try:
            socket.socket().close()
        except OSError as tried:
            error = tried
    return error.errno in (errno.EMFILE, errno.ENFILE)
