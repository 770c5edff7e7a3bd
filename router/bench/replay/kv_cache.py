"""What does an engine keep of the prompts it had? The truth of a simulated engine, to hold estimates against.

As in vLLM: blocks in use stay; those that nobody uses are reused least recently used first, the end of a prompt before
its beginning. A prompt finds the longest run of its first blocks.
"""

from collections import Counter, OrderedDict

from router.bench.replay.trace import Request


class KvCache:
    """Blocks of different sizes in `capacity_tokens`; what is in use may exceed that."""

    def __init__(self, capacity_tokens: int) -> None:
        self.capacity_tokens = capacity_tokens
        self.used_tokens = 0
        self._idle: OrderedDict[int, int] = OrderedDict()
        self._users: Counter[int] = Counter()
        self._idle_tokens = 0

    @property
    def in_use_tokens(self) -> int:
        """Tokens that must stay."""
        return self.used_tokens - self._idle_tokens

    def cached_tokens(self, request: Request) -> int:
        """How much of a prompt is there; its last token must be computed in any case, to give the next one."""
        tokens = 0
        for block, size in request.sizes:
            if block not in self._idle and block not in self._users:
                break
            tokens += size
        return min(tokens, request.input_tokens - 1)

    def acquire(self, request: Request) -> int:
        """Keep all blocks of a prompt until they are released; returns the tokens that were there already."""
        cached = self.cached_tokens(request)
        for block, size in request.sizes:
            if block in self._idle:
                self._idle_tokens -= self._idle.pop(block)
            elif not self._users[block]:
                self.used_tokens += size
            self._users[block] += 1
        while self.used_tokens > self.capacity_tokens and self._idle:
            _, size = self._idle.popitem(last=False)
            self._idle_tokens -= size
            self.used_tokens -= size
        return cached

    def release(self, request: Request) -> None:
        """The prompt is not used any more."""
        for block, size in reversed([*request.sizes]):
            self._users[block] -= 1
            if not self._users[block]:
                del self._users[block]
                self._idle[block] = size
                self._idle_tokens += size
        while self.used_tokens > self.capacity_tokens and self._idle:
            _, size = self._idle.popitem(last=False)
            self._idle_tokens -= size
            self.used_tokens -= size
