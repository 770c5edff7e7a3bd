from router.edge.readiness import Readiness
from router.fleet.fleet import Fleet
from router.settings.engines import Role
from tests.support.builders import a_backend


def test_ready_with_one_engine_that_can_answer() -> None:
    assert Readiness(Fleet([a_backend(Role.DECODE)])).reasons_against() == []


def test_not_ready_without_an_engine_that_can_answer() -> None:
    fleet = Fleet([a_backend(Role.PREFILL, 1), a_backend(Role.DECODE, 2, up=False)])
    assert Readiness(fleet).reasons_against() == ["no usable engine that can answer"]


def test_not_ready_while_draining() -> None:
    readiness = Readiness(Fleet([a_backend(Role.AGGREGATED)]))
    readiness.draining = True
    assert readiness.reasons_against() == ["draining"]


def test_ready_without_prefill_is_worth_a_note() -> None:
    prefill = a_backend(Role.PREFILL, 1, up=False)
    readiness = Readiness(Fleet([prefill, a_backend(Role.DECODE, 2)]))
    assert (readiness.reasons_against(), len(readiness.notes())) == ([], 1)
    prefill.standing.good_probe(1.0)
    assert readiness.notes() == []
    assert Readiness(Fleet([a_backend(Role.DECODE, 2)])).notes() == []


def test_pools_that_cannot_hand_over_to_each_other_are_worth_one_too() -> None:
    old, new = a_backend(Role.PREFILL, 1, group="old"), a_backend(Role.DECODE, 2, group="new")
    readiness = Readiness(Fleet([old, new]))
    assert (readiness.reasons_against(), len(readiness.notes())) == ([], 1)
    assert Readiness(Fleet([old, new, a_backend(Role.DECODE, 3, group="old")])).notes() == []
    assert len(Readiness(Fleet([old, new, a_backend(Role.DECODE, 3, group="old", up=False)])).notes()) == 1
