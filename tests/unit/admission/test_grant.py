import asyncio
from contextlib import nullcontext
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.admission.grant import Grant
from router.admission.permits import Permits
from router.errors import ClientGone, Outcome
from router.fleet.backend import Backend
from router.fleet.load import Load
from router.settings.admission import Admission
from tests.support.builders import a_backend

UNLIMITED = Admission(prefill_permits=0, decode_permits=0)


class Engines:
    """A pair, and what a gateway has on it."""

    def __init__(self) -> None:
        self.permits = Permits(UNLIMITED)
        self.prefill = a_backend("prefill", 1)
        self.decode = a_backend("decode", 2)

    def grant(self, tokens: int = 100, *, alone: bool = False) -> Grant:
        return Grant(self.permits, self.decode, None if alone else self.prefill, tokens)

    def held(self, backend: Backend) -> tuple[int, Load]:
        return self.permits.taken(backend), backend.load


NOTHING = (0, Load(0, 0))
ONE = (1, Load(1, 100))


def test_a_grant_holds_permit_and_lease_on_both_engines() -> None:
    engines = Engines()
    engines.grant()
    assert (engines.held(engines.prefill), engines.held(engines.decode)) == (ONE, ONE)


def test_a_request_that_one_engine_serves_holds_only_that_one() -> None:
    engines = Engines()
    with engines.grant(alone=True) as grant:
        grant.settle_prefill(Outcome.OK)
        computes = (1, Load(1, 100, 100))
        assert (engines.held(engines.prefill), engines.held(engines.decode)) == (NOTHING, computes)
        grant.answer_began()
        assert engines.held(engines.decode) == ONE
    assert engines.held(engines.decode) == NOTHING


def test_what_is_cached_is_no_work_for_the_engine_that_computes_the_prompt() -> None:
    engines = Engines()
    with Grant(engines.permits, engines.decode, engines.prefill, 100, cached_tokens=30):
        assert (engines.prefill.load, engines.decode.load) == (Load(1, 70), Load(1, 100))
    with Grant(engines.permits, engines.decode, None, 100, cached_tokens=30):
        assert engines.decode.load == Load(1, 100, 70)
    assert (engines.held(engines.prefill), engines.held(engines.decode)) == (NOTHING, NOTHING)


def test_the_prefill_engine_is_let_go_when_its_leg_is_over() -> None:
    engines = Engines()
    with engines.grant() as grant:
        grant.settle_prefill(Outcome.OK)
        assert (engines.held(engines.prefill), engines.held(engines.decode)) == (NOTHING, ONE)
    assert (engines.held(engines.prefill), engines.held(engines.decode)) == (NOTHING, NOTHING)


@pytest.mark.parametrize("error", [ClientGone(), asyncio.CancelledError(), ZeroDivisionError()])
def test_however_its_block_ends_nothing_stays_held(error: BaseException) -> None:
    engines = Engines()
    with pytest.raises(type(error)), engines.grant():
        raise error
    assert (engines.held(engines.prefill), engines.held(engines.decode)) == (NOTHING, NOTHING)


def test_a_prefill_leg_keeps_the_outcome_it_was_settled_with() -> None:
    grant = Engines().grant()
    grant.settle_prefill(Outcome.TIMEOUT)
    grant.settle(Outcome.CLIENT_GONE)
    assert repr(grant) == ("<Grant <Lease 127.0.0.1:1 100 tokens timeout> <Lease 127.0.0.1:2 100 tokens client_gone>>")


@given(st.lists(st.integers(0, 3), max_size=60), st.randoms(use_true_random=False))
def test_in_any_order_and_however_often_settled_everything_returns_to_zero(steps: list[int], rng: Random) -> None:
    engines = Engines()
    grants: list[Grant] = []
    for step in steps:
        if step < 2 or not grants:
            grants.append(engines.grant(tokens=rng.randrange(1000), alone=step == 1))
        elif step == 2:
            rng.choice(grants).settle_prefill(rng.choice(list(Outcome)))
        else:
            rng.choice(grants).settle(rng.choice(list(Outcome)))
        for backend in (engines.prefill, engines.decode):
            assert engines.permits.taken(backend) == backend.load.requests >= 0
    rng.shuffle(grants)
    for grant in grants:
        grant.settle(Outcome.OK)
    assert (engines.held(engines.prefill), engines.held(engines.decode)) == (NOTHING, NOTHING)


@pytest.mark.parametrize(("error", "outcome"), [(None, Outcome.OK), (ClientGone(), Outcome.CLIENT_GONE)])
def test_leases_end_as_the_block_did(error: Exception | None, outcome: Outcome) -> None:
    with pytest.raises(ClientGone) if error else nullcontext(), Engines().grant() as grant:
        if error:
            raise error
    assert [lease.outcome for _, lease in (grant._decode, grant._prefill or grant._decode)] == [outcome, outcome]


def test_room_to_compute_another_prompt_is_told_of_the_engine_that_has_it() -> None:
    engines, told = Engines(), list[Backend]()
    engines.permits.prompt_computed = told.append  # type: ignore[method-assign, assignment]
    engines.grant().answer_began()
    engines.grant(alone=True).answer_began()
    assert told == [engines.decode]
