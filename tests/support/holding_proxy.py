"""A TCP proxy that stops at a word: it makes the instant between two legs of a request as long as a test needs."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Literal

CHUNK_BYTES = 1 << 20
Direction = Literal["to_engine", "from_engine"]


@dataclass
class HoldingProxy:
    """Passes bytes on; from those with `word` in them on, `direction` waits for `go`. `held` tells that it does."""

    engine_port: int
    direction: Direction
    word: bytes
    port: int = 0
    held: asyncio.Event = field(default_factory=asyncio.Event)
    go: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serves one connection until both sides are done."""
        engine_reader, engine_writer = await asyncio.open_connection("127.0.0.1", self.engine_port)
        async with asyncio.TaskGroup() as both:
            both.create_task(self._pass_on(reader, engine_writer, "to_engine"))
            both.create_task(self._pass_on(engine_reader, writer, "from_engine"))

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: Direction) -> None:
        try:
            while data := await reader.read(CHUNK_BYTES):
                if way == self.direction and self.word in data:
                    self.held.set()
                    await self.go.wait()
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass  # the other side has closed; so does this one
        finally:
            writer.close()


@asynccontextmanager
async def holding_proxy(engine_url: str, direction: Direction, word: bytes) -> AsyncIterator[HoldingProxy]:
    """A proxy in front of an engine, on a free port."""
    proxy = HoldingProxy(int(engine_url.rsplit(":", 1)[1]), direction, word)
    async with await asyncio.start_server(proxy.connect, "127.0.0.1", 0) as server:
        proxy.port = server.sockets[0].getsockname()[1]
        yield proxy
        server.close()
