"""Which engine has how much of a prompt in its KV cache, as far as can be told from what was sent there?

Engines reuse KV by the longest prefix and forget what was used least recently, the end of a prompt before its start.
The index does the same with hashes of blocks: per engine the blocks in order of use, bounded by what its cache holds,
and over all engines who holds a block, as a bit set. As an engine that holds a block holds all before it, those sets
only shrink along a chain, and where they do is found by bisection: a lookup is a few dozen dictionary reads however
long the prompt and however many the engines.

It is an estimate. A prompt is written down when it is sent, so that a burst of one prefix goes to one place; what comes
of it confirms that or takes it back. An engine that starts anew has nothing.

SGLang's RadixAttention is the model of longest-prefix reuse with an LRU over leaves; there a radix tree, here a chain
of hashes, as nothing but the depth is asked for.
"""

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence

from router.call import Blocks
from router.fleet.backend import Backend
from router.routing.prefix.given import Given

MAX_NAMED_SETS = 256


class Expectation:
    """Blocks that an engine will have, if what was sent to it comes to a good end. Settled once; later calls are void.

    What it never heard the end of stays, as if confirmed: the engine has evicted it by the time that it matters.
    """

    __slots__ = ("_blocks", "_index", "_shared", "_shelf")

    def __init__(self, index: "PrefixIndex", shelf: "_Shelf", blocks: Blocks) -> None:
        self._index = index
        self._shelf: _Shelf | None = shelf
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

    def _over(self) -> "_Shelf | None":
        """The shelf, the first time, if it is still one."""
        shelf, self._shelf = self._shelf, None
        if shelf is None or not shelf.live:
            return None
        if self._shared is not None:
            shelf.shares_no_more(self._shared)
        return shelf


class _Shelf:
    """What one engine holds: its bit in the sets of holders, its blocks from the least to the most recently used.

    A block has the expectation that brought it, until it is confirmed. `after_tokens` are those of answers. `sharing`
    has how many prompts are under way that go on from a block that was there.
    """

    __slots__ = ("after_tokens", "bit", "cache_tokens", "engine", "live", "order", "sharing")

    def __init__(self, engine: Backend, bit: int) -> None:
        self.engine = engine
        self.bit = bit
        self.cache_tokens = 0
        self.live = True
        self.order: OrderedDict[int, Expectation | None] = OrderedDict()
        self.after_tokens = 0.0
        self.sharing: dict[int, int] = {}

    def shares_no_more(self, block: int) -> None:
        """One of the prompts that go on from a block is not under way any more."""
        left = self.sharing[block] - 1
        if left:
            self.sharing[block] = left
        else:
            del self.sharing[block]


class PrefixIndex:
    """Prefixes by engine. `default_tokens` is the size of a cache that is not known, `max_blocks` bounds all memory.

    A block that one engine holds takes about 230 bytes, one more holder of it about 120. `_after` has the tokens that
    follow a block and are of no block themselves, for the last ones of prompts that were answered.
    """

    def __init__(self, default_tokens: int, max_blocks: int) -> None:
        self._default_tokens = default_tokens
        self._max_blocks = max_blocks
        self._holders: dict[int, int] = {}
        self._shelves: dict[Backend, _Shelf] = {}
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
        depth = bisect_left(blocks.hashes, True, key=lambda block: block not in shelf.order)
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
            for block in shelf.order:
                self._unhold(block, shelf)
            self.version += 1

    def blocks_of(self, engine: Backend) -> int:
        """How many blocks an engine is thought to hold."""
        shelf = self._shelves.get(engine)
        return len(shelf.order) if shelf else 0

    def __repr__(self) -> str:
        return f"<PrefixIndex {len(self._holders)} blocks on {len(self._shelves)} engines>"

    # What expectations do

    def put(self, shelf: _Shelf, blocks: Blocks, owner: Expectation | None, tokens_after: float = 0) -> int:
        """Write down that an engine uses blocks now: the first of a prompt last, as the last are forgotten first.

        Returns how many of them are new to it.
        """
        order, holders, bit = shelf.order, self._holders, shelf.bit
        before = len(order)
        for block in reversed(blocks.hashes):
            if block not in order:
                order[block] = owner
                holders[block] = holders.get(block, 0) | bit
            else:
                order.move_to_end(block)
                if owner is None:
                    order[block] = None
        new = len(order) - before
        if tokens_after and blocks.hashes:
            after = self._after.setdefault(blocks.hashes[-1], {})
            shelf.after_tokens += tokens_after - after.get(shelf.engine, 0)
            after[shelf.engine] = tokens_after
        self._bound(shelf, blocks.tokens_each)
        self.version += 1
        return new

    def take_back(self, shelf: _Shelf, hashes: Sequence[int], owner: Expectation) -> None:
        """Forget those blocks that `owner` alone has spoken of."""
        for block in hashes:
            if shelf.order.get(block) is owner:
                self._forget(shelf, block)
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

    def _shelf(self, engine: Backend) -> _Shelf:
        shelf = self._shelves.get(engine)
        if shelf is None:
            bit = 1
            while bit in self._engines:
                bit <<= 1
            shelf = self._shelves[engine] = _Shelf(engine, bit)
            self._engines[bit] = engine
        return shelf

    def _bound(self, shelf: _Shelf, tokens_each: float) -> None:
        """Forget what the engine must have forgotten, or what is over this one's share of all memory."""
        most, order = self._max_blocks // len(self._shelves), shelf.order
        while len(order) > most or (order and len(order) * tokens_each + shelf.after_tokens > shelf.cache_tokens):
            self._forget(shelf, next(iter(order)))

    def _forget(self, shelf: _Shelf, block: int) -> None:
        del shelf.order[block]
        self._unhold(block, shelf)

    def _unhold(self, block: int, shelf: _Shelf) -> None:
        left = self._holders[block] & ~shelf.bit
        if left:
            self._holders[block] = left
        else:
            del self._holders[block]
        after = self._after.get(block)
        if after is not None:
            shelf.after_tokens -= after.pop(shelf.engine, 0)
            if not after:
                del self._after[block]


def _bits_of(bits: int) -> Iterator[int]:
    while bits:
        bit = bits & -bits
        yield bit
        bits ^= bit
