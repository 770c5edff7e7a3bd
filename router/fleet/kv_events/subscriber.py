"""Following one engine's events over ZeroMQ, in order and without gaps where the engine can repeat what was missed.

Off the request path: events are applied in slices that take well under a millisecond, with the loop's other work in
between, and what waits in the socket is bounded. What does not fit in there is a gap like any other.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, contextmanager
from typing import Protocol

import zmq
import zmq.asyncio

from router.fleet.backend import Backend
from router.fleet.kv_events.decode import BadBatch, decode
from router.fleet.kv_events.events import Batch, BlockHash, Event, Removed, Stored, slices
from router.fleet.kv_events.holdings import Holdings, Turn
from router.settings.engines import KvEvents
from router.supervision import LastResort, Telling, Trouble

log = logging.getLogger(__name__)

SLICE_BLOCKS = 256
"""Blocks after which the loop may do something else: some 0.2 ms."""

WAITING_BATCHES = 1000
"""Batches that may wait in a socket, some 30 MB of long prompts. The engine's own buffer is what repeats them."""

BATCH_COSTS_BLOCKS = 64
"""What receiving and reading a batch costs, as blocks."""

MAX_BATCH_BYTES = 64 << 20

MOST_REPEATED = 1000
"""Longer gaps are not filled: what was stored that long ago is hardly worth what it costs the engine to repeat it."""

REPEAT_TIMEOUT_S = 2.0
PAUSE_S = 5.0
HEARTBEAT_MS = 5000
END = 2**64 - 1
"""What comes as the number behind the last repeated batch: -1."""

NUMBER_BYTES = 8


class Listener(Protocol):
    """Who wants to know what is in an engine's cache now."""

    def stored(self, engine: Backend, event: Stored, depth: int | None) -> None:
        """Blocks are there; `depth` others of the same prompt come before them, if that is known."""

    def removed(self, engine: Backend, hashes: Sequence[BlockHash]) -> None:
        """Blocks were given to somebody else."""

    def cleared(self, engine: Backend) -> None:
        """Nothing is there any more."""

    def lost(self, engine: Backend) -> None:
        """What is there is not known any more, as events are missing."""


@contextmanager
def sockets() -> Iterator[zmq.asyncio.Context]:
    """What all subscribers share; leaving the block closes every socket."""
    context = zmq.asyncio.Context()
    try:
        yield context
    finally:
        context.destroy(linger=0)


