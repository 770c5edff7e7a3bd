"""Two listeners in one process, under one runner.

uvicorn's own `Server.run` takes the signals for itself and raises them again when it ends; with two servers in one
loop the process must own its signals, so each listener runs without them and is told when to stop.
"""

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import Any

import uvicorn

from router.edge.guarded import Guards
from router.edge.protocol import GatewayProtocol

BACKLOG = 4096

UNSENT_BYTES = 64 << 10
"""What the kernel takes for a client beyond what is on its way. By itself it takes up to 4 MB, and an engine would feel
a slow client that late."""

DATE_S = 1.0
"""The resolution of the time in a `date` header."""

TCP = (socket.AF_INET, socket.AF_INET6)


class ListenError(Exception):
    """An address that cannot be listened on."""


class Listener(uvicorn.Server):
    """One listening address. `serve` runs until `stop`, then waits for open streams."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._stopped = asyncio.Event()

    def stop(self) -> None:
        """Take no more connections, and end when what is open is over."""
        self.should_exit = True
        self._stopped.set()

    async def main_loop(self) -> None:
        """Until it is stopped, set the time of the `date` header each second. uvicorn looks ten times as often."""
        while not await self.on_tick(0):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(DATE_S):
                    await self._stopped.wait()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to the process."""
        yield

    async def serve_on(self, listening: socket.socket) -> None:
        """Serve on a socket that listens already."""
        await self.serve(sockets=[listening])


def listener(app: Any, guards: Guards, drain_timeout_s: float) -> Listener:  # noqa: ANN401 - uvicorn's own type
    """A listener for an ASGI application that lets open streams go on for `drain_timeout_s` when told to stop."""
    shared = guards

    class Connection(GatewayProtocol):
        guards = shared

    config = uvicorn.Config(
        app,
        http=Connection,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_graceful_shutdown=max(1, round(drain_timeout_s)),
    )
    return Listener(config)


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises `ListenError` naming the address."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        raise ListenError(f"cannot listen on {host}:{port}: {error.strerror or error}") from None
    return _ready(listening)


def inherit(fd: int) -> socket.socket:
    """A listening socket that was open when the process began. Raises `ListenError` naming the descriptor.

    Its queue of connections is shared with whoever else has it, and outlives this process.
    """
    try:
        listening = socket.socket(fileno=fd)
    except OSError as error:
        raise ListenError(f"cannot listen on file descriptor {fd}: {error.strerror or error}") from None
    if listening.family not in TCP or not listening.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        listening.detach()  # it may be standard error, to which this is going to be told
        raise ListenError(f"cannot listen on file descriptor {fd}: it is not a listening TCP socket")
    return _ready(listening)


def _ready(listening: socket.socket) -> socket.socket:
    """A socket whose connections will have its options."""
    listening.setblocking(False)
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
    return listening


def url_of(listening: socket.socket) -> str:
    """Where a listening socket is reached; the wildcard address is shown as loopback."""
    host, port = listening.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104
    return f"http://{host}:{port}"
