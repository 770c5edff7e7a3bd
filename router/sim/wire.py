"""How do two engines speak over the side channel?

Frames of a length, a JSON head and a binary tail (block contents). Every question has an `id`; its answer carries the
same. Questions without an `id` are not answered.
"""

import asyncio
import struct
from collections.abc import Callable
from typing import Any, cast

import orjson

from router.sim.blocks import DIGEST_BYTES, BlockContent

_LENGTHS = struct.Struct("!II")
_TOKENS_BYTES = struct.Struct("!H")

Head = dict[str, Any]


def frame(head: Head, tail: bytes = b"") -> bytes:
    """One message, ready to be written."""
    encoded = orjson.dumps(head)
    return _LENGTHS.pack(len(encoded), len(tail)) + encoded + tail


def pack_blocks(contents: list[BlockContent]) -> bytes:
    """Block contents as a tail."""
    return b"".join(content.parent + _TOKENS_BYTES.pack(len(content.tokens)) + content.tokens for content in contents)


def unpack_blocks(tail: bytes) -> list[BlockContent]:
    """Block contents from a tail."""
    contents, at = [], 0
    while at < len(tail):
        parent = tail[at : at + DIGEST_BYTES]
        (length,) = _TOKENS_BYTES.unpack_from(tail, at + DIGEST_BYTES)
        at += DIGEST_BYTES + _TOKENS_BYTES.size
        contents.append(BlockContent(parent, tail[at : at + length]))
        at += length
    return contents


class Wire(asyncio.Protocol):
    """One connection of the side channel: calls `received` per frame and `lost` once."""

    def __init__(
        self,
        received: Callable[["Wire", Head, bytes], None],
        lost: Callable[["Wire"], None],
        made: Callable[["Wire"], None],
    ) -> None:
        self._received = received
        self._lost = lost
        self._made = made
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Part of asyncio.Protocol."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are no subclass
        self._made(self)

    def data_received(self, data: bytes) -> None:
        """Part of asyncio.Protocol."""
        self._buffer += data
        while len(self._buffer) >= _LENGTHS.size:
            head_bytes, tail_bytes = _LENGTHS.unpack_from(self._buffer)
            end = _LENGTHS.size + head_bytes + tail_bytes
            if len(self._buffer) < end:
                return
            message = bytes(self._buffer[_LENGTHS.size : end])
            del self._buffer[:end]
            self._received(self, orjson.loads(message[:head_bytes]), message[head_bytes:])

    def connection_lost(self, exc: Exception | None) -> None:
        """Part of asyncio.Protocol."""
        self._transport = None
        self.closed.set_result(None)
        self._lost(self)

    @property
    def open(self) -> bool:
        """Whether a message written now may arrive."""
        return self._transport is not None and not self._transport.is_closing()

    def send(self, head: Head, tail: bytes = b"") -> None:
        """Write a message; on a closed connection it is lost, as on a network."""
        if self._transport is not None:
            self._transport.write(frame(head, tail))

    def close(self) -> None:
        """End the connection at once."""
        if self._transport is not None:
            self._transport.abort()
