"""The block pool, its prefix cache, and what a model sees in blocks."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.sim import blocks, tokens
from router.sim.blocks import BlockContent, BlockPool, OutOfBlocksError

ROOT = blocks.root("model")


def contents(text: bytes, size_tokens: int) -> list[BlockContent]:
    """Right blocks for `text`."""
    size, parent, made = size_tokens * tokens.TOKEN_BYTES, ROOT, []
    for start in range(0, len(text), size):
        made.append(BlockContent(parent, text[start : start + size]))
        parent = made[-1].digest()
    return made


@given(st.binary(min_size=1, max_size=60).map(lambda data: data * 4), st.integers(1, 8))
def test_the_right_blocks_mean_the_text_whatever_their_size(text: bytes, size_tokens: int) -> None:
    assert blocks.attend(ROOT, contents(text, size_tokens), tokens.count(text)) == blocks.understood(ROOT, text)


def test_tokens_after_the_prompt_are_not_seen() -> None:
    text = b"abcdefgh"
    assert blocks.attend(ROOT, contents(text + b"more", 2), 2) == blocks.understood(ROOT, text)


@pytest.mark.parametrize("wrong", [0, 1, 2])
def test_a_block_of_another_text_changes_what_is_seen(wrong: int) -> None:
    right, other = contents(b"a" * 48, 4), contents(b"b" * 48, 4)
    mixed = [*right[:wrong], other[wrong], *right[wrong + 1 :]]
    assert blocks.attend(ROOT, mixed, 12) != blocks.understood(ROOT, b"a" * 48)


def test_the_right_tokens_on_top_of_another_context_change_what_is_seen() -> None:
    right, other = contents(b"a" * 16 + b"b" * 16, 4), contents(b"c" * 16 + b"b" * 16, 4)
    assert other[1].tokens == right[1].tokens
    assert blocks.attend(ROOT, [right[0], other[1]], 8) != blocks.understood(ROOT, b"a" * 16 + b"b" * 16)


def test_models_see_different_things_in_the_same_text() -> None:
    assert blocks.understood(ROOT, b"abcd") != blocks.understood(blocks.root("other"), b"abcd")


def test_keys_are_those_of_full_blocks_and_depend_on_all_before() -> None:
    keys = blocks.cache_keys(ROOT, b"a" * 40, 4)
    assert len(keys) == 2
    assert blocks.cache_keys(ROOT, b"a" * 32 + b"b" * 16, 4)[:2] == keys
    assert blocks.cache_keys(ROOT, b"b" + b"a" * 39, 4)[1] != keys[1]


def test_blocks_are_taken_all_or_none_and_counted() -> None:
    pool = BlockPool(4)
    held = pool.acquire((), 3)
    assert held == [1, 2, 3]
    with pytest.raises(OutOfBlocksError, match="2 blocks wanted, 1 free"):
        pool.acquire((), 2)
    assert (pool.in_use, pool.free) == (3, 1)
    pool.release(held)
    assert (pool.in_use, pool.free) == (0, 4)
    assert repr(pool) == "<BlockPool 0/4 in use, 0 cached>"


def test_a_block_released_twice_is_an_error() -> None:
    pool = BlockPool(2)
    held = pool.acquire((), 1)
    pool.release(held)
    with pytest.raises(RuntimeError, match="released twice"):
        pool.release(held)


def test_what_is_in_a_block_stays_until_it_is_overwritten() -> None:
    pool = BlockPool(1)
    (block,) = pool.acquire((), 1)
    pool.write(block, BlockContent(ROOT, b"abcd"))
    pool.append(block, b"efgh")
    pool.release([block])
    assert pool.acquire((), 1) == [block]
    assert pool.read([block]) == [BlockContent(ROOT, b"abcdefgh")]


def test_a_cached_block_is_found_shared_and_forgotten_when_reused() -> None:
    pool = BlockPool(2)
    (block,) = pool.acquire((), 1)
    pool.remember(block, b"key")
    pool.release([block])
    assert pool.longest_prefix([b"key", b"next"]) == [block]
    assert pool.acquire([block], 0) == pool.acquire([block], 0) == [block]
    pool.release([block])
    assert pool.in_use == 1
    pool.release([block])
    assert sorted(pool.acquire((), 2)) == [1, 2]
    assert (pool.longest_prefix([b"key"]), pool.cached) == ([], 0)


def test_idle_cached_blocks_do_not_count_as_free_for_their_own_sequence() -> None:
    pool = BlockPool(2)
    held = pool.acquire((), 1)
    pool.remember(held[0], b"key")
    pool.release(held)
    with pytest.raises(OutOfBlocksError):
        pool.acquire(held, 2)
    assert pool.in_use == 0


def test_blocks_are_reused_oldest_first_and_the_end_of_a_sequence_before_its_start() -> None:
    pool = BlockPool(4)
    first, second = pool.acquire((), 2), pool.acquire((), 2)
    pool.release(first)
    pool.release(second)
    assert pool.acquire((), 4) == [2, 1, 4, 3]


def test_the_first_block_of_a_key_is_the_one_that_is_found() -> None:
    pool = BlockPool(2)
    first, second = pool.acquire((), 2)
    pool.remember(first, b"key")
    pool.remember(second, b"key")
    assert pool.longest_prefix([b"key"]) == [first]


def test_only_numbers_from_1_to_the_size_are_blocks() -> None:
    assert [block in BlockPool(2) for block in (0, 1, 2, 3)] == [False, True, True, False]


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), max_size=60))
def test_every_block_is_either_free_or_in_use(operations: list[tuple[bool, int]]) -> None:
    pool, held = BlockPool(12), list[list[int]]()
    for take, number in operations:
        if take:
            try:
                held.append(pool.acquire((), number))
            except OutOfBlocksError:
                assert number > pool.free
        elif held:
            pool.release(held.pop(number % len(held)))
        used = [block for taken in held for block in taken]
        assert len(used) == len(set(used)) == pool.in_use


def test_what_the_cache_loses_is_told() -> None:
    lost: list[bytes] = []
    pool = BlockPool(2, lost.append)
    (block,) = pool.acquire((), 1)
    assert (pool.remember(block, b"key"), pool.remember(block, b"key")) == (True, False)
    assert pool.clear() is False
    pool.release([block])
    pool.acquire((), 2)
    assert lost == [b"key"]


def test_a_cache_that_was_cleared_finds_nothing() -> None:
    pool = BlockPool(2)
    (block,) = pool.acquire((), 1)
    pool.remember(block, b"key")
    pool.release([block])
    assert (pool.clear(), pool.cached, pool.longest_prefix([b"key"])) == (True, 0, [])
