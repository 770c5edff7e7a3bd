from itertools import accumulate
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.call import Blocks
from router.fleet.backend import Backend
from router.routing.prefix.index import Expectation, PrefixIndex
from tests.support.builders import a_backend

A, B, C = (a_backend(port=port) for port in (1, 2, 3))


def prompt(text: str, tokens_each: float = 1) -> Blocks:
    """A block for each letter, which hashes all letters up to it."""
    return Blocks([hash(head) & 0xFFFFFFFFFFFF for head in accumulate(text)], tokens_each)


def an_index(default_tokens: int = 100, max_blocks: int = 1000) -> PrefixIndex:
    return PrefixIndex(default_tokens, max_blocks)


def sized(tokens: int, port: int = 9) -> Backend:
    engine = a_backend(port=port)
    engine.cache_tokens = tokens
    return engine


def test_an_engine_holds_what_was_sent_there() -> None:
    index = an_index()
    index.expect(A, prompt("abcdef"))
    index.expect(B, prompt("abx"))
    assert index.held(prompt("abcdefgh")) == {A: 6, B: 2}
    assert index.held(prompt("abx")) == {A: 2, B: 3}
    assert index.held(prompt("bcd")) == index.held(prompt("")) == {}


def test_blocks_are_told_in_tokens() -> None:
    index = an_index()
    index.expect(A, prompt("ab"))
    assert index.held(prompt("abc", tokens_each=64)) == {A: 128}


def test_an_engine_forgets_what_it_used_least_recently_and_a_prompts_end_first() -> None:
    index, small = an_index(), sized(6)
    for text in ("abc", "xyz", "abc", "pq"):
        index.expect(small, prompt(text))
    assert index.held(prompt("abc")) == {small: 3}
    assert index.held(prompt("xyz")) == {small: 1}
    assert index.held(prompt("pq")) == {small: 2}
    assert index.blocks_of(small) == 6


def test_a_prompt_larger_than_a_cache_leaves_its_beginning() -> None:
    index, small = an_index(), sized(3)
    index.expect(small, prompt("abcdef"))
    assert index.held(prompt("abcdef")) == {small: 3}


def test_the_size_of_a_cache_is_the_engines_or_else_the_default() -> None:
    index, small = an_index(default_tokens=5), sized(2)
    for engine in (small, A):
        index.expect(engine, prompt("abcdefgh"))
    assert index.held(prompt("abcdefgh")) == {small: 2, A: 5}
    small.cache_tokens = 4
    index.expect(small, prompt("abcdefgh"))
    assert index.blocks_of(small) == 4


def test_all_memory_is_bounded() -> None:
    index = an_index(default_tokens=1000, max_blocks=12)
    for i in range(50):
        for engine in (A, B, C):
            index.expect(engine, prompt(f"{i:05}{engine.id}"))
    assert [index.blocks_of(engine) for engine in (A, B, C)] == [4, 4, 4]
    assert repr(index) == "<PrefixIndex 4 blocks on 3 engines>"


# What comes of it


def test_what_failed_is_taken_back() -> None:
    index = an_index()
    index.expect(A, prompt("ab")).confirm()
    index.expect(A, prompt("abcd")).withdraw()
    assert index.held(prompt("abcd")) == {A: 2}
    assert index.blocks_of(A) == 2


def test_but_not_what_another_request_has_proved() -> None:
    index = an_index()
    first, second = index.expect(A, prompt("abcd")), index.expect(A, prompt("abcx"))
    second.confirm()
    first.withdraw()
    assert index.held(prompt("abcd")) == {A: 3}


def test_what_was_taken_back_is_there_again_when_another_request_proves_it() -> None:
    index = an_index()
    first, second = index.expect(A, prompt("abcd")), index.expect(A, prompt("abcx"))
    first.withdraw()
    assert index.held(prompt("abcx")) == {}
    second.confirm()
    assert index.held(prompt("abcx")) == {A: 4}


def test_an_expectation_is_settled_once() -> None:
    index = an_index()
    expectation = index.expect(A, prompt("ab"))
    expectation.confirm()
    expectation.withdraw()
    assert index.held(prompt("ab")) == {A: 2}
    taken_back = index.expect(A, prompt("xy"))
    taken_back.withdraw()
    taken_back.confirm()
    assert index.held(prompt("xy")) == {}


