import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.fleet.pairs import Meeting, Pairs
from router.settings.fleet import PairRules

RULES = PairRules(failures=2, quarantine_s=60)


@pytest.fixture
def pairs() -> Pairs:
    return Pairs(RULES)


def test_one_failure_is_forgiven(pairs: Pairs) -> None:
    assert not pairs.failed("p", "d", 0)
    assert pairs.usable("p", "d", 0)


def test_two_soon_after_each_other_are_not(pairs: Pairs) -> None:
    pairs.failed("p", "d", 0)
    assert pairs.failed("p", "d", 59)
    assert not pairs.usable("p", "d", 60)
    assert pairs.usable("p", "e", 60)
    assert pairs.usable("q", "d", 60)
    assert list(pairs.quarantined(60)) == [{"prefill": "p", "decode": "d", "for_s": 59}]
    assert repr(pairs) == "<Pairs 1 quarantined>"


def test_two_far_apart_are(pairs: Pairs) -> None:
    pairs.failed("p", "d", 0)
    assert not pairs.failed("p", "d", 61)
    assert pairs.usable("p", "d", 61)


def test_a_quarantine_ends(pairs: Pairs) -> None:
    pairs.failed("p", "d", 0)
    pairs.failed("p", "d", 1)
    assert not pairs.usable("p", "d", 60.9)
    assert pairs.usable("p", "d", 61)
    assert list(pairs.quarantined(61)) == []


def test_a_success_between_them_counts(pairs: Pairs) -> None:
    pairs.failed("p", "d", 0)
    pairs.worked("p", "d")
    assert not pairs.failed("p", "d", 1)


def test_a_new_engine_has_no_past(pairs: Pairs) -> None:
    for now in (0, 1):
        pairs.failed("p", "d", now)
        pairs.failed("p", "e", now)
    pairs.forget("d")
    assert pairs.usable("p", "d", 2)
    assert not pairs.usable("p", "e", 2)


def meeting(fault: str | None = None, at: float = 10) -> Meeting:
    return Meeting(at, ((1, "a"), (1, None)), fault, 0.0)


def test_warm_ups_are_told_and_what_failed_by_name(pairs: Pairs) -> None:
    pairs.cold = {("p", "d"), ("p", "e"), ("q", "d")}
    pairs.met("p", "d", meeting())
    pairs.met("p", "e", meeting("decode: answered 500", at=10))
    failed = {"prefill": "p", "decode": "e", "why": "decode: answered 500", "ago_s": 2.5}
    assert pairs.warm_ups(12.5) == {"warm": 1, "cold": 1, "failed": [failed]}


def test_a_new_engine_has_met_nobody(pairs: Pairs) -> None:
    pairs.cold = {("p", "d"), ("q", "e")}
    pairs.met("p", "e", meeting())
    pairs.met("q", "d", meeting())
    pairs.forget("d")
    assert (pairs.cold, list(pairs.meetings)) == ({("q", "e")}, [("p", "e")])


@given(st.lists(st.tuples(st.sampled_from(["fail", "work"]), st.floats(0, 30)), max_size=40))
def test_no_pair_is_left_alone_for_longer_than_its_time_after_the_last_failure(
    events: list[tuple[str, float]],
) -> None:
    pairs, now, last = Pairs(RULES), 0.0, 0.0
    for event, pause_s in events:
        now += pause_s
        if event == "fail":
            pairs.failed("p", "d", now)
            last = now
        else:
            pairs.worked("p", "d")
    assert pairs.usable("p", "d", last + RULES.quarantine_s)


def test_failures_as_far_apart_as_the_time_are_still_within_it(pairs: Pairs) -> None:
    pairs.failed("p", "d", 1000)
    assert pairs.failed("p", "d", 1060)


def test_a_new_engine_has_no_failures_and_the_others_keep_theirs(pairs: Pairs) -> None:
    pairs.failed("p", "d", 0)
    pairs.failed("p", "e", 0)
    pairs.forget("d")
    assert not pairs.failed("p", "d", 1)
    assert pairs.failed("p", "e", 1)


def test_success_of_a_pair_that_never_failed_is_nothing_new(pairs: Pairs) -> None:
    pairs.failed("p", "d", 0)
    pairs.worked("p", "e")
    assert pairs.failed("p", "d", 1)


def test_a_quarantine_is_told_to_a_tenth_of_a_second_until_its_end(pairs: Pairs) -> None:
    for _ in range(2):
        pairs.failed("p", "d", 0)
    assert list(pairs.quarantined(0.26)) == [{"prefill": "p", "decode": "d", "for_s": 59.7}]
    assert list(pairs.quarantined(60)) == []
