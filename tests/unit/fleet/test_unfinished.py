import pytest

from router.fleet.unfinished import Unfinished


def noted(*looks: tuple[float, int, int]) -> Unfinished:
    unfinished = Unfinished()
    for at, in_engine, sent in looks:
        unfinished.note(at, in_engine, sent)
    return unfinished


def test_without_a_proof_work_may_have_been_finished_as_it_was_sent() -> None:
    assert noted().until(100.0) == 100.0


@pytest.mark.parametrize(("in_engine", "until"), [(3, 104.0), (4, 104.0), (2, 100.0), (0, 100.0)])
def test_an_engine_that_has_all_that_was_sent_has_finished_nothing(in_engine: int, until: float) -> None:
    assert noted((104.0, in_engine, 3)).until(100.0) == until


def test_an_engine_without_work_proves_nothing() -> None:
    assert noted((104.0, 0, 0)).until(100.0) == 100.0


def test_a_proof_before_the_sending_is_not_later_than_it() -> None:
    assert noted((98.0, 1, 1)).until(100.0) == 100.0


def test_the_last_proof_counts() -> None:
    unfinished = noted((102.0, 1, 1), (104.0, 1, 1), (106.0, 0, 1))
    assert unfinished.until(100.0) == 104.0
    assert repr(unfinished) == "<Unfinished until 104.0>"
