"""What engines say of their caches, put into the index: what was evicted or cleared there is forgotten here.

The index knows blocks of a prompt's bytes, an engine blocks of its tokens, under hashes of its own. What ties them: an
engine is sent a request's id as its session, and names it with the blocks that it stores for it. How far into the
prompt they are is known from the chain, and how many tokens a block of bytes stands for is estimated; so each block of
bytes ends within a block of the engine, and is forgotten with it. Of an engine that names no sessions only restarts and
cleared caches are known.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from math import ceil

from router.call import Blocks
from router.fleet.backend import Backend
from router.fleet.kv_events.events import BlockHash, Stored
from router.routing.prefix.blocks import BLOCK_TOKENS
from router.routing.prefix.index import PrefixIndex

REMEMBERED_BLOCKS = 65_536
"""Blocks of the prompts sent to an engine last, for the events that are to come of them: four million tokens."""


MOST_TIES, MOST_GUESSES = 1_000_000, 10_000
"""Of one engine; beyond them the oldest, or all, are forgotten. As a rule they go before, with evicted blocks."""


class _Told:
    """One engine: prompts that it was sent, by session, and which blocks of theirs end in each of its own.

    `guessed` has how many blocks there are up to those that it held before anybody listened, as far as one can tell.
    """

    __slots__ = ("guessed", "inside", "prompts", "remembered", "tokens_each")

    def __init__(self) -> None:
        self.prompts: OrderedDict[str, Blocks] = OrderedDict()
        self.remembered = 0
        self.inside: dict[BlockHash, Sequence[int]] = {}
        self.guessed: dict[BlockHash | None, int] = {}
        self.tokens_each: float = BLOCK_TOKENS

    def sent(self, session: str, blocks: Blocks) -> None:
        before = self.prompts.pop(session, None)
        self.prompts[session] = blocks
        self.tokens_each = blocks.tokens_each
        self.remembered += len(blocks.hashes) - (len(before.hashes) if before else 0)
        while self.remembered > REMEMBERED_BLOCKS:
            self.remembered -= len(self.prompts.popitem(last=False)[1].hashes)


class Truth:
    """Listens to engines' KV events on behalf of the index."""

    def __init__(self, index: PrefixIndex) -> None:
        self._index = index
        self._engines: dict[Backend, _Told] = {}

    def sent(self, session: str, engine: Backend, blocks: Blocks) -> None:
        """A prompt is being sent to an engine under the name of `session`."""
        if engine.holdings is not None and blocks.hashes:
            self._engines.setdefault(engine, _Told()).sent(session, blocks)

    def stored(self, engine: Backend, event: Stored, depth: int | None) -> None:
        """Blocks are there; `depth` others of the same prompt come before them, if that is known."""
        told = self._engines.get(engine)
        blocks = told.prompts.get(event.session) if told and event.session else None
        if told is None or blocks is None:
            return
        if depth is None or event.parent in told.guessed:
            depth = self._guess(told, blocks, event)
            if engine.holdings is not None:
                engine.holdings.place(event, depth)
        told.inside.update(overlaps(blocks, event, depth))
        while len(told.inside) > MOST_TIES:
            del told.inside[next(iter(told.inside))]

    def removed(self, engine: Backend, hashes: Sequence[BlockHash]) -> None:
        """Blocks were given to somebody else."""
        told = self._engines.get(engine)
        if told is None:
            return
        for one in hashes:
            told.guessed.pop(one, None)
        if gone := [block for one in hashes for block in told.inside.pop(one, ())]:
            self._index.forget(engine, gone)

    def cleared(self, engine: Backend) -> None:
        """Nothing is there any more."""
        self.lost(engine)
        self._index.drop(engine)

    def lost(self, engine: Backend) -> None:
        """What is there is not known any more: the index goes on by itself."""
        if told := self._engines.get(engine):
            told.inside.clear()
            told.guessed.clear()

    def forget(self, engine: Backend) -> None:
        """An engine has started anew, or is gone."""
        self._engines.pop(engine, None)
        if engine.holdings is not None:
            engine.holdings.begin()

    def estimated_tokens(self, engine: Backend) -> float:
        """What the index thinks that an engine holds."""
        told = self._engines.get(engine)
        return self._index.tokens_of(engine, told.tokens_each if told else BLOCK_TOKENS)

    def _guess(self, told: _Told, blocks: Blocks, event: Stored) -> int:
        """How many blocks come before those that hang on one that nobody heard of, such as a system prompt's last.

        What is stored is the prompt's end, unless the prompt is computed in several steps: the smallest guess holds.
        """
        whole = int(len(blocks.hashes) * blocks.tokens_each / event.block_tokens)
        depth = max(1, whole - len(event.hashes) - event.more)
        if len(told.guessed) >= MOST_GUESSES:
            told.guessed.clear()
        depth = told.guessed[event.parent] = min(depth, told.guessed.get(event.parent, depth))
        return depth


def overlaps(blocks: Blocks, event: Stored, depth: int) -> Iterator[tuple[BlockHash, Sequence[int]]]:
    """Which blocks of a prompt end in each of an engine's; what goes beyond the last, there too, unless more come."""
    ends: dict[int, list[int]] = {}
    size, last = event.block_tokens / blocks.tokens_each, len(event.hashes) - 1
    beyond = int((depth + last + 1) * size) + (not event.more)
    for number in range(int(depth * size), min(len(blocks.hashes), beyond)):
        place = max(0, min(last, ceil((number + 1) / size) - 1 - depth))
        ends.setdefault(place, []).append(blocks.hashes[number])
    return ((event.hashes[place], tuple(inside)) for place, inside in ends.items())
