"""How does an engine tell what is in its KV cache? vLLM's PUB socket, and a ROUTER that repeats what was missed.

Frames and numbers are vLLM's: topic, number from 0 in 8 bytes, msgpack; a replay ends with -1.
"""

import asyncio
import time
from collections import deque
from typing import Any

import msgspec
import zmq
import zmq.asyncio

from router.sim.config import SimConfig

BUFFERED_BATCHES = 10_000
END = b"\xff" * 8


class Publisher:
    """The events of one life of an engine. Raises OSError when an address cannot be had."""

    def __init__(self, config: SimConfig) -> None:
        self._topic = config.kv_events_topic.encode()
        self._sent = 0
        self._buffer: deque[tuple[bytes, bytes]] = deque(maxlen=BUFFERED_BATCHES)
        self._context = zmq.asyncio.Context()
        self._tasks: list[asyncio.Task[None]] = []
        self._events = zmq.Context(self._context).socket(zmq.PUB)
        try:
            _open(self._events, config.kv_events or "")
            if config.kv_events_replay is not None:
                replays = self._context.socket(zmq.ROUTER)
                replays.bind(config.kv_events_replay)
                self._tasks.append(asyncio.get_running_loop().create_task(self._repeat(replays)))
        except zmq.ZMQError as error:
            self.close()
            raise OSError(error.errno, f"KV events: {error}") from None

    def publish(self, events: list[dict[str, Any]]) -> None:
        """One step's events, if there are any."""
        if events:
            payload = msgspec.msgpack.encode([time.time(), events, 0])
            number = self._sent.to_bytes(8)
            self._sent += 1
            self._buffer.append((number, payload))
            self._events.send_multipart((self._topic, number, payload))

    def close(self) -> None:
        """Give the addresses back."""
        for task in self._tasks:
            task.cancel()
        self._events.close(linger=0)
        self._context.destroy(linger=0)

    async def _repeat(self, socket: zmq.asyncio.Socket) -> None:
        """Answer everybody who asks for batches from a number on."""
        while True:
            who, _, first = await socket.recv_multipart()
            for number, payload in [*self._buffer]:
                if number >= first:
                    await socket.send_multipart((who, b"", self._topic, number, payload))
            await socket.send_multipart((who, b"", b"", END, b""))


def _open(socket: "zmq.Socket[bytes]", endpoint: str) -> None:
    """Listen at a wildcard or ipc address, connect to any other, as vLLM does."""
    if "*" in endpoint or "::" in endpoint or endpoint.startswith(("ipc://", "inproc://")):
        socket.bind(endpoint)
    else:
        socket.connect(endpoint)
