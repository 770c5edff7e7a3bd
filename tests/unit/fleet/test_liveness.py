"""Probes come every 2 s here, and a gap of more than 6 s breaks the chain."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from router.fleet.liveness import Liveness

GAP_S = 6.0


def proven(*times: float) -> Liveness:
    liveness = Liveness(GAP_S)
    for at in times:
        liveness.prove(at)
    return liveness


def test_without_a_proof_an_engine_was_alive_when_it_was_sent_something() -> None:
    assert proven().alive_at(100.0) == 100.0


def test_an_unbroken_chain_carries_on_to_its_last_proof() -> None:
    assert proven(98, 100, 102, 104).alive_at(101.0) == 104


def test_a_proof_before_the_sending_is_not_later_than_it() -> None:
    assert proven(98, 100).alive_at(101.0) == 101.0


def test_an_engine_that_froze_after_the_sending_is_taken_at_its_word_no_later() -> None:
    assert proven(98, 100, 130, 132).alive_at(101.0) == 101.0


def test_a_frozen_engine_gives_no_proof_so_time_alone_proves_nothing() -> None:
    assert proven(98, 100, 102).alive_at(101.0) == 102


def test_a_chain_that_began_anew_covers_what_was_sent_since() -> None:
    assert proven(98, 130, 132, 134).alive_at(131.0) == 134


def test_a_gap_just_as_long_as_allowed_breaks_nothing() -> None:
    assert proven(94, 100, 106).alive_at(95.0) == 106
    assert proven(94, 100, 106.1).alive_at(95.0) == 95.0


def test_proofs_may_come_out_of_order() -> None:
    assert proven(98, 102, 100).alive_at(99.0) == 102


@given(st.lists(st.floats(0, 1000), max_size=30), st.floats(0, 1000))
def test_an_engine_is_never_taken_to_live_past_a_silence(times: list[float], sent_at: float) -> None:
    times = sorted(times)
    alive_at = proven(*times).alive_at(sent_at)
    assert alive_at == sent_at or alive_at in times
    assert alive_at >= sent_at
    if alive_at > sent_at:
        since = [max((t for t in times if t <= sent_at), default=sent_at), *(t for t in times if t > sent_at)]
        assert all(later - earlier <= GAP_S for earlier, later in pairwise(since))
