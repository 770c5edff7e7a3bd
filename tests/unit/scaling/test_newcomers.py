import pytest

from router.scaling.newcomers import Newcomers

SPARED_S = 300.0


def test_engines_that_come_beyond_what_is_wanted_are_spared_until_the_last_has_been_there_for_a_while() -> None:
    first = Newcomers(2).look(4, 2, 100.0, SPARED_S)
    assert first.spared(399.9, SPARED_S) == 2
    assert first.spared(400.0, SPARED_S) == 0
    second = first.look(5, 2, 300.0, SPARED_S)
    assert (second.spared(599.9, SPARED_S), second.spared(600.0, SPARED_S)) == (3, 0)
    assert first.look(5, 2, 400.0, SPARED_S).unasked == 1, "the time of the first two is over"


@pytest.mark.parametrize(
    ("before", "engines", "wanted", "unasked"),
    [
        (2, 4, 4, 0),  # asked for
        (2, 4, 3, 1),
        (6, 6, 4, 0),  # they were there when it was found that they are too many
        (6, 7, 4, 1),
        (6, 5, 2, 0),
    ],
)
def test_only_those_that_nobody_asked_for_count(before: int, engines: int, wanted: int, unasked: int) -> None:
    seen = Newcomers(before).look(engines, wanted, 0.0, SPARED_S)
    assert (seen.engines, seen.unasked) == (engines, unasked)
