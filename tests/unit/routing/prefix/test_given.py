import pytest

from router.routing.prefix.given import RESCALE_AT, Given
from tests.support.builders import a_backend


def test_what_was_given_long_ago_is_forgotten() -> None:
    first, second = a_backend(port=1), a_backend(port=2)
    given = Given()
    given.note(first, 1000, 2)
    assert given.lately([first, second]) == [pytest.approx(1000), 0]
    for _ in range(10 * 32 * 2):
        given.note(second, 10, 2)
    assert given.lately([first, second]) == [pytest.approx(0, abs=1), pytest.approx(32 * 2 * 10, rel=0.02)]


def test_sums_stay_small_and_engines_that_are_gone_are_dropped() -> None:
    gone, here = a_backend(port=1), a_backend(port=2)
    given = Given()
    given.note(gone, 1000, 1)
    for _ in range(32 * 30):
        given.note(here, 10, 1)
    assert given._weight < RESCALE_AT
    assert list(given._sums) == [here]
    assert given.lately([here]) == [pytest.approx(320, rel=0.05)]
