"""What has happened in an engine's prefix cache since its last step, as vLLM's KV events tell it?

Block hashes are the low 64 bits of a digest, as they are there. Only full blocks appear.
"""

from collections.abc import Sequence
from typing import Any

from router.sim import tokens

MEDIUM = "GPU"


class Journal:
    """Events that nobody has taken yet, oldest first."""

    def __init__(self, block_size_tokens: int) -> None:
        self._block_size_tokens = block_size_tokens
        self._events: list[dict[str, Any]] = []

    def stored(self, keys: Sequence[bytes], parent: bytes | None, content: bytes, session: str | None) -> None:
        """Blocks of `content`, one after the other, are in the cache now."""
        self._events.append(
            {
                "type": "BlockStored",
                "block_hashes": [block_hash(key) for key in keys],
                "parent_block_hash": None if parent is None else block_hash(parent),
                "token_ids": tokens.to_ids(content),
                "block_size": self._block_size_tokens,
                "lora_id": None,
                "medium": MEDIUM,
                "lora_name": None,
                "extra_keys": [None] * len(keys),
                "group_idx": 0,
                "session_id": session,
            }
        )

    def removed(self, key: bytes) -> None:
        """A block was given to another sequence."""
        event = {"type": "BlockRemoved", "block_hashes": [block_hash(key)], "medium": MEDIUM, "group_idx": 0}
        self._events.append(event)

    def cleared(self) -> None:
        """The cache was reset."""
        self._events.append({"type": "AllBlocksCleared"})

    def take(self) -> list[dict[str, Any]]:
        """The events so far; the next time, what comes after them."""
        events, self._events = self._events, []
        return events


def block_hash(key: bytes) -> int:
    """What events call a block."""
    return int.from_bytes(key[-8:])
