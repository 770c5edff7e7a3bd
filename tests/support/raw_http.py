"""Bytes to a server and back, without a client library that would tidy them up."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import orjson


@dataclass(frozen=True)
class Answer:
    """One answer whose length was told."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> Any:
        """What an answer in the OpenAI error shape says."""
        return orjson.loads(self.body)["error"]


@asynccontextmanager
async def connected_to(url: str) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection to a URL's host and port, that ends with the block."""
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def talk(url: str, raw: bytes, within_s: float = 5.0) -> bytes:
    """All that a server says to `raw` before it closes. Raises `TimeoutError` when it does not close."""
    async with connected_to(url) as (reader, writer), asyncio.timeout(within_s):
        writer.write(raw)
        return await reader.read()


def answers(said: bytes) -> Iterator[Answer]:
    """The answers in what a server said; each must tell its length."""
    while said:
        head, _, rest = said.partition(b"\r\n\r\n")
        status_line, *lines = head.decode().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines)
        size = int(headers["content-length"])
        yield Answer(int(status_line.split()[1]), headers, rest[:size])
        said = rest[size:]
