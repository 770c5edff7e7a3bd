"""A TCP proxy that changes a word in what an engine answers: hand-overs that come malformed from a real engine."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

CHUNK_BYTES = 1 << 20


@asynccontextmanager
async def rewriting_proxy(engine_url: str, word: bytes, other: bytes) -> AsyncIterator[str]:
    """The address of a proxy in front of an engine that puts `other` in place of `word`, of the same length."""
    assert len(word) == len(other), "the answer's length is told before"
    engine_port = int(engine_url.rsplit(":", 1)[1])

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, rewrite: bool) -> None:
        try:
            while data := await reader.read(CHUNK_BYTES):
                writer.write(data.replace(word, other) if rewrite else data)
                await writer.drain()
        except ConnectionError:
            pass  # the other side has closed; so does this one
        finally:
            writer.close()

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        engine_reader, engine_writer = await asyncio.open_connection("127.0.0.1", engine_port)
        async with asyncio.TaskGroup() as both:
            both.create_task(pass_on(reader, engine_writer, rewrite=False))
            both.create_task(pass_on(engine_reader, writer, rewrite=True))

    async with await asyncio.start_server(connect, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        server.close()
