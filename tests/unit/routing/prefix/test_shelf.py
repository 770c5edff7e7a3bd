from itertools import accumulate

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
