import pytest

from router.fleet.kv_events import holdings as room
from router.fleet.kv_events.events import Cleared, Event, Removed, Stored
from router.fleet.kv_events.holdings import Holdings, Turn


def fed(*events: Event) -> Holdings:
    """What an engine holds after its first batch."""
    holdings = Holdings()
    holdings.took(0, 1.0)
    for event in events:
        holdings.apply(event)
    return holdings


def test_what_was_stored_is_held_until_it_is_removed() -> None:
    holdings = fed(Stored([1, 2, 3], None, 16), Removed([3]), Removed([99]))
    assert (holdings.tokens, holdings.complete) == (32, True)
    assert repr(holdings) == "<Holdings 32 tokens, batch 1>"


def test_a_block_that_is_stored_twice_is_held_once() -> None:
    assert fed(Stored([1, 2], None, 16), Stored([1, 2], None, 16)).tokens == 32


def test_nothing_is_left_of_what_was_cleared() -> None:
    assert fed(Stored([1, 2], None, 16), Cleared()).tokens == 0


def test_how_far_into_their_prompt_blocks_are() -> None:
    holdings = Holdings()
    assert holdings.apply(Stored([1, 2], None, 16)) == 0
    assert holdings.apply(Stored([3], 2, 16)) == 2
    assert holdings.apply(Stored([4, 5], 1, 16)) == 1
    assert holdings.apply(Stored([6], 5, 16)) == 3
    assert holdings.apply(Removed([6])) is None


def test_it_is_not_known_behind_a_block_that_is_not() -> None:
    holdings = Holdings()
    assert holdings.apply(Stored([2], 1, 16)) is None
    assert holdings.apply(Stored([3], 2, 16)) is None
    assert holdings.tokens == 32


@pytest.mark.parametrize(
    ("number", "at", "turn"),
    [
        (5, 9.0, Turn.NEXT),
        (6, 9.0, Turn.GAP),
        (4, 7.0, Turn.SEEN),
        (0, 7.0, Turn.SEEN),
        (4, 7.5, Turn.RESTART),
        (0, 9.0, Turn.RESTART),
    ],
)
def test_a_batch_is_known_by_its_number_and_its_time(number: int, at: float, turn: Turn) -> None:
    holdings = Holdings()
    for taken in range(5):
        holdings.took(taken, 3.0 + taken)
    assert holdings.turn(number, at) is turn


def test_all_is_known_from_the_first_batch_on_or_after_a_clear() -> None:
    holdings = Holdings()
    holdings.took(7, 1.0)
    known = [holdings.complete]
    holdings.apply(Cleared())
    assert [*known, holdings.complete] == [False, True]
    holdings.lose()
    assert (holdings.complete, holdings.next) == (False, 8)
    holdings.begin()
    holdings.took(0, 2.0)
    assert (holdings.complete, holdings.next) == (True, 1)


def test_missed_removals_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "MAX_BLOCKS", 3)
    holdings = fed(Stored([1, 2, 3, 4, 5], None, 16))
    assert holdings.tokens == 48
    assert holdings.apply(Stored([6], 5, 16)) == 5
    assert holdings.apply(Stored([7], 1, 16)) is None


def test_whether_sessions_are_named() -> None:
    assert not fed(Stored([1], None, 16)).sessions
    assert fed(Stored([1], None, 16, "r-1"), Stored([2], None, 16)).sessions


def test_its_line_of_facts() -> None:
    assert fed(Stored([1], None, 16)).describe() == {
        "held_tokens": 16,
        "complete": True,
        "names_sessions": False,
        "batches": 1,
        "gaps": 0,
        "replays": 0,
        "restarts": 0,
    }