class Subscriber:
    """Keeps the `holdings` of one engine up to date, and tells `listener`."""

    def __init__(self, engine: Backend, context: zmq.asyncio.Context, listener: Listener) -> None:
        assert engine.settings.kv_events is not None
        assert engine.holdings is not None
        self._engine = engine
        self._rules: KvEvents = engine.settings.kv_events.at(engine.settings.host)
        self._holdings: Holdings = engine.holdings
        self._context = context
        self._listener = listener
        self._slice_blocks = 0
        self._reconnected = False
        self._trouble: Trouble | None = None

    async def run(self) -> None:
        """Follow until cancelled. Whatever ends that, what is held is learnt anew after a pause."""
        work = f"KV events of {self._engine.id} at {self._rules.endpoint}"
        last_resort = LastResort(work, expected=zmq.ZMQError, lasting=True)
        while True:
            with last_resort.turn():
                await self._follow()
            self._lose("they were not followed for a while")
            await asyncio.sleep(PAUSE_S)

    async def _follow(self) -> None:
        with self._socket(zmq.SUB) as socket:
            socket.subscribe(self._rules.topic)
            ends = socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
            (socket.bind if self._rules.bind else socket.connect)(self._rules.endpoint)
            while True:
                frames = await socket.recv_multipart()
                while int(ends.get(zmq.EVENTS)) & zmq.POLLIN:
                    self._reconnected = bool(await ends.recv_multipart())
                if (message := _message(frames)) is not None:
                    await self._take(*message)

    async def _take(self, number: int, payload: bytes) -> None:
        """One message of the engine."""
        batch = self._decoded(number, payload)
        if batch is None:
            return
        self._begins_anew(number, batch)
        gap = self._holdings.turn(number, batch.at) is Turn.GAP
        self._holdings.gaps += gap and self._holdings.next > 0
        if gap or (self._reconnected and self._holdings.next > 0):
            await self._fill(number)
        self._reconnected = False
        await self._apply(number, batch)

    async def _fill(self, number: int) -> None:
        """Have repeated what is missing before a batch, as far as the engine can.

        From the last one on that is known, which shows whether the engine is still in the same life: behind a
        connection that was lost there may be another one, whose numbers happen to go on.
        """
        first = max(0, self._holdings.next - 1)
        if self._rules.replay_endpoint is None or number - first > MOST_REPEATED:
            return
        self._holdings.replays += 1
        async with aclosing(self._repeated(self._rules.replay_endpoint, first)) as batches:
            async for missed, payload in batches:
                batch = self._decoded(missed, payload)
                if batch is None:
                    continue
                if self._begins_anew(missed, batch):
                    break
                await self._apply(missed, batch)
            else:
                return
        await self._fill(number)

    def _begins_anew(self, number: int, batch: Batch) -> bool:
        """Whether the engine is in another life than it was; then nothing of the last one is left."""
        if self._holdings.turn(number, batch.at) is not Turn.RESTART:
            return False
        self._holdings.begin()
        self._holdings.restarts += 1
        self._listener.cleared(self._engine)
        return True

    async def _repeated(self, endpoint: str, first: int) -> AsyncGenerator[tuple[int, bytes], None]:
        """Batches from a number on, until the engine says that there are no more, or nothing."""
        with self._socket(zmq.DEALER) as socket:
            socket.connect(endpoint)
            await socket.send_multipart([b"", first.to_bytes(NUMBER_BYTES)])
            while True:
                try:
                    async with asyncio.timeout(REPEAT_TIMEOUT_S):
                        message = _message(await socket.recv_multipart())
                except TimeoutError:
                    return
                if message is None or message[0] == END:
                    return
                yield message

    async def _apply(self, number: int, batch: Batch) -> None:
        """A batch, unless it is known; what is missing before it now is missing for good."""
        turn = self._holdings.turn(number, batch.at)
        if turn is Turn.SEEN:
            return
        if turn is Turn.GAP:
            self._lose("batches are missing", f"{self._holdings.next} to {number - 1}")
        self._holdings.took(number, batch.at)
        self._is_well()
        for event in batch.events:
            for part in slices(event, SLICE_BLOCKS):
                await self._let_others(self._apply_part(part))
        await self._let_others(BATCH_COSTS_BLOCKS)

    def _apply_part(self, event: Event) -> int:
        """Note what has happened, and tell it. Returns how many blocks that were."""
        depth = self._holdings.apply(event)
        match event:
            case Stored():
                self._listener.stored(self._engine, event, depth)
            case Removed():
                self._listener.removed(self._engine, event.hashes)
            case _:
                self._listener.cleared(self._engine)
                return 0
        return len(event.hashes)

    async def _let_others(self, blocks: int) -> None:
        """The loop's other work has its turn after every few blocks; receiving what is there already gives it none."""
        self._slice_blocks += blocks
        if self._slice_blocks >= SLICE_BLOCKS:
            self._slice_blocks = 0
            await asyncio.sleep(0)

    def _decoded(self, number: int, payload: bytes) -> Batch | None:
        """What a message says; one that says nothing is as good as missing."""
        try:
            return decode(payload)
        except BadBatch as error:
            self._holdings.took(number, self._holdings.at)
            self._lose("a batch cannot be read", f"{number}, {error}")
            return None

    def _lose(self, kind: str, which: str | None = None) -> None:
        """What is held is not known any more. Each kind of reason is told at once, then ever more rarely."""
        if self._holdings.batches:
            self._tell(kind, which)
        self._holdings.lose()
        self._listener.lost(self._engine)

    def _tell(self, kind: str, which: str | None) -> None:
        now = asyncio.get_running_loop().time()
        self._trouble = trouble = self._trouble or Trouble(now)
        facts: dict[str, object] = {"backend": self._engine.id, "why": f"{kind}: {which}" if which else kind}
        match trouble.failed(kind, now):
            case Telling.ALL:
                log.warning("KV events are missing", extra={"facts": facts})
            case Telling.BRIEFLY:
                lasting = {"times": trouble.failures, "for_s": round(now - trouble.began_at)}
                log.warning("KV events are still missing", extra={"facts": facts | lasting})

    def _is_well(self) -> None:
        """A batch was taken; whatever was missing, that is over if it was long ago."""
        if self._trouble and self._trouble.gone(asyncio.get_running_loop().time()):
            lasted_s = round(self._trouble.failed_at - self._trouble.began_at)
            facts = {"backend": self._engine.id, "times": self._trouble.failures, "for_s": lasted_s}
            log.info("KV events come without gaps again", extra={"facts": facts})
            self._trouble = None

    @contextmanager
    def _socket(self, kind: int) -> Iterator[zmq.asyncio.Socket]:
        with self._context.socket(kind) as socket:
            socket.set(zmq.LINGER, 0)
            socket.set(zmq.RCVHWM, WAITING_BATCHES)
            socket.set(zmq.MAXMSGSIZE, MAX_BATCH_BYTES)
            socket.set(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
            socket.set(zmq.IPV6, 1)
            yield socket


def _message(frames: Sequence[bytes]) -> tuple[int, bytes] | None:
    """Number and payload, the last two frames; None of what is no batch."""
    if len(frames) < 3 or len(frames[-2]) != NUMBER_BYTES:
        return None
    return int.from_bytes(frames[-2]), frames[-1]
