from collections.abc import Sequence
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.call import Blocks
from router.fleet.backend import Backend
from router.fleet.kv_events.events import Cleared, Event, Removed, Stored, slices
from router.routing.prefix import truth as room
from router.routing.prefix.index import PrefixIndex
from router.routing.prefix.truth import Truth, overlaps
from tests.support.builders import a_backend

EVENTS = {"endpoint": "tcp://127.0.0.1:1"}


def prompt(text: str, tokens_each: float = 10) -> Blocks:
    """A block for each letter, which hashes all letters up to it."""
    return Blocks([hash(head) & 0xFFFFFFFFFFFF for head in accumulate(text)], tokens_each)


class Play:
    """An engine whose blocks have 20 tokens, an index and what puts the truth into it."""

    def __init__(self) -> None:
        self.engine = a_backend(kv_events=EVENTS)
        self.index = PrefixIndex(10_000, 1000)
        self.truth = Truth(self.index)
        assert self.engine.holdings is not None
        self.engine.holdings.took(0, 0.0)

    def send(self, session: str, blocks: Blocks) -> None:
        self.truth.sent(session, self.engine, blocks)
        self.index.expect(self.engine, blocks).confirm()

    def happens(self, event: Event) -> None:
        assert self.engine.holdings is not None
        depth = self.engine.holdings.apply(event)
        match event:
            case Stored():
                self.truth.stored(self.engine, event, depth)
            case Removed():
                self.truth.removed(self.engine, event.hashes)
            case _:
                self.truth.cleared(self.engine)

    def held(self, blocks: Blocks) -> float:
        return self.index.held(blocks).get(self.engine, 0)


@pytest.fixture
def play() -> Play:
    return Play()


def test_what_was_evicted_is_forgotten_block_by_block(play: Play) -> None:
    blocks = prompt("abcdefgh")
    play.send("r-1", blocks)
    play.happens(Stored([1, 2, 3, 4], None, 20, "r-1"))
    for last, left in ((4, 60), (3, 40), (2, 20), (1, 0)):
        play.happens(Removed([last]))
        assert play.held(blocks) == left


def test_a_turn_is_forgotten_and_what_it_went_on_from_is_kept(play: Play) -> None:
    first, second = prompt("abcd"), prompt("abcdefgh")
    play.send("r-1", first)
    play.happens(Stored([1, 2], None, 20, "r-1"))
    play.send("r-2", second)
    play.happens(Stored([3, 4], 2, 20, "r-2"))
    play.happens(Removed([3, 4]))
    assert play.held(second) == play.held(first) == 40


def test_others_blocks_change_nothing(play: Play) -> None:
    blocks = prompt("abcd")
    play.send("r-1", blocks)
    play.happens(Stored([1, 2], None, 20, "r-1"))
    play.happens(Stored([7, 8], None, 20, "somebody's"))
    play.happens(Stored([9], None, 20))
    play.happens(Removed([7, 8, 9]))
    assert play.held(blocks) == 40


def test_nothing_is_left_of_a_cleared_engine(play: Play) -> None:
    play.send("r-1", prompt("abcd"))
    play.happens(Stored([1, 2], None, 20, "r-1"))
    play.happens(Cleared())
    assert play.held(prompt("abcd")) == 0
    play.send("r-2", prompt("abcd"))
    play.happens(Removed([1]))  # an old one
    assert play.held(prompt("abcd")) == 40


def test_what_hangs_on_blocks_from_before_is_taken_for_the_end_of_its_prompt(play: Play) -> None:
    first, second = prompt("systemabcd"), prompt("systemwxyz")
    play.send("r-1", first)
    play.happens(Stored([4, 5], 3, 20, "r-1"))
    play.send("r-2", second)
    play.happens(Stored([6, 7], 3, 20, "r-2"))
    play.happens(Removed([5]))
    assert (play.held(first), play.held(second)) == (80, 100)
    play.happens(Removed([4, 6, 7]))
    assert (play.held(first), play.held(second)) == (60, 60)


def test_the_first_step_of_a_long_prompt_is_not_its_end(play: Play) -> None:
    long, short = prompt("system" + "abcdefghij" * 4), prompt("systemwxyz")
    play.send("r-1", long)
    play.happens(Stored([4, 5], 3, 20, "r-1"))
    play.send("r-2", short)
    play.happens(Stored([6, 7], 3, 20, "r-2"))
    play.happens(Removed([7, 6]))
    assert play.held(short) == 60
    assert play.engine.holdings is not None
    assert play.engine.holdings.apply(Stored([8], 3, 20)) == 3
    play.happens(Removed([3]))
    assert play.truth._engines[play.engine].guessed == {}


def test_where_events_are_missing_the_index_goes_on_by_itself(play: Play) -> None:
    play.send("r-1", prompt("abcd"))
    play.happens(Stored([1, 2], None, 20, "r-1"))
    play.truth.lost(play.engine)
    play.happens(Removed([1, 2]))
    assert play.held(prompt("abcd")) == 40


def test_of_an_engine_that_names_no_sessions_only_clears_are_known(play: Play) -> None:
    play.send("r-1", prompt("abcd"))
    play.happens(Stored([1, 2], None, 20))
    play.happens(Removed([1, 2]))
    assert play.held(prompt("abcd")) == 40
    play.happens(Cleared())
    assert play.held(prompt("abcd")) == 0


