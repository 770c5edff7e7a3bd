"""When does each sequence of an engine get its next token?

Continuous batching as in vLLM: sequences wait first come, first served for blocks and a place in the batch; each step
gives one token to every decoding sequence and spends what is left of the token budget on prompts. One timer per engine
drives all of its streams.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from router.sim.blocks import BlockContent, OutOfBlocksError
from router.sim.config import SimConfig
from router.sim.kv_cache import KvCache
from router.sim.latency import PrefillChunk
from router.sim.leases import Leases
from router.sim.ledger import Ledger
from router.sim.metrics import Counters
from router.sim.peers import Peers, TransferError
from router.sim.remote_kv import EngineDeathError, RemoteKv
from router.sim.sequence import Phase, Sequence
from router.sim.text import advance, first_state


@dataclass
class Parts:
    """What a scheduler works with: the rest of its engine process."""

    config: SimConfig
    cache: KvCache
    leases: Leases
    peers: Peers
    counters: Counters
    ledger: Ledger
    address: dict[str, Any] = field(default_factory=dict)
    """What this engine's handoffs say about where it is."""
    publish: Callable[[], None] | None = None
    """Called at the end of each step."""


@dataclass
class _Batch:
    decodes: list[Sequence] = field(default_factory=list)
    chunks: list[tuple[Sequence, int]] = field(default_factory=list)


