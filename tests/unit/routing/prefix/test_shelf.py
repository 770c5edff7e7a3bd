from itertools import accumulate, chain

from hypothesis import given, settings
from hypothesis import strategies as st

from router.routing.prefix.shelf import Shelf
from tests.support.builders import a_backend


def prompt(text: str) -> list[int]:
    """A block for each letter, which hashes all letters up to it."""
    return [hash(head) & 0xFFFFFFFFFFFF for head in accumulate(text)]


def a_shelf(*texts: str) -> Shelf:
    shelf = Shelf(a_backend(), bit=1)
    for text in texts:
        shelf.use(prompt(text), None)
    return shelf


def test_what_is_new_of_a_prompt_is_told() -> None:
    shelf = a_shelf("abc")
    assert shelf.use(prompt("abc"), None) == []
    assert shelf.use(prompt("abcde"), None) == prompt("abcde")[3:]
    assert shelf.use(prompt("abx"), None) == prompt("abx")[2:]
    assert len(shelf) == 6
    assert set(shelf.blocks()) == {*prompt("abcde"), *prompt("abx")}


def test_a_prompt_is_one_run_until_another_parts_from_it() -> None:
    shelf = a_shelf("abcd")
    assert list(shelf.ends()) == prompt("abcd")[3:]
    shelf.use(prompt("abxy"), None)
    assert list(shelf.ends()) == [prompt("abcd")[3], prompt("abxy")[3], prompt("ab")[1]]
    shelf.use(prompt("a"), None)
    assert list(shelf.ends()) == [prompt("abcd")[3], prompt("abxy")[3], prompt("ab")[1], *prompt("a")]


def test_the_oldest_run_is_forgotten_from_its_end() -> None:
    shelf = a_shelf("abc", "xy", "ab")
    assert shelf.oldest() == prompt("abc")[2:]
    assert shelf.forget(9) == prompt("abc")[2:]
    assert shelf.oldest() == prompt("xy")
    assert shelf.forget(1) == prompt("xy")[1:]
    assert shelf.oldest() == prompt("x")
    assert prompt("xy")[0] in shelf
    assert prompt("xy")[1] not in shelf


def test_what_is_taken_back_is_what_its_owner_alone_spoke_of() -> None:
    shelf, mine = a_shelf("ab"), object()
    shelf.use(prompt("abcd"), mine)
    shelf.use(prompt("abcx"), None)
    assert shelf.take_back(prompt("abcd"), mine) == prompt("abcd")[3:]
    assert shelf.take_back(prompt("abcd"), mine) == []
    assert len(shelf) == 4


def test_a_gap_that_was_taken_back_is_filled_by_the_next_use() -> None:
    shelf, mine, other = a_shelf(), object(), object()
    shelf.use(prompt("ab"), mine)
    shelf.use(prompt("abcd"), other)
    shelf.take_back(prompt("ab"), mine)
    assert set(shelf.blocks()) == set(prompt("abcd")[2:])
    assert shelf.use(prompt("abcd"), None) == prompt("ab")
    assert list(shelf.ends()) == [prompt("abcd")[3], prompt("ab")[1]], "the end of a prompt is older than its beginning"


def test_prompts_that_go_on_from_a_block_are_counted() -> None:
    shelf = a_shelf()
    shelf.sharing[7] = 2
    shelf.shares_no_more(7)
    assert shelf.sharing == {7: 1}
    shelf.shares_no_more(7)
    assert shelf.sharing == {}


def test_what_was_evicted_takes_with_it_what_follows_in_other_runs() -> None:
    shelf = a_shelf("abcd", "abcdef", "abcdeg", "abx")
    assert set(shelf.evict([prompt("abcd")[2]])) == {*prompt("abcdef")[2:], *prompt("abcdeg")[2:]}
    assert set(shelf.blocks()) == set(prompt("abx"))
    assert shelf.evict(prompt("abcdef")[2:]) == []
    assert set(shelf.evict(prompt("a"))) == set(prompt("abx"))
    assert (len(shelf), shelf._runs, shelf._followed) == (0, {}, {})


TEXTS = st.text("ab", min_size=1, max_size=5)


@settings(max_examples=300)
@given(st.lists(st.tuples(st.sampled_from(["use", "use", "evict", "forget"]), TEXTS), min_size=3, max_size=20))
def test_every_block_has_all_before_it_whatever_is_used_evicted_and_forgotten(steps: list[tuple[str, str]]) -> None:
    shelf, plain = a_shelf(), set[str]()
    name = {block: head for _, text in steps for head, block in zip(accumulate(text), prompt(text), strict=True)}
    for what, text in steps:
        if what == "use":
            shelf.use(prompt(text), None)
            plain |= {*accumulate(text)}
        elif what == "evict":
            gone = [name[block] for block in shelf.evict(prompt(text)[-1:])]
            assert sorted(gone) == sorted(held for held in plain if held.startswith(text))
            plain -= {*gone}
        elif len(shelf):
            plain -= {name[block] for block in shelf.forget(1)}
        assert {name[block] for block in shelf.blocks()} == plain
        assert all(text[:-1] in plain for text in plain if text[:-1])


@given(st.lists(st.text("abc", min_size=1, max_size=6), max_size=6), st.text("abc", max_size=8))
def test_how_deep_a_prompt_is_there(used: list[str], asked: str) -> None:
    shelf, there = a_shelf(*used), set(chain.from_iterable(map(prompt, used)))
    assert shelf.depth(prompt(asked)) == sum(block in there for block in prompt(asked))
