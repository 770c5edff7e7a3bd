"""How does a decode engine reach the engines that hold its prompts?

The client end of the side channel. An engine is known by its id: once the two have shaken hands, its address in the
parameters does not matter any more, and a broken connection to it stays broken.
"""

import asyncio
from collections import Counter
from collections.abc import Coroutine
from typing import Any

from router.sim.blocks import BlockContent
from router.sim.config import SimConfig
from router.sim.metrics import Counters
from router.sim.remote_kv import RemoteKv
from router.sim.side_channel import compatibility
from router.sim.wire import Head, Wire, unpack_blocks

CONNECT_RETRY_S = 0.1
HEARTBEATS_PER_LEASE = 6


class TransferError(Exception):
    """The blocks of another engine cannot be had."""


class Peers:
    """Every engine that this one has shaken hands with, and the transfers from them."""

    def __init__(self, config: SimConfig, counters: Counters) -> None:
        self._config = config
        self._counters = counters
        self._loop = asyncio.get_running_loop()
        self._known: dict[str, _Peer] = {}
        self._greeting: dict[str, asyncio.Lock] = {}
        self._link_free_s = 0.0
        self._wanted: Counter[RemoteKv] = Counter()
        self._heartbeat: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` until it ends or the engine does."""
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def aclose(self) -> None:
        """End all transfers and connections."""
        if self._heartbeat is not None:
            self._heartbeat.cancel()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for peer in self._known.values():
            peer.wire.close()
        await asyncio.gather(*(peer.wire.closed for peer in self._known.values()))

    def want(self, remote: RemoteKv) -> None:
        """Keep the lease of `remote` alive until `unwant`."""
        self._wanted[remote] += 1
        if self._heartbeat is None:
            self._heartbeat = self._loop.call_later(self._config.lease_s / HEARTBEATS_PER_LEASE, self._beat)

    def unwant(self, remote: RemoteKv) -> None:
        """Stop the heartbeats for `remote`."""
        self._wanted[remote] -= 1
        if self._wanted[remote] <= 0:
            del self._wanted[remote]

    async def pull(self, remote: RemoteKv, blocks: list[int]) -> list[BlockContent]:
        """Read `blocks` of `remote`; raises `TransferError`. Waits for ever on a frozen engine that is known."""
        peer = await self._peer(remote)
        asked_s = self._loop.time()
        head, tail = await peer.ask({"op": "pull", "request_id": remote.request_id, "blocks": blocks})
        if "error" in head:
            raise TransferError(head["error"])
        size_bytes = len(blocks) * self._config.block_bytes
        await self._carry(size_bytes, peer, head["link_gb_per_s"])
        self._counters.transfer_bytes.observe(size_bytes)
        self._counters.transfer_s.observe(self._loop.time() - asked_s)
        return unpack_blocks(tail)

    async def notify(self, remote: RemoteKv) -> None:
        """Tell the other engine that its blocks are not needed any more; one that cannot be reached is not told."""
        try:
            peer = await self._peer(remote)
        except TransferError:
            return
        peer.wire.send({"op": "notify", "request_id": remote.request_id})

    async def _peer(self, remote: RemoteKv) -> "_Peer":
        lock = self._greeting.setdefault(remote.engine_id, asyncio.Lock())
        async with lock:
            peer = self._known.get(remote.engine_id)
            if peer is None:
                peer = self._known[remote.engine_id] = await self._greet(remote)
        if not peer.wire.open:
            del self._known[remote.engine_id]
            raise TransferError("the connection to the other engine is broken")
        return peer

    async def _greet(self, remote: RemoteKv) -> "_Peer":
        peer: _Peer | None = None
        try:
            async with asyncio.timeout(self._config.handshake_timeout_s):
                peer = await self._connect(remote)
                answer, _ = await peer.ask({"op": "handshake"})
        except TimeoutError as error:
            if peer is not None:
                peer.wire.close()
            raise TransferError(f"no handshake with {remote.host}:{remote.port}") from error
        if answer["engine_id"] != remote.engine_id:
            peer.wire.close()
            raise TransferError(f"engine {answer['engine_id']} answers in place of {remote.engine_id}")
        if answer["compatibility"] != compatibility(self._config):
            peer.wire.close()
            raise TransferError(f"the other engine is {answer['compatibility']}")
        await asyncio.sleep(self._config.handshake_s * self._config.time_scale)
        return peer

    async def _connect(self, remote: RemoteKv) -> "_Peer":
        peer = _Peer()
        while True:
            try:
                await self._loop.create_connection(lambda: peer.wire, remote.host, remote.port)
            except (OSError, OverflowError):
                await asyncio.sleep(CONNECT_RETRY_S)
            else:
                return peer

    async def _carry(self, size_bytes: int, peer: "_Peer", peer_gb_per_s: float) -> None:
        """Wait until both ends of the link have carried so many bytes after everything that they carry already."""
        now_s, byte_s = self._loop.time(), self._config.time_scale / 1e9
        self._link_free_s = max(self._link_free_s, now_s) + size_bytes * byte_s / self._config.link_gb_per_s
        peer.link_free_s = max(peer.link_free_s, now_s) + size_bytes * byte_s / peer_gb_per_s
        if (wait_s := max(self._link_free_s, peer.link_free_s) - now_s) > 0:
            await asyncio.sleep(wait_s)

    def _beat(self) -> None:
        self._heartbeat = None
        if not self._wanted:
            return
        by_engine: dict[str, list[RemoteKv]] = {}
        for remote in self._wanted:
            by_engine.setdefault(remote.engine_id, []).append(remote)
        for remotes in by_engine.values():
            self.spawn(self._send_heartbeat(remotes))
        self._heartbeat = self._loop.call_later(self._config.lease_s / HEARTBEATS_PER_LEASE, self._beat)

    async def _send_heartbeat(self, remotes: list[RemoteKv]) -> None:
        try:
            peer = await self._peer(remotes[0])
        except TransferError:
            return
        peer.wire.send({"op": "heartbeat", "request_ids": [remote.request_id for remote in remotes]})


class _Peer:
    """A connection to another engine, and the questions that it has not answered."""

    def __init__(self) -> None:
        self.wire = Wire(self._received, self._lost, lambda _wire: None)
        self.link_free_s = 0.0
        self._asked: dict[int, asyncio.Future[tuple[Head, bytes]]] = {}
        self._questions = 0

    async def ask(self, head: Head) -> tuple[Head, bytes]:
        """The answer to a question; raises `TransferError` when the connection ends first."""
        if not self.wire.open:
            raise TransferError("the connection to the other engine is closed")
        number = self._questions = self._questions + 1
        answer: asyncio.Future[tuple[Head, bytes]] = asyncio.get_running_loop().create_future()
        self._asked[number] = answer
        self.wire.send({**head, "id": number})
        try:
            return await answer
        finally:
            del self._asked[number]

    def _received(self, _wire: Wire, head: Head, tail: bytes) -> None:
        answer = self._asked.get(head["id"])
        if answer is not None and not answer.done():
            answer.set_result((head, tail))

    def _lost(self, _wire: Wire) -> None:
        for answer in self._asked.values():
            if not answer.done():
                answer.set_exception(TransferError("the other engine has gone"))
