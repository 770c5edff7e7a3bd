"""Which engine has how much of a prompt in its KV cache, as far as can be told from what was sent there?

Engines reuse KV by the longest prefix and forget what was used least recently, the end of a prompt before its start.
The index does the same with hashes of blocks: per engine the blocks in order of use (`shelf.py`), bounded by what its
cache holds, and over all engines who holds a block, as a bit set. As an engine that holds a block holds all before it,
those sets only shrink along a chain, and where they do is found by bisection: a lookup is a few dozen dictionary reads
however long the prompt and however many the engines.

It is an estimate. A prompt is written down when it is sent, so that a burst of one prefix goes to one place; what comes
of it confirms that or takes it back. An engine that starts anew has nothing.

SGLang's RadixAttention is the model of longest-prefix reuse with an LRU over leaves; there a radix tree, here a chain
of hashes, as nothing but the depth is asked for.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

from router.call import Blocks
from router.fleet.backend import Backend
from router.routing.prefix.given import Given
from router.routing.prefix.shelf import Shelf

MAX_NAMED_SETS = 256


class Expectation:
    """Blocks that an engine will have, if what was sent to it comes to a good end. Settled once; later calls are void.

    What it never heard the end of stays, as if confirmed: the engine has evicted it by the time that it matters.
    """

    __slots__ = ("_blocks", "_index", "_shared", "_shelf")

    def __init__(self, index: "PrefixIndex", shelf: Shelf, blocks: Blocks) -> None:
        self._index = index
        self._shelf: Shelf | None = shelf
        self._blocks = blocks
        self._shared: int | None = None

    def shares(self, block: int) -> None:
        """`block` is the last that the engine has already."""
        assert self._shelf is not None
        self._shared = block
        self._shelf.sharing[block] = self._shelf.sharing.get(block, 0) + 1

    def confirm(self, tokens_after: float = 0) -> None:
        """The engine has the blocks, and `tokens_after` the last of them: the rest of the prompt and the answer."""
        shelf = self._over()
        if shelf is not None:
            self._index.put(shelf, self._blocks, None, tokens_after)

    def withdraw(self) -> None:
        """The engine does not have them, but for those that were there before or that another request confirmed."""
        shelf = self._over()
        if shelf is not None:
            self._index.take_back(shelf, self._blocks.hashes, self)

    def _over(self) -> Shelf | None:
        """The shelf, the first time, if it is still one."""
        shelf, self._shelf = self._shelf, None
        if shelf is None or not shelf.live:
            return None
        if self._shared is not None:
            shelf.shares_no_more(self._shared)
        return shelf


class PrefixIndex:
    """Prefixes by engine. `default_tokens` is the size of a cache that is not known, `max_blocks` bounds all memory.

    A block that one engine holds takes about 150 bytes, one more holder of it about 70. `_after` has the tokens that
    follow a block and are of no block themselves, for the last ones of prompts that were answered.
    """

    def __init__(self, default_tokens: int, max_blocks: int) -> None:
        self._default_tokens = default_tokens
        self._max_blocks = max_blocks
        self._holders: dict[int, int] = {}
        self._shelves: dict[Backend, Shelf] = {}
        self._engines: dict[int, Backend] = {}
        self._names: dict[int, Mapping[Backend, None]] = {}
        self._after: dict[int, dict[Backend, float]] = {}
        self.given = Given()
        self.version = 0
        """Changes whenever an answer may."""

    def held(self, blocks: Blocks) -> Mapping[Backend, float]:
        """Tokens of a prompt that engines hold, for all that hold any; may count a few more than the prompt has."""
        held: dict[Backend, float] = {}
        for depth, engines in self._depths(blocks.hashes):
            held.update(dict.fromkeys(engines, depth * blocks.tokens_each))
            for engine, tokens in self._after.get(blocks.hashes[depth - 1], {}).items():
                if engine in engines:
                    held[engine] += tokens
        return held

    def crowd(self, engine: Backend, blocks: Blocks) -> int:
        """How many prompts are under way on an engine that begin with all that it holds of this one, and go on anew."""
        shelf = self._shelves.get(engine)
        if shelf is None or not shelf.sharing:
            return 0
        depth = shelf.depth(blocks.hashes)
        return shelf.sharing.get(blocks.hashes[depth - 1], 0) if depth else 0

    def expect(self, engine: Backend, blocks: Blocks) -> Expectation:
        """A prompt is being sent to an engine."""
        shelf = self._shelf(engine)
        shelf.cache_tokens = engine.cache_tokens or self._default_tokens
        expectation = Expectation(self, shelf, blocks)
        new = self.put(shelf, blocks, expectation)
        if new < len(blocks.hashes):
            expectation.shares(blocks.hashes[len(blocks.hashes) - new - 1])
        self.given.note(engine, new * blocks.tokens_each, len(self._shelves))
        return expectation

    def drop(self, engine: Backend) -> None:
        """An engine has started anew, or is gone: it holds nothing."""
        shelf = self._shelves.pop(engine, None)
        if shelf is not None:
            shelf.live = False
            del self._engines[shelf.bit]
            self._names.clear()
            for end in shelf.ends():
                self._forget_answer(shelf, end)
            self._unhold(shelf, shelf.blocks())
            self.version += 1

    def blocks_of(self, engine: Backend) -> int:
        """How many blocks an engine is thought to hold."""
        shelf = self._shelves.get(engine)
        return len(shelf) if shelf else 0

    # What engines say themselves

    def forget(self, engine: Backend, hashes: Iterable[int]) -> None:
        """An engine has evicted these blocks; what follows them is of no use without them."""
        shelf = self._shelves.get(engine)
        if shelf is not None:
            gone = shelf.evict(hashes)
            for block in gone:
                self._forget_answer(shelf, block)
            self._unhold(shelf, gone)
            self.version += 1

    def tokens_of(self, engine: Backend, tokens_each: float) -> float:
        """How many tokens an engine is thought to hold, in blocks of `tokens_each` and after them."""
        shelf = self._shelves.get(engine)
        return len(shelf) * tokens_each + shelf.after_tokens if shelf else 0.0

    def __repr__(self) -> str:
        return f"<PrefixIndex {len(self._holders)} blocks on {len(self._shelves)} engines>"

    # What expectations do

    def put(self, shelf: Shelf, blocks: Blocks, owner: Expectation | None, tokens_after: float = 0) -> int:
        """Write down that an engine uses a prompt now. Returns how many of its blocks are new to it."""
        if not blocks.hashes:
            return 0
        new = shelf.use(blocks.hashes, owner)
        if new:
            self._hold(shelf, new)
        if tokens_after:
            after = self._after.setdefault(blocks.hashes[-1], {})
            shelf.after_tokens += tokens_after - after.get(shelf.engine, 0)
            after[shelf.engine] = tokens_after
        self._bound(shelf, blocks.tokens_each)
        self.version += 1
        return len(new)

    def take_back(self, shelf: Shelf, prompt: Sequence[int], owner: Expectation) -> None:
        """Forget those blocks that `owner` alone has spoken of."""
        self._unhold(shelf, shelf.take_back(prompt, owner))
        self.version += 1

    # How it is done

    def _depths(self, hashes: Sequence[int]) -> Iterator[tuple[int, Mapping[Backend, None]]]:
        """Engines by how many of the first blocks they hold."""
        holders = self._holders.get
        here = holders(hashes[0], 0) if hashes else 0
        depth = 1
        while here:
            first, beyond = depth, len(hashes)
            while first < beyond:  # the first block that not all of `here` hold
                middle = (first + beyond) // 2
                if holders(hashes[middle], 0) & here == here:
                    first = middle + 1
                else:
                    beyond = middle
            still = holders(hashes[first], 0) & here if first < len(hashes) else 0
            yield first, self._named(here & ~still)
            here, depth = still, first + 1

    def _named(self, bits: int) -> Mapping[Backend, None]:
        """The engines of a set, in the order of their bits. Few sets are asked for again and again."""
        named = self._names.get(bits)
        if named is None:
            if len(self._names) >= MAX_NAMED_SETS:
                self._names.clear()
            named = self._names[bits] = dict.fromkeys(map(self._engines.__getitem__, _bits_of(bits)))
        return named

    def _shelf(self, engine: Backend) -> Shelf:
        shelf = self._shelves.get(engine)
        if shelf is None:
            bit = 1
            while bit in self._engines:
                bit <<= 1
            shelf = self._shelves[engine] = Shelf(engine, bit)
            self._engines[bit] = engine
        return shelf

    def _bound(self, shelf: Shelf, tokens_each: float) -> None:
        """Forget what the engine must have forgotten, or what is over this one's share of all memory."""
        while (surplus := self._surplus(shelf, tokens_each)) > 0:
            oldest = shelf.oldest()
            answered = self._forget_answer(shelf, oldest[-1])
            self._unhold(shelf, shelf.forget(1 if answered else min(surplus, len(oldest))))

    def _surplus(self, shelf: Shelf, tokens_each: float) -> int:
        """How many blocks are too many."""
        count = len(shelf)
        surplus_tokens = count * tokens_each + shelf.after_tokens - shelf.cache_tokens
        surplus = count - self._max_blocks // len(self._shelves)
        if surplus <= 0 and surplus_tokens <= 0:
            return 0
        return min(count, max(surplus, math.ceil(surplus_tokens / tokens_each)))

    def _hold(self, shelf: Shelf, blocks: Sequence[int]) -> None:
        holders, bit = self._holders, shelf.bit
        if holders.keys().isdisjoint(blocks):
            holders.update(dict.fromkeys(blocks, bit))
            return
        for block in blocks:
            holders[block] = holders.get(block, 0) | bit

    def _unhold(self, shelf: Shelf, blocks: Iterable[int]) -> None:
        holders, others = self._holders, ~shelf.bit
        for block in blocks:
            left = holders[block] & others
            if left:
                holders[block] = left
            else:
                del holders[block]

    def _forget_answer(self, shelf: Shelf, end: int) -> bool:
        """The answer that follows a prompt is forgotten before the prompt. Whether there was one."""
        after = self._after.get(end)
        if after is None or shelf.engine not in after:
            return False
        shelf.after_tokens -= after.pop(shelf.engine)
        if not after:
            del self._after[end]
        return True


def _bits_of(bits: int) -> Iterator[int]:
    while bits:
        bit = bits & -bits
        yield bit
        bits ^= bit
