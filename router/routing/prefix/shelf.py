"""What one engine holds, from the least to the most recently used.

Kept are not blocks but runs of them: blocks that follow each other in every prompt that has them, and so are used
together. A prompt that is new brings one run, however long; the next turn of a chat brings one more. Where prompts part
within a run it is split. So using a prompt again costs by its turns, not by its blocks, and the blocks themselves are
only touched when they come and go.
"""

from bisect import bisect_left
from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from router.fleet.backend import Backend


class Run:
    """Blocks in the order of the prompt, the first one right after `after`, if there is one.

    `owner` is what brought them, until it is known that they are there.
    """

    __slots__ = ("after", "blocks", "owner")

    def __init__(self, blocks: list[int], owner: object, after: int | None) -> None:
        self.blocks = blocks
        self.owner = owner
        self.after = after


class Shelf:
    """One engine's blocks, and its `bit` in sets of engines. Uses of a prompt put its end behind its beginning, as the
    end is forgotten first.

    `after_tokens` are those of answers. `sharing` has how many prompts are under way that go on from a block that was
    there.
    """

    __slots__ = ("_followed", "_run_of", "_runs", "after_tokens", "bit", "cache_tokens", "engine", "live", "sharing")

    def __init__(self, engine: Backend, bit: int) -> None:
        self.engine = engine
        self.bit = bit
        self.cache_tokens = 0
        self.live = True
        self.after_tokens = 0.0
        self.sharing: dict[int, int] = {}
        self._runs: OrderedDict[Run, None] = OrderedDict()
        self._run_of: dict[int, Run] = {}
        self._followed: dict[int, int] = {}
        """How many runs come right after a block."""

    def __len__(self) -> int:
        return len(self._run_of)

    def __contains__(self, block: int) -> bool:
        return block in self._run_of

    def depth(self, prompt: Sequence[int]) -> int:
        """How many of the first blocks of a prompt are there: with a block is always all before it."""
        here, first, beyond = self._run_of, 0, len(prompt)
        while first < beyond:
            middle = (first + beyond) // 2
            if prompt[middle] in here:
                first = middle + 1
            else:
                beyond = middle
        return first

    def use(self, prompt: Sequence[int], owner: object) -> list[int]:
        """A prompt is used: returns its blocks that were not there. An `owner` speaks for those, none for all of it."""
        path, new = self._path(prompt, owner)
        for run in reversed(path):
            self._runs.move_to_end(run)
            if owner is None:
                run.owner = None
        return new

    def take_back(self, prompt: Sequence[int], owner: object) -> list[int]:
        """Forget the blocks of a prompt that `owner` alone has spoken of: whole runs. Returns them."""
        gone = [block for block in prompt if (run := self._run_of.get(block)) is not None and run.owner is owner]
        for run in {self._run_of.pop(block) for block in gone}:
            self._remove(run)
        return gone

    def oldest(self) -> Sequence[int]:
        """The run that was not used for longest, in the order of the prompt; not to be changed."""
        return next(iter(self._runs)).blocks

    def forget(self, count: int) -> list[int]:
        """Forget the last `count` blocks of the oldest run, at least one and at most all. Returns them."""
        run = next(iter(self._runs))
        return self._cut(run, max(0, len(run.blocks) - count))

    def evict(self, blocks: Iterable[int]) -> list[int]:
        """Forget these blocks and all that follows them, in their runs and in later ones. Returns what that was."""
        gone: list[int] = []
        left, followers = [*blocks], None
        while left:
            block = left.pop()
            if (run := self._run_of.get(block)) is not None:
                if (end := run.blocks[-1]) in self._followed:
                    followers = followers or self._followers()
                    left += followers[end]
                gone += self._cut(run, _last(run.blocks, block))
        return gone

    def ends(self) -> Iterator[int]:
        """The last block of every run."""
        return (run.blocks[-1] for run in self._runs)

    def blocks(self) -> Iterator[int]:
        """All of them."""
        return iter(self._run_of)

    def shares_no_more(self, block: int) -> None:
        """One of the prompts that go on from a block is not under way any more."""
        left = self.sharing[block] - 1
        if left:
            self.sharing[block] = left
        else:
            del self.sharing[block]

    def _path(self, prompt: Sequence[int], owner: object) -> tuple[list[Run], list[int]]:
        """The runs that make up a prompt, and those blocks of them that are new."""
        path: list[Run] = []
        new: list[int] = []
        at = 0
        while at < len(prompt):
            run = self._run_of.get(prompt[at])
            if run is None:
                run = self._add(self._lacking(prompt, at), owner, prompt[at - 1] if at else None)
                new += run.blocks
            elif run.blocks[-1] != prompt[min(at + len(run.blocks), len(prompt)) - 1]:
                run = self._split(run, prompt, at)
            path.append(run)
            at += len(run.blocks)
        return path, new

    def _lacking(self, prompt: Sequence[int], at: int) -> list[int]:
        """The blocks from `at` on that are not there: the rest of the prompt, nearly always.

        Blocks in the middle are lacking where a request failed whose beginning others shared.
        """
        rest = [*prompt[at:]]
        if not self._run_of.keys().isdisjoint(rest):
            del rest[next(i for i, block in enumerate(rest) if block in self._run_of) :]
        return rest

    def _followers(self) -> Mapping[int, list[int]]:
        """What runs begin with, by what they come after. Rarely asked for: engines evict what follows first."""
        begin: defaultdict[int, list[int]] = defaultdict(list)
        for run in self._runs:
            if run.after is not None:
                begin[run.after].append(run.blocks[0])
        return begin

    def _add(self, blocks: list[int], owner: object, after: int | None) -> Run:
        run = Run(blocks, owner, after)
        self._runs[run] = None
        if after is not None:
            self._followed[after] = self._followed.get(after, 0) + 1
        self._run_of.update(dict.fromkeys(blocks, run))
        return run

    def _cut(self, run: Run, at: int) -> list[int]:
        """Forget the end of a run, from there on. Returns it."""
        gone, run_of = run.blocks[at:], self._run_of
        del run.blocks[at:]
        for block in gone:
            del run_of[block]
        if not run.blocks:
            self._remove(run)
        return gone

    def _remove(self, run: Run) -> None:
        """A run has no blocks any more."""
        del self._runs[run]
        if run.after is not None:
            left = self._followed[run.after] - 1
            if left:
                self._followed[run.after] = left
            else:
                del self._followed[run.after]

    def _split(self, run: Run, prompt: Sequence[int], at: int) -> Run:
        """The part of a run that a prompt has; the rest of it keeps its place."""
        length = min(len(run.blocks), len(prompt) - at)
        shared = bisect_left(range(length), True, key=lambda i: run.blocks[i] != prompt[at + i])
        head = self._add(run.blocks[:shared], run.owner, run.after)
        if run.after is not None:
            self._followed[run.after] -= 1
        run.after = after = run.blocks[shared - 1]
        del run.blocks[:shared]
        self._followed[after] = self._followed.get(after, 0) + 1
        return head


def _last(blocks: Sequence[int], block: int) -> int:
    """Where a block is, looked for from the end: what engines evict is there."""
    return next(at for at in range(len(blocks) - 1, -1, -1) if blocks[at] == block)
