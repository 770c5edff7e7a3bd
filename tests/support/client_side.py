"""A client's connection without a socket: a test feeds the server's protocol bytes and sees what it writes."""

import asyncio
from typing import Any

from uvicorn import Config
from uvicorn.server import ServerState

from router.edge.guarded import Guards
from router.edge.protocol import GatewayProtocol


class ClientTransport(asyncio.Transport):
    """Records what a server does to a client."""

    def __init__(self, address: str = "127.0.0.1") -> None:
        super().__init__({"peername": (address, 40_000), "sockname": ("127.0.0.1", 8000)})
        self.written = b""
        self.writes = 0
        self.ended = ""
        self.reading = True
        self.half_closed = False
        self.unsent_bytes = 0

    def get_write_buffer_size(self) -> int:
        """Part of the transport's interface."""
        return self.unsent_bytes

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Part of the transport's interface."""
        self.written += bytes(data)
        self.writes += 1

    def can_write_eof(self) -> bool:
        """Part of the transport's interface."""
        return True

    def write_eof(self) -> None:
        """Part of the transport's interface."""
        self.half_closed = True

    def is_closing(self) -> bool:
        """Part of the transport's interface."""
        return bool(self.ended)

    def close(self) -> None:
        """Part of the transport's interface."""
        self.ended = self.ended or "closed"

    def abort(self) -> None:
        """Part of the transport's interface."""
        self.ended = "aborted"

    def pause_reading(self) -> None:
        """Part of the transport's interface."""
        self.reading = False

    def resume_reading(self) -> None:
        """Part of the transport's interface."""
        self.reading = True


def connected(app: Any, guards: Guards, transport: ClientTransport) -> GatewayProtocol:
    """The server's side of a connection that `transport` stands for, in the running loop."""
    shared = guards

    class Connection(GatewayProtocol):
        guards = shared

    config = Config(app, ws="none", lifespan="off", log_config=None)
    protocol = Connection(config, ServerState(), {}, asyncio.get_running_loop())
    protocol.connection_made(transport)
    return protocol