def test_confirming_is_using() -> None:
    index, small = an_index(), sized(4)
    long = index.expect(small, prompt("ab"))
    index.expect(small, prompt("xy"))
    long.confirm()
    index.expect(small, prompt("p"))
    assert index.held(prompt("ab")) == {small: 2}
    assert index.held(prompt("xy")) == {small: 1}


def test_an_engine_that_starts_anew_has_nothing() -> None:
    index = an_index()
    index.expect(B, prompt("ab"))
    old = index.expect(A, prompt("abc"))
    index.drop(A)
    assert index.held(prompt("abc")) == {B: 2}
    old.confirm()
    assert index.held(prompt("abc")) == {B: 2}
    index.drop(A)
    index.drop(C)
    index.expect(A, prompt("a")).confirm()
    old.withdraw()
    assert index.held(prompt("abc")) == {A: 1, B: 2}


def test_places_of_engines_that_left_are_used_again() -> None:
    index = an_index()
    for port in range(100, 400):
        engine = a_backend(port=port)
        index.expect(engine, prompt("abc"))
        index.drop(engine)
    index.expect(A, prompt("abc"))
    assert max(index._engines) == 1
    assert index.held(prompt("abc")) == {A: 3}


# Answers


def test_an_engine_that_answered_holds_the_answer_too() -> None:
    index = an_index()
    index.expect(A, prompt("abc")).confirm(tokens_after=20)
    assert index.held(prompt("abcdefgh")) == {A: 23}
    assert index.held(prompt("abxyz")) == {A: 2}, "another prompt does not go on from that answer"


def test_answers_take_room_and_go_with_their_prompts() -> None:
    index, small = an_index(), sized(30)
    index.expect(small, prompt("abc")).confirm(tokens_after=20)
    index.expect(small, prompt("abc")).confirm(tokens_after=25)
    assert index.held(prompt("abcd")) == {small: 28}
    index.expect(small, prompt("vwxyz"))
    assert index.held(prompt("abcd")) == {small: 2}
    assert small.cache_tokens == 30 > index.blocks_of(small)


def test_an_answer_larger_than_the_cache_leaves_nothing() -> None:
    index, small = an_index(), sized(10)
    index.expect(small, prompt("abc")).confirm(tokens_after=20)
    assert index.held(prompt("abcd")) == {small: 2}


def test_the_version_tells_when_an_answer_may_have_changed() -> None:
    index = an_index()
    versions = [index.version]
    expectation = index.expect(A, prompt("abc"))
    versions.append(index.version)
    expectation.withdraw()
    versions.append(index.version)
    index.drop(A)
    assert len({*versions, index.version}) == 4


# Against an index that is plain


class Plain:
    """The same by brute force: per engine a list of blocks, the most recently used last, with what spoke of them."""

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens
        self.used: dict[Backend, list[tuple[int, object]]] = {}

    def use(self, engine: Backend, blocks: Blocks, owner: object) -> None:
        before = dict(self.used.get(engine, []))
        rest = [(block, by) for block, by in before.items() if block not in blocks.hashes]
        mine = [(block, owner and before.get(block, owner)) for block in reversed(blocks.hashes)]
        self.used[engine] = (rest + mine)[-self.tokens :]

    def take_back(self, engine: Backend, blocks: Blocks, owner: object) -> None:
        self.used[engine] = [(block, by) for block, by in self.used[engine] if by is not owner]

    def held(self, blocks: Blocks) -> dict[Backend, int]:
        depths = {
            engine: next((i for i, block in enumerate(blocks.hashes) if block not in dict(used)), len(blocks.hashes))
            for engine, used in self.used.items()
        }
        return {engine: depth for engine, depth in depths.items() if depth}

    def has_gaps(self, blocks: Blocks) -> bool:
        """Whether an engine holds a block without one before it: what failed was shared by others still under way."""
        return any(
            sum(block in dict(used) for block in blocks.hashes) != self.held(blocks).get(engine, 0)
            for engine, used in self.used.items()
        )


ENDS = st.sampled_from(["confirm", "withdraw", "never"])
STEPS = st.lists(st.tuples(st.sampled_from([A, B, C]), st.text("ab", max_size=9), ENDS, st.integers(0, 5)), max_size=40)


