"""Which finished prefills hold blocks for a decode engine, and for how long?

A handoff ends when the decode engine says that it has pulled (or will not), or when its lease does. Nothing protects
the blocks after that; whoever still has their numbers may read them.
"""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from router.sim.blocks import BlockContent, BlockPool
from router.sim.config import SimConfig
from router.sim.ledger import Ledger
from router.sim.metrics import Counters
from router.sim.sequence import Sequence


class UnknownBlockError(Exception):
    """A pull names a block that this engine does not have."""


@dataclass(slots=True)
class _Held:
    blocks: list[int]
    ends_s: float
    pulled: bool = False


class Leases:
    """The handoffs of one engine, by request id."""

    def __init__(
        self, config: SimConfig, pool: BlockPool, counters: Counters, ledger: Ledger, on_freed: Callable[[], None]
    ) -> None:
        self._on_freed = on_freed
        self._lease_s = config.lease_s
        self._pool = pool
        self._counters = counters
        self._ledger = ledger
        self._loop = asyncio.get_running_loop()
        self._held: dict[str, _Held] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._frozen = False

    def __len__(self) -> int:
        return len(self._held)

    def hold(self, sequence: Sequence, address: dict[str, Any]) -> None:
        """Keep the blocks of an ended sequence, and put into it what a decode engine needs to pull them."""
        blocks, sequence.blocks = sequence.blocks, []
        self._held[sequence.request_id] = _Held(blocks, self._loop.time() + self._lease_s)
        self._ledger.issued(sequence.request_id, sequence.length_tokens, len(blocks))
        sequence.kv_transfer_params = {
            "do_remote_prefill": True,
            "do_remote_decode": False,
            "remote_block_ids": [list(blocks)],
            "remote_request_id": sequence.request_id,
            **address,
            "tp_size": 1,
            "dcp_size": 1,
            "pp_size": 1,
            "remote_num_tokens": sequence.length_tokens,
            "remote_blocks_expiry_time": None,
            "transfer_mode": "pull",
            "remote_prefill_cached_tokens": sequence.cached_tokens,
        }
        self._arm()

    def read(self, request_id: str, blocks: list[int]) -> list[BlockContent]:
        """What is in `blocks` at this instant, whoever owns them now."""
        if not all(block in self._pool for block in blocks):
            raise UnknownBlockError(f"blocks {blocks} of {self._pool.blocks}")
        held = self._held.get(request_id)
        if held is not None:
            held.pulled = True
        self._ledger.pulled(request_id)
        return self._pool.read(blocks)

    def notified(self, request_id: str) -> None:
        """A decode engine has what it wants."""
        held = self._held.pop(request_id, None)
        if held is None:
            self._counters.late_notifications += 1
            return
        self._end(request_id, held, "pulled" if held.pulled else "released")

    def extend(self, request_ids: Iterable[str]) -> None:
        """A heartbeat: a decode engine still means to pull these."""
        ends_s = self._loop.time() + self._lease_s * 2 / 3
        for request_id in request_ids:
            held = self._held.get(request_id)
            if held is not None:
                held.ends_s = max(held.ends_s, ends_s)

    def freeze(self) -> None:
        """Leases end only once the engine runs again."""
        self._frozen = True

    def thaw(self) -> None:
        """Catch up with what ended in the meantime."""
        self._frozen = False
        self._expire()

    def close(self) -> None:
        """The engine's process ends; its handoffs are lost."""
        if self._timer is not None:
            self._timer.cancel()
        for request_id in self._held:
            self._ledger.ended(request_id, "lost")
        self._held.clear()

    def _arm(self) -> None:
        if self._timer is None and self._held and not self._frozen:
            first_s = min(held.ends_s for held in self._held.values())
            self._timer = self._loop.call_at(first_s, self._expire)

    def _expire(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._frozen:
            return
        now_s = self._loop.time()
        for request_id in [request_id for request_id, held in self._held.items() if held.ends_s <= now_s]:
            self._counters.expired_handoffs += 1
            self._end(request_id, self._held.pop(request_id), "expired")
        self._arm()

    def _end(self, request_id: str, held: _Held, ending: str) -> None:
        self._pool.release(held.blocks)
        self._ledger.ended(request_id, ending)
        self._on_freed()