class Scheduler:
    """The waiting and running sequences of one engine."""

    def __init__(self, parts: Parts, die: Callable[[str], None]) -> None:
        self._parts = parts
        self._die = die
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[Sequence] = deque()
        self._pulling: set[Sequence] = set()
        self._running: list[Sequence] = []
        self._timer: asyncio.Handle | None = None
        self._step_ends_s = 0.0
        self._frozen = False
        self._thawed: list[Callable[[], None]] = []
        self._closed = ""

    def __repr__(self) -> str:
        return f"<Scheduler {self.running} running, {self.waiting} waiting>"

    @property
    def running(self) -> int:
        """Sequences in the batch."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Sequences that wait for a place or for their KV."""
        return len(self._waiting) + len(self._pulling)

    def add(self, sequence: Sequence) -> None:
        """Take a sequence in."""
        if self._closed:
            sequence.phase = Phase.DONE
            sequence.listener.failed(sequence, self._closed)
            return
        sequence.arrived_s = self._loop.time()
        if sequence.remote_kv is not None and sequence.remote_kv.complete:
            self._parts.peers.want(sequence.remote_kv)
        self._waiting.append(sequence)
        self.wake()

    def abort(self, sequence: Sequence) -> None:
        """Nobody wants this sequence any more."""
        if sequence.phase is Phase.DONE or sequence.aborted:
            return
        sequence.aborted = True
        if self._frozen:
            self._thawed.append(lambda: self._drop(sequence))
        else:
            self._drop(sequence)

    def refuse(self, remote: RemoteKv | None) -> None:
        """A request with remote KV was turned down: let the other engine free its blocks at once."""
        if remote is not None and remote.complete:
            self._parts.peers.spawn(self._parts.peers.notify(remote))

    def wake(self) -> None:
        """Plan a step unless one is on its way."""
        if self._timer is None and not self._frozen:
            self._step_ends_s = self._loop.time()
            self._plan()

    def freeze(self) -> None:
        """Stop stepping; everything stays where it is."""
        self._frozen = True

    def thaw(self) -> None:
        """Go on where the engine stopped."""
        if self._closed:
            return
        self._frozen = False
        late, self._thawed = self._thawed, []
        for call in late:
            call()
        self.wake()

    def close(self, message: str) -> None:
        """The engine's process ends: every sequence fails, and its blocks are nobody's any more."""
        if self._timer is not None:
            self._timer.cancel()
        self._frozen = True
        self._closed = message
        for sequence in [*self._running, *self._pulling, *self._waiting]:
            sequence.phase = Phase.DONE
            if not sequence.aborted:
                sequence.listener.failed(sequence, message)
        self._running.clear()
        self._pulling.clear()
        self._waiting.clear()

    # Admission

    def _admit(self) -> None:
        while self._waiting and len(self._running) < self._parts.config.max_num_seqs:
            sequence = self._waiting[0]
            if not sequence.blocks:
                try:
                    self._parts.cache.begin(sequence)
                except OutOfBlocksError:
                    return
                self._parts.counters.prefix_cache_queries += sequence.length_tokens
            self._waiting.popleft()
            if sequence.remote_kv is not None:
                self._pull(sequence, sequence.remote_kv)
            else:
                sequence.phase = Phase.RUNNING
                self._running.append(sequence)

    def _pull(self, sequence: Sequence, remote: RemoteKv) -> None:
        sequence.phase = Phase.PULLING
        self._pulling.add(sequence)
        if not remote.complete:
            return
        blocks = remote.last_blocks(len(self._parts.cache.uncached_blocks(sequence)))
        self._parts.peers.spawn(self._transfer(sequence, remote, blocks))

    async def _transfer(self, sequence: Sequence, remote: RemoteKv, blocks: list[int]) -> None:
        contents: list[BlockContent] | None = None
        try:
            contents = await self._parts.peers.pull(remote, blocks)
        except TransferError:
            self._parts.counters.failed_transfers += 1
            self._parts.ledger.totals.failed_pulls += 1
        else:
            await self._parts.peers.notify(remote)
        finally:
            self._parts.peers.unwant(remote)
        if self._frozen:
            self._thawed.append(lambda: self._pulled(sequence, contents))
        else:
            self._pulled(sequence, contents)

    def _pulled(self, sequence: Sequence, contents: list[BlockContent] | None) -> None:
        """The blocks have arrived, or (None) will not."""
        self._pulling.discard(sequence)
        sequence.remote_kv = None
        sequence.phase = Phase.WAITING
        if sequence.aborted:
            self._parts.cache.release(sequence)
        elif contents is not None:
            self._parts.cache.load(sequence, contents)
            self._parts.counters.external_kv_transfer_tokens += sequence.missing_tokens
            self._count_prompt(sequence)
            sequence.computed_tokens = sequence.length_tokens
            self._waiting.appendleft(sequence)
        elif self._parts.config.kv_load_failure_policy == "recompute":
            self._waiting.appendleft(sequence)
        else:
            self._fail(sequence)
        self.wake()

    def _fail(self, sequence: Sequence) -> None:
        sequence.phase = Phase.DONE
        self._parts.cache.release(sequence)
        self._parts.counters.finished["error"] += 1
        sequence.listener.failed(sequence, "Internal server error")

    def _drop(self, sequence: Sequence) -> None:
        """Free what an aborted sequence holds. While its KV is on the way, its blocks must stay for it."""
        self._parts.counters.finished["abort"] += 1
        if sequence.phase is Phase.PULLING:
            self._pulling.discard(sequence)
            return
        if sequence.phase is Phase.RUNNING:
            self._running.remove(sequence)
        else:
            self._waiting.remove(sequence)
            if sequence.remote_kv is not None and sequence.remote_kv.complete:
                self._parts.peers.unwant(sequence.remote_kv)
                self.refuse(sequence.remote_kv)
        sequence.phase = Phase.DONE
        self._parts.cache.release(sequence)
        self.wake()

    # Steps

    def _plan(self) -> None:
        try:
            self._admit()
        except EngineDeathError as error:
            self._die(str(error))
            return
        batch = self._batch()
        if not batch.decodes and not batch.chunks:
            self._timer = None
            return
        duration_s = self._duration_s(batch)
        if duration_s:
            self._step_ends_s = max(self._step_ends_s + duration_s, self._loop.time())
            self._timer = self._loop.call_at(self._step_ends_s, self._step, batch)
        else:
            self._timer = self._loop.call_soon(self._step, batch)

    def _batch(self) -> _Batch:
        batch = _Batch()
        prompts: list[Sequence] = []
        for sequence in self._running:
            (prompts if sequence.missing_tokens else batch.decodes).append(sequence)
        budget = self._parts.config.max_num_batched_tokens - len(batch.decodes)
        for sequence in prompts:
            tokens = min(sequence.missing_tokens, budget)
            if tokens <= 0:
                break
            batch.chunks.append((sequence, tokens))
            budget -= tokens
        return batch

    def _duration_s(self, batch: _Batch) -> float:
        config = self._parts.config
        chunks = [PrefillChunk(tokens, sequence.computed_tokens) for sequence, tokens in batch.chunks]
        if config.decode_step_s is None:
            kv_tokens = sum(sequence.length_tokens for sequence in batch.decodes)
            decode_seqs = len(batch.decodes)
            step_s = config.latency.step_s(decode_seqs=decode_seqs, decode_kv_tokens=kv_tokens, chunks=chunks)
        else:
            step_s = config.latency.chunks_s(chunks) + (config.decode_step_s if batch.decodes else 0.0)
        return step_s * config.time_scale

    def _step(self, batch: _Batch) -> None:
        """The end of a step: its tokens are there."""
        if self._frozen:
            self._thawed.append(lambda: self._step(batch))
            return
        for sequence, tokens in batch.chunks:
            if sequence.phase is Phase.RUNNING:
                self._prefilled(sequence, tokens)
        for sequence in batch.decodes:
            if sequence.phase is Phase.RUNNING:
                self._sample(sequence)
        if self._parts.publish is not None:
            self._parts.publish()
        self._plan()

    def _prefilled(self, sequence: Sequence, tokens: int) -> None:
        sequence.computed_tokens += tokens
        if sequence.missing_tokens:
            return
        self._parts.cache.compute(sequence)
        if not sequence.generated_tokens:
            self._parts.counters.local_compute_tokens += sequence.length_tokens - sequence.cached_tokens
            self._count_prompt(sequence)
        self._sample(sequence)

    def _count_prompt(self, sequence: Sequence) -> None:
        self._parts.counters.local_cache_hit_tokens += sequence.cached_tokens
        self._parts.counters.prompt_tokens += sequence.prompt_tokens

    def _sample(self, sequence: Sequence) -> None:
        if sequence.last_token:
            try:
                self._parts.cache.extend(sequence)
            except OutOfBlocksError:
                self._preempt(sequence)
                return
        if not sequence.generated_tokens:
            self._start_text(sequence)
        sequence.state, piece = advance(sequence.state)
        sequence.last_token = piece
        sequence.generated_tokens += 1
        self._parts.counters.generation_tokens += 1
        if sequence.generated_tokens == sequence.max_tokens:
            self._finish(sequence, piece)
        else:
            sequence.listener.token(sequence, piece, None)

    def _start_text(self, sequence: Sequence) -> None:
        seen = self._parts.cache.seen(sequence)
        self._parts.ledger.totals.wrong_texts += seen != self._parts.cache.expected(sequence)
        sequence.state = first_state(seen, sequence.choice)
        self._parts.counters.first_token_s.observe(self._loop.time() - sequence.arrived_s)

    def _preempt(self, sequence: Sequence) -> None:
        """Out of blocks: this sequence waits, and computes its KV anew when there is room."""
        self._running.remove(sequence)
        self._parts.cache.release(sequence)
        self._parts.counters.preemptions += 1
        sequence.tokens += sequence.last_token
        sequence.last_token = b""
        sequence.keys = []
        sequence.phase = Phase.WAITING
        self._waiting.appendleft(sequence)

    def _finish(self, sequence: Sequence, piece: bytes) -> None:
        sequence.phase = Phase.DONE
        self._running.remove(sequence)
        if sequence.hold_kv:
            self._parts.leases.hold(sequence, self._parts.address)
        else:
            self._parts.cache.release(sequence)
        counters = self._parts.counters
        counters.finished[sequence.finish_reason] += 1
        counters.request_s.observe(self._loop.time() - sequence.arrived_s)
        sequence.listener.token(sequence, piece, sequence.finish_reason)
