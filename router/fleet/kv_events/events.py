"""What can happen in an engine's KV cache?"""

from collections.abc import Sequence
from dataclasses import dataclass

BlockHash = int | bytes
"""What an engine calls a block with all that precedes it: 64 bits, or the whole digest."""


@dataclass(frozen=True, slots=True)
class Stored:
    """Full blocks of `block_tokens` each, at least one, were computed or pulled, one after the other.

    The first comes after `parent`. `session` is what the request that did it was sent with as `x-session-id`.
    """

    hashes: Sequence[BlockHash]
    parent: BlockHash | None
    block_tokens: int
    session: str | None = None


@dataclass(frozen=True, slots=True)
class Removed:
    """Blocks were given to somebody else."""

    hashes: Sequence[BlockHash]


@dataclass(frozen=True, slots=True)
class Cleared:
    """The cache was emptied."""


Event = Stored | Removed | Cleared


@dataclass(frozen=True, slots=True)
class Batch:
    """What happened in one step of an engine; `at` by its own clock, in seconds since 1970."""

    at: float
    events: Sequence[Event]
