"""What can happen in an engine's KV cache?"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

BlockHash = int | bytes
"""What an engine calls a block with all that precedes it: 64 bits, or the whole digest."""


@dataclass(frozen=True, slots=True)
class Stored:
    """Full blocks of `block_tokens` each, at least one, were computed or pulled, one after the other.

    The first comes after `parent`. `session` is what the request that did it was sent with as `x-session-id`.
    Of an event that is taken in slices, `more` blocks come after this one.
    """

    hashes: Sequence[BlockHash]
    parent: BlockHash | None
    block_tokens: int
    session: str | None = None
    more: int = 0


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


def slices(event: Event, most_blocks: int) -> Iterator[Event]:
    """The same event in parts, in order: one step of an engine may store a prompt of a million tokens."""
    if isinstance(event, Cleared) or len(event.hashes) <= most_blocks:
        yield event
        return
    for start in range(0, len(event.hashes), most_blocks):
        hashes = event.hashes[start : start + most_blocks]
        if isinstance(event, Removed):
            yield Removed(hashes)
        else:
            parent = event.hashes[start - 1] if start else event.parent
            more = len(event.hashes) - start - len(hashes)
            yield Stored(hashes, parent, event.block_tokens, event.session, more)
