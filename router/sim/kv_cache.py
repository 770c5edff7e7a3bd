"""How does a sequence get, fill and give back its KV blocks?"""

from router.sim import blocks, tokens
from router.sim.blocks import BlockContent, BlockPool
from router.sim.config import SimConfig
from router.sim.journal import Journal
from router.sim.sequence import Sequence


class KvCache:
    """The block pool of one engine, seen from its sequences."""

    def __init__(self, config: SimConfig) -> None:
        self.journal = Journal(config.block_size_tokens) if config.kv_events else None
        self.pool = BlockPool(config.kv_blocks, self.journal.removed if self.journal else None)
        self._block_size_tokens = config.block_size_tokens
        self._block_size_bytes = config.block_size_tokens * tokens.TOKEN_BYTES
        self._model = config.model
        self._root = blocks.root(config.model)

    def begin(self, sequence: Sequence) -> None:
        """Give a sequence blocks for all of its tokens, cached ones first; raises `OutOfBlocksError`.

        The last token is never taken from the cache: it must run through the model to give the next one.
        """
        size = self._block_size_tokens
        if not sequence.keys:
            sequence.keys = blocks.cache_keys(self._cache_root(sequence), bytes(sequence.tokens), size)
        cached = self.pool.longest_prefix(sequence.keys[: (sequence.length_tokens - 1) // size])
        sequence.blocks = self.pool.acquire(cached, -(-sequence.length_tokens // size) - len(cached))
        sequence.cached_tokens = sequence.computed_tokens = len(cached) * size

    def compute(self, sequence: Sequence) -> None:
        """Fill the blocks that were not cached from what precedes them."""
        first = sequence.cached_tokens // self._block_size_tokens
        parent = self._root
        if first:
            (before,) = self.pool.read(sequence.blocks[first - 1 : first])
            parent = before.digest()
        for index in range(first, len(sequence.blocks)):
            start = index * self._block_size_bytes
            content = BlockContent(parent, bytes(sequence.tokens[start : start + self._block_size_bytes]))
            self.pool.write(sequence.blocks[index], content)
            parent = content.digest()
        self._remember(sequence)

    def uncached_blocks(self, sequence: Sequence) -> list[int]:
        """The blocks still to be filled."""
        return sequence.blocks[sequence.cached_tokens // self._block_size_tokens :]

    def load(self, sequence: Sequence, contents: list[BlockContent]) -> None:
        """Fill the blocks that were not cached with what another engine sent, right or wrong."""
        for block, content in zip(self.uncached_blocks(sequence), contents, strict=True):
            self.pool.write(block, content)
        self._remember(sequence)

    def seen(self, sequence: Sequence) -> bytes:
        """What the model sees of the prompt in the blocks that the sequence holds."""
        held = self.pool.read(sequence.blocks[: -(-sequence.prompt_tokens // self._block_size_tokens)])
        return blocks.attend(self._root, held, sequence.prompt_tokens)

    def expected(self, sequence: Sequence) -> bytes:
        """What it would see if every block held what it should."""
        return blocks.understood(self._root, sequence.prompt)

    def extend(self, sequence: Sequence) -> None:
        """Add the KV of the last generated token; raises `OutOfBlocksError` when that needs a block."""
        token = sequence.last_token
        if len(sequence.tokens) % self._block_size_bytes:
            self.pool.append(sequence.blocks[-1], token)
        else:
            added = self.pool.acquire((), 1)
            (before,) = self.pool.read(sequence.blocks[-1:])
            self.pool.write(added[0], BlockContent(before.digest(), token))
            sequence.blocks += added
        sequence.tokens += token
        sequence.computed_tokens += 1
        sequence.last_token = b""
        if not len(sequence.tokens) % self._block_size_bytes:
            parent = sequence.keys[-1] if sequence.keys else self._cache_root(sequence)
            sequence.keys.append(blocks.chain(parent, bytes(sequence.tokens[-self._block_size_bytes :])))
            self._remember(sequence, len(sequence.keys) - 1)

    def release(self, sequence: Sequence) -> None:
        """Give all blocks of a sequence back."""
        self.pool.release(sequence.blocks)
        sequence.blocks = []
        sequence.cached_tokens = sequence.computed_tokens = 0

    def _cache_root(self, sequence: Sequence) -> bytes:
        return blocks.root(self._model, sequence.cache_salt)

    def reset(self) -> bool:
        """Let the prefix cache forget all; false, and nothing is done, while any block is in use."""
        done = self.pool.clear()
        if done and self.journal:
            self.journal.cleared()
        return done

    def _remember(self, sequence: Sequence, first: int = 0) -> None:
        """Let the full blocks of a sequence be found, from the `first` of them on."""
        pairs = zip(sequence.blocks[first:], sequence.keys[first:], strict=False)
        new = [self.pool.remember(block, key) for block, key in pairs]
        if self.journal and True in new:
            begin, end = first + new.index(True), first + len(new)
            self.journal.stored(
                sequence.keys[begin:end],
                sequence.keys[begin - 1] if begin else None,
                bytes(sequence.tokens[begin * self._block_size_bytes : end * self._block_size_bytes]),
                sequence.session,
            )
