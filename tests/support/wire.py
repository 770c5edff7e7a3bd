"""An engine's connection without a socket: a test feeds it bytes and looks at what it does to its transport."""

import asyncio
from dataclasses import dataclass, field
from typing import cast

from router.errors import EngineFault
from router.exchange.connection import EngineConnection


class FakeTransport(asyncio.Transport):
    """Records what is written to it and whether it reads."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self._reading = True
        self.aborted = False
        self.ended = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Part of the transport's interface."""
        self.written += bytes(data)

    def pause_reading(self) -> None:
        """Part of the transport's interface."""
        self._reading = False

    def resume_reading(self) -> None:
        """Part of the transport's interface."""
        self._reading = True

    def is_reading(self) -> bool:
        """Part of the transport's interface."""
        return self._reading

    def write_eof(self) -> None:
        """Part of the transport's interface."""
        self.ended += 1

    def abort(self) -> None:
        """Part of the transport's interface."""
        self.aborted = True


@dataclass
class Heard:
    """A sink that remembers; `ends` counts what must come once."""

    status: int | None = None
    headers: dict[bytes, bytes] = field(default_factory=dict)
    body: bytes = b""
    fault: EngineFault | None = None
    complete: bool = False
    ends: int = 0

    def on_head(self, status: int, headers: dict[bytes, bytes]) -> None:
        """Part of `Sink`."""
        assert self.status is None
        self.status, self.headers = status, headers

    def on_body(self, data: bytes) -> None:
        """Part of `Sink`."""
        assert not self.ends
        self.body += data

    def on_end(self) -> None:
        """Part of `Sink`."""
        self.complete = True
        self.ends += 1

    def on_fault(self, fault: EngineFault) -> None:
        """Part of `Sink`."""
        self.fault = fault
        self.ends += 1

    def on_due(self) -> None:
        """Part of `Sink`."""
        raise AssertionError("nobody set a deadline")


class StillLoop:
    """Stands in for a loop where time does not matter."""

    def time(self) -> float:
        """Always the beginning."""
        return 0.0


def connected() -> tuple[EngineConnection, FakeTransport]:
    """A connection that stands; who lost it is not recorded."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        loop = cast("asyncio.AbstractEventLoop", StillLoop())
    connection, transport = EngineConnection("engine:1", lambda _: None, loop), FakeTransport()
    connection.connection_made(transport)
    return connection, transport