def test_an_engine_that_began_anew_is_another_one(play: Play) -> None:
    play.send("r-1", prompt("abcd"))
    play.happens(Stored([1, 2], None, 20, "r-1"))
    play.truth.forget(play.engine)
    assert play.engine.holdings is not None
    assert (play.engine.holdings.tokens, play.engine.holdings.next) == (0, 0)
    assert play.truth._engines == {}
    play.truth.forget(a_backend(port=2))


def test_engines_without_events_are_not_remembered() -> None:
    truth = Truth(PrefixIndex(1000, 1000))
    truth.sent("r-1", a_backend(), prompt("abcd"))
    assert truth._engines == {}


def test_a_prompt_without_blocks_is_not_remembered(play: Play) -> None:
    play.truth.sent("r-1", play.engine, prompt(""))
    assert play.truth._engines == {}


def test_what_is_remembered_is_bounded(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "REMEMBERED_BLOCKS", 10)
    for number in range(5):
        play.send(f"r-{number}", prompt("abcd"))
        play.send(f"r-{number}", prompt("abcd"))  # tried again
    told = play.truth._engines[play.engine]
    assert (list(told.prompts), told.remembered) == (["r-3", "r-4"], 8)


def test_engines_that_never_evict_take_no_more_memory(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "MOST_TIES", 3)
    monkeypatch.setattr(room, "MOST_GUESSES", 2)
    play.send("r-1", prompt("abcdefghij"))
    play.happens(Stored([1, 2, 3, 4, 5], None, 20, "r-1"))
    for parent in range(100, 105):
        play.happens(Stored([parent + 1000], parent, 20, "r-1"))
    told = play.truth._engines[play.engine]
    assert (len(told.inside), list(told.guessed)) == (3, [104])


def test_slices_of_an_event_behind_what_nobody_heard_of_lie_where_all_of_it_does() -> None:
    whole, sliced = Play(), Play()
    event = Stored(list(range(5, 11)), 4, 10, "r-1")
    for one, parts in ((whole, [event]), (sliced, slices(event, 2))):
        one.send("r-1", prompt("abcdefghij"))
        for part in parts:
            one.happens(part)
    told = [one.truth._engines[one.engine].inside for one in (whole, sliced)]
    assert told[0] == told[1]
    assert [*told[0]] == event.hashes


def test_the_estimate_in_tokens(play: Play) -> None:
    assert play.truth.estimated_tokens(play.engine) == 0
    play.send("r-1", prompt("abcd", tokens_each=30))
    assert play.truth.estimated_tokens(play.engine) == 120


def placed(blocks: Blocks, event: Stored, depth: int) -> list[Sequence[int]]:
    """The numbers of the blocks that lie in each of an engine's."""
    where = dict(overlaps(blocks, event, depth))
    return [[blocks.hashes.index(one) for one in where.get(block, ())] for block in event.hashes]


def test_where_blocks_lie() -> None:
    ten = Blocks(list(range(100, 110)), 10)
    assert placed(ten, Stored([1, 2, 3], None, 25), 0) == [[0, 1], [2, 3, 4], [5, 6, 7]]
    assert placed(ten, Stored([4], 3, 25), 3) == [[7, 8, 9]]
    assert placed(ten, Stored([4], 3, 25), 30) == [[]]
    assert placed(Blocks(list(range(3)), 64), Stored([1, 2, 3, 4, 5, 6], None, 16), 0) == [[], [], [], [0], [], [1]]


@given(
    blocks=st.integers(0, 60),
    tokens_each=st.floats(1, 300),
    size=st.sampled_from([1, 16, 128]),
    parts=st.lists(st.integers(1, 30), min_size=1, max_size=5),
)
def test_every_block_that_is_stored_lies_somewhere_and_none_before_its_end(
    blocks: int, tokens_each: float, size: int, parts: list[int]
) -> None:
    made = Blocks(list(range(blocks)), tokens_each)
    depth, where = 0, dict[int, int]()
    for part in parts:
        event = Stored(list(range(depth, depth + part)), None, size)
        for block, inside in overlaps(made, event, depth):
            assert isinstance(block, int)
            where |= dict.fromkeys(inside, block)
        depth += part
    for number in range(blocks):
        end = (number + 1) * tokens_each
        if end <= depth * size:
            assert where[number] * size < end
            assert end <= (where[number] + 1) * size + 1e-6
    assert sorted(where) == list(range(len(where)))


def test_backends_are_told_apart() -> None:
    index = PrefixIndex(1000, 1000)
    truth = Truth(index)
    one, other = (a_backend(port=port, kv_events=EVENTS) for port in (1, 2))
    for engine in (one, other):
        truth.sent("r-1", engine, prompt("abcd"))
        index.expect(engine, prompt("abcd"))
        truth.stored(engine, Stored([1, 2], None, 20, "r-1"), 0)
    truth.removed(one, [1, 2])
    assert index.held(prompt("abcd")) == {other: 40}


def test_who_was_sent_nothing_can_evict(play: Play) -> None:
    stranger: Backend = a_backend(port=9, kv_events=EVENTS)
    play.truth.stored(stranger, Stored([1], None, 20, "r-1"), 0)
    play.truth.removed(stranger, [1])
    play.truth.cleared(stranger)
    assert play.truth._engines == {}
