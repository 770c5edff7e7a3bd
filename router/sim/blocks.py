"""Which KV blocks does an engine hold, and what is in them?

A block is filled with the keys and values of its tokens, which depend on every token before them: here, with the
digest of the block before it and the tokens themselves. What is in a block stays there after it was freed, until it is
given to somebody else. That makes a late pull read the right KV, or another request's, exactly as on a GPU.

The prefix cache is vLLM's: full blocks are found by a chain of hashes over the tokens that they *should* hold, blocks
in nobody's use are reused least recently used first, and the last blocks of a freed sequence before its first ones.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b

from router.sim.tokens import TOKEN_BYTES

DIGEST_BYTES = 16


class OutOfBlocksError(Exception):
    """More blocks were asked for than are free."""


@dataclass(frozen=True, slots=True)
class BlockContent:
    """The KV in one block: of `tokens`, computed on top of what had the digest `parent`."""

    parent: bytes
    tokens: bytes

    def digest(self) -> bytes:
        """Digest of this block and of all that precedes it."""
        return chain(self.parent, self.tokens)


EMPTY = BlockContent(bytes(DIGEST_BYTES), b"")


def root(*parts: str) -> bytes:
    """Where a chain of digests begins: one per model (and salt)."""
    return blake2b("\0".join(parts).encode(), digest_size=DIGEST_BYTES).digest()


def chain(parent: bytes, tokens: bytes) -> bytes:
    """The digest of `tokens` after `parent`."""
    return blake2b(parent + tokens, digest_size=DIGEST_BYTES).digest()


def cache_keys(start: bytes, tokens: bytes, block_size_tokens: int) -> list[bytes]:
    """The prefix cache keys of all full blocks of `tokens`."""
    size = block_size_tokens * TOKEN_BYTES
    keys: list[bytes] = []
    for end in range(size, len(tokens) + 1, size):
        start = chain(start, tokens[end - size : end])
        keys.append(start)
    return keys


def attend(start: bytes, contents: Sequence[BlockContent], length_tokens: int) -> bytes:
    """What a model sees in `contents`, as one digest: the same for any block size when the chain is unbroken.

    A block that was computed after other blocks than those before it changes the result although its tokens match.
    """
    parent, broken = start, b""
    for content in contents:
        if content.parent != parent:
            broken += content.parent
        parent = content.digest()
    tokens = b"".join(content.tokens for content in contents)[: length_tokens * TOKEN_BYTES]
    return understood(start, tokens, broken)


def understood(start: bytes, tokens: bytes, broken: bytes = b"") -> bytes:
    """What a model sees in the KV of `tokens`, as one digest; `broken` are the links of the chain that do not fit."""
    return blake2b(tokens + broken, key=start, digest_size=DIGEST_BYTES).digest()


class BlockPool:
    """All KV blocks of one engine, numbered from 1 (0 is vLLM's null block).

    `evicted` is told the key of every block that the prefix cache loses.
    """

    def __init__(self, blocks: int, evicted: Callable[[bytes], None] | None = None) -> None:
        self.blocks = blocks
        self._evicted = evicted
        self._contents = [EMPTY] * (blocks + 1)
        self._users = [0] * (blocks + 1)
        self._keys: list[bytes | None] = [None] * (blocks + 1)
        self._cached: dict[bytes, int] = {}
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(1, blocks + 1))

    def __repr__(self) -> str:
        return f"<BlockPool {self.in_use}/{self.blocks} in use, {self.cached} cached>"

    @property
    def free(self) -> int:
        """Blocks in nobody's use, cached ones included."""
        return len(self._free)

    @property
    def in_use(self) -> int:
        """Blocks that a sequence or a handoff holds."""
        return self.blocks - len(self._free)

    @property
    def cached(self) -> int:
        """Full blocks that the prefix cache knows, used or not."""
        return len(self._cached)

    def __contains__(self, block: int) -> bool:
        return 1 <= block <= self.blocks

    def longest_prefix(self, keys: Iterable[bytes]) -> list[int]:
        """The blocks of the longest cached run of `keys`."""
        found = []
        for key in keys:
            block = self._cached.get(key)
            if block is None:
                break
            found.append(block)
        return found

    def acquire(self, cached: Sequence[int], fresh: int) -> list[int]:
        """Take `cached` blocks and `fresh` ones beside, all or none, in that order."""
        idle = sum(1 for block in cached if not self._users[block])
        if fresh > self.free - idle:
            raise OutOfBlocksError(f"{fresh} blocks wanted, {self.free - idle} free")
        for block in cached:
            self._users[block] += 1
            self._free.pop(block, None)
        return [*cached, *(self._reuse() for _ in range(fresh))]

    def release(self, blocks: Sequence[int]) -> None:
        """Give blocks back; their contents and cache keys stay until they are reused."""
        for block in reversed(blocks):
            self._users[block] -= 1
            if self._users[block] < 0:
                raise RuntimeError(f"block {block} was released twice")
            if not self._users[block]:
                self._free[block] = None

    def read(self, blocks: Iterable[int]) -> list[BlockContent]:
        """What is in `blocks` now."""
        return [self._contents[block] for block in blocks]

    def write(self, block: int, content: BlockContent) -> None:
        """Overwrite a block."""
        self._contents[block] = content

    def append(self, block: int, token: bytes) -> None:
        """Add the KV of one generated token to a partly filled block."""
        content = self._contents[block]
        self._contents[block] = BlockContent(content.parent, content.tokens + token)

    def remember(self, block: int, key: bytes) -> bool:
        """Let the prefix cache find a full block under `key`; false if it has one of that key already."""
        if self._keys[block] is not None or key in self._cached:
            return False
        self._cached[key] = block
        self._keys[block] = key
        return True

    def clear(self) -> bool:
        """Let the prefix cache forget all; false, and nothing is done, while any block is in use."""
        if self.in_use:
            return False
        self._cached.clear()
        self._keys = [None] * (self.blocks + 1)
        return True

    def _reuse(self) -> int:
        block, _ = self._free.popitem(last=False)
        key = self._keys[block]
        if key is not None:
            del self._cached[key]
            self._keys[block] = None
            if self._evicted is not None:
                self._evicted(key)
        self._users[block] = 1
        return block
