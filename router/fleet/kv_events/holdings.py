"""What one engine holds by its own word, and whether that word is complete.

Batches are numbered from 0 in each life of an engine. A number that is left out is a gap, one that is behind with a
batch that is newer is another life, one that is behind with an old batch has been seen already: replays overlap with
what was on its way.

An engine may hold two copies of a block, and says that it has removed it when the first goes: a little less is known
here than is there, never more.
"""

from enum import Enum
from itertools import count, repeat
from typing import Any

from router.fleet.kv_events.events import BlockHash, Event, Removed, Stored

MAX_BLOCKS = 1_000_000
"""More than any engine has; what is over is forgotten, the oldest first, so that missed removals cannot pile up."""


class Turn(Enum):
    """What a batch is, by its number."""

    NEXT = "next"
    SEEN = "seen"
    GAP = "gap"
    RESTART = "restart"


class Holdings:
    """The blocks of one engine, each with how many of its prompt come before it, and how they were heard of.

    `complete` tells whether all that the engine holds is known, `sessions` whether it says for whom it stores blocks.
    """

    def __init__(self) -> None:
        self._depths: dict[BlockHash, int | None] = {}
        self.block_tokens = 0
        self.complete = False
        self.sessions = False
        self.next = 0
        self.at = 0.0
        self.batches = 0
        self.gaps = 0
        self.replays = 0
        self.restarts = 0

    @property
    def tokens(self) -> int:
        """Tokens in full blocks."""
        return len(self._depths) * self.block_tokens

    def turn(self, number: int, at: float) -> Turn:
        """What to do with a batch, by its number and time."""
        if number == self.next:
            return Turn.NEXT
        if number > self.next:
            return Turn.GAP
        return Turn.RESTART if at > self.at else Turn.SEEN

    def took(self, number: int, at: float) -> None:
        """A batch is being applied."""
        self.complete = self.complete or number == 0
        self.next, self.at = number + 1, max(at, self.at)
        self.batches += 1

    def apply(self, event: Event) -> int | None:
        """What has happened. Returns how many blocks of the prompt come before those that were stored, if known."""
        match event:
            case Stored():
                return self._store(event)
            case Removed():
                for block in event.hashes:
                    self._depths.pop(block, None)
            case _:
                self._depths.clear()
                self.complete = True
        return None

    def place(self, event: Stored, depth: int) -> None:
        """Blocks that hang on one that is not known have so many others before them."""
        if event.parent is not None:
            self._depths[event.parent] = depth - 1
        self._depths.update(zip(event.hashes, count(depth), strict=False))

    def lose(self) -> None:
        """Events are missing for good: what is held has to be learnt anew."""
        self._depths.clear()
        self.complete = False

    def begin(self) -> None:
        """The engine has begun anew, or may have: its batches are numbered from 0 again."""
        self.lose()
        self.next, self.at = 0, 0.0

    def describe(self) -> dict[str, Any]:
        """The facts of `/fleet`."""
        return {
            "held_tokens": self.tokens,
            "complete": self.complete,
            "names_sessions": self.sessions,
            "batches": self.batches,
            "gaps": self.gaps,
            "replays": self.replays,
            "restarts": self.restarts,
        }

    def _store(self, event: Stored) -> int | None:
        self.block_tokens = event.block_tokens
        self.sessions = self.sessions or event.session is not None
        depth = 0 if event.parent is None else _below(self._depths.get(event.parent))
        self._depths.update(zip(event.hashes, repeat(None) if depth is None else count(depth), strict=False))
        while len(self._depths) > MAX_BLOCKS:
            del self._depths[next(iter(self._depths))]
        return depth

    def __repr__(self) -> str:
        return f"<Holdings {self.tokens} tokens, batch {self.next}{'' if self.complete else ', incomplete'}>"


def _below(parent: int | None) -> int | None:
    return None if parent is None else parent + 1