@settings(max_examples=400)
@given(STEPS, st.integers(1, 20))
def test_it_is_an_lru_of_blocks_per_engine(steps: list[tuple[Backend, str, str, int]], tokens: int) -> None:
    """Each prompt ends some steps after it was sent."""
    index, plain = an_index(default_tokens=tokens), Plain(tokens)
    under_way: list[tuple[int, str, Backend, Blocks, Expectation]] = []
    for now, (engine, text, end, later) in enumerate(steps):
        blocks = prompt(text)
        expectation = index.expect(engine, blocks)
        plain.use(engine, blocks, expectation)
        under_way.append((now + later, end, engine, blocks, expectation))
        for due, how, where, what, it in list(under_way):
            if due <= now:
                under_way.remove((due, how, where, what, it))
                if how == "confirm":
                    it.confirm()
                    plain.use(where, what, None)
                elif how == "withdraw":
                    it.withdraw()
                    plain.take_back(where, what, it)
        for one in (A, B, C):
            assert index.blocks_of(one) == len(plain.used.get(one, []))
        for _, asked, _, _ in steps:
            if not plain.has_gaps(prompt(asked)):
                assert index.held(prompt(asked)) == plain.held(prompt(asked))
    for engine in (A, B, C):
        index.drop(engine)
    assert (index._holders, index._engines) == ({}, {})


@given(
    st.lists(st.tuples(st.text("ab", min_size=1, max_size=6), st.sampled_from(["confirm", "withdraw"])), max_size=20)
)
@pytest.mark.parametrize("order", ["at once", "in turn"])
def test_after_everything_is_settled_what_succeeded_is_held(order: str, steps: list[tuple[str, Any]]) -> None:
    index = an_index()
    settled = [(index.expect(A, prompt(text)), end) for text, end in steps] if order == "at once" else []
    for expectation, end in settled:
        getattr(expectation, end)()
    for text, end in steps if order == "in turn" else ():
        getattr(index.expect(A, prompt(text)), end)()
    for text, end in steps:
        if end == "confirm":
            assert index.held(prompt(text)) == {A: len(text)}
    heads = {head for text, end in steps if end == "confirm" for head in accumulate(text)}
    assert index.blocks_of(A) == len(heads)


def test_a_prompt_without_blocks_is_nothing_to_remember() -> None:
    index = an_index()
    expectation = index.expect(A, Blocks((), 0))
    expectation.confirm(tokens_after=9)
    assert (index.held(prompt("a")), index.tokens_of(A, 1)) == ({}, 0)


def test_what_was_new_is_what_an_engine_was_given() -> None:
    index = an_index()
    for text in ("abcd", "abcx", "abcx"):
        index.expect(A, prompt(text)).confirm()
    assert index.given.lately([A, B]) == [pytest.approx(5, rel=0.1), 0]


def test_how_many_are_under_way_from_the_same_beginning() -> None:
    index = an_index()
    index.expect(A, prompt("abc")).confirm()
    under_way = [index.expect(A, prompt("abc" + end)) for end in "xyz"]
    assert (index.crowd(A, prompt("abcq")), index.crowd(B, prompt("abcq")), index.crowd(A, prompt("q"))) == (3, 0, 0)
    assert index.crowd(A, prompt("abcxq")) == 0, "nobody goes on from there"
    under_way[0].confirm()
    under_way[1].withdraw()
    under_way[1].withdraw()
    assert index.crowd(A, prompt("abcq")) == 1
    index.drop(A)
    under_way[2].confirm()
    assert index.crowd(A, prompt("abcq")) == 0


def test_what_an_engine_has_evicted_is_forgotten_there() -> None:
    index, blocks = an_index(), prompt("abcd")
    for engine in (A, B):
        index.expect(engine, blocks)
    index.forget(A, [*blocks.hashes[2:], 12345])
    index.forget(C, blocks.hashes)
    assert index.held(blocks) == {A: 2, B: 4}


def test_a_lookup_is_right_after_an_eviction_before_a_turn_that_came_later() -> None:
    index = an_index()
    for turn in ("abcd", "abcdefgh", "abcdefghijklmnop"):
        index.expect(A, prompt(turn)).confirm(tokens_after=5)
    index.forget(A, prompt("abc").hashes[2:])
    assert index.held(prompt("abcdefghijklmnop")) == {A: 2}
    assert index.tokens_of(A, 1) == 2


def test_what_an_engine_is_thought_to_hold_in_tokens() -> None:
    index = an_index()
    index.expect(A, prompt("abc"))
    index.expect(A, prompt("xyz")).confirm(tokens_after=5)
    assert (index.tokens_of(A, 2), index.tokens_of(B, 2)) == (17, 0)
