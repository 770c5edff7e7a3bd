import asyncio
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.errors import BadAnswer, ClientGone, EngineTimeout, InvalidRequest, Outcome
from router.fleet.lease import Lease, outcome_of
from router.fleet.load import Load
from tests.support.builders import a_backend


def test_a_lease_counts_from_the_moment_it_is_made() -> None:
    backend = a_backend(requests=1, tokens=50)
    backend.lease(100)
    assert backend.load == Load(2, 150)


def test_a_settled_lease_counts_no_more() -> None:
    backend = a_backend(requests=1, tokens=50)
    lease = backend.lease(100)
    lease.settle(Outcome.OK)
    assert (backend.load, lease.outcome) == (Load(1, 50), Outcome.OK)


def test_a_second_settlement_changes_nothing() -> None:
    backend = a_backend()
    lease = backend.lease(100)
    lease.settle(Outcome.TIMEOUT)
    lease.settle(Outcome.OK)
    assert (backend.load, lease.outcome) == (Load(0, 0), Outcome.TIMEOUT)


def test_a_block_settles_by_how_it_ended() -> None:
    backend = a_backend()
    with backend.lease(100) as good:
        assert backend.load == Load(1, 100)
    with pytest.raises(BadAnswer), backend.lease(100) as bad:
        raise BadAnswer("x")
    assert (good.outcome, bad.outcome, backend.load) == (Outcome.OK, Outcome.UPSTREAM_ERROR, Load(0, 0))


def test_a_block_that_settled_before_its_end_keeps_that_outcome() -> None:
    with a_backend().lease(1) as lease:
        lease.settle(Outcome.TIMEOUT)
    assert lease.outcome is Outcome.TIMEOUT


def test_a_prompt_that_the_engine_computes_itself_counts_until_the_answer_begins() -> None:
    backend = a_backend()
    lease = backend.lease(100, local_tokens=80)
    assert backend.load == Load(1, 100, 80)
    lease.prompt_computed()
    lease.prompt_computed()
    assert backend.load == Load(1, 100, 0)
    lease.settle(Outcome.OK)
    with backend.lease(100, local_tokens=80):
        pass
    assert backend.load == Load(0, 0, 0)


def test_a_lease_of_an_engine_on_trial_is_its_only_one() -> None:
    backend = a_backend()
    for _ in range(3):
        backend.standing.failed("timeout", 0.0, can_be_spared=True)
    backend.standing.good_probe(60.0)
    with backend.lease(1):
        assert not backend.standing.usable
    assert backend.standing.usable


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (None, Outcome.OK),
        (EngineTimeout("x"), Outcome.TIMEOUT),
        (InvalidRequest("x"), Outcome.CLIENT_ERROR),
        (ClientGone(), Outcome.CLIENT_GONE),
        (asyncio.CancelledError(), Outcome.CLIENT_GONE),
        (KeyboardInterrupt(), Outcome.CLIENT_GONE),
        (ZeroDivisionError(), Outcome.INTERNAL_ERROR),
    ],
)
def test_what_a_block_ended_with_is_an_outcome(error: BaseException | None, outcome: Outcome) -> None:
    assert outcome_of(error) is outcome


@given(st.lists(st.integers(0, 10_000), max_size=20), st.randoms(use_true_random=False))
def test_in_any_order_and_however_often_settled_the_load_returns_to_zero(tokens: list[int], rng: Random) -> None:
    backends = [a_backend(port=8000), a_backend(port=8001)]
    open_leases: list[Lease] = []
    for count in tokens:
        open_leases.append(rng.choice(backends).lease(count))
        if rng.random() < 0.5:
            rng.choice(open_leases).settle(rng.choice(list(Outcome)))
        for backend in backends:
            held = [lease._tokens for lease in open_leases if lease.backend is backend and lease.outcome is None]
            assert backend.load == Load(len(held), sum(held))
    rng.shuffle(open_leases)
    for lease in open_leases:
        lease.settle(Outcome.OK)
    assert [backend.load for backend in backends] == [Load(0, 0)] * 2


def test_a_lease_tells_its_state() -> None:
    lease = a_backend(port=8001).lease(7)
    assert repr(lease) == "<Lease 127.0.0.1:8001 7 tokens open>"
    lease.settle(Outcome.OK)
    assert repr(lease) == "<Lease 127.0.0.1:8001 7 tokens ok>"


def test_a_lease_on_an_engine_that_passed_its_trial_leaves_the_count_of_trials_alone() -> None:
    backend = a_backend()
    for _ in range(3):
        backend.standing.failed("timeout", 0.0, can_be_spared=True)
    backend.standing.good_probe(60.0)
    with backend.lease(1):
        for _ in range(2):
            backend.standing.worked(60.0)
        with backend.lease(1):
            assert backend.standing.on_trial == 1
    assert backend.standing.on_trial == 0
