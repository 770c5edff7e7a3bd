import pytest

from router.scaling.demand import Demand, Signal
from router.scaling.steady import Desired, Limits, Reason, step
from router.settings.scaling import Autoscale, PoolSize

RULES = Autoscale(scale_out_above=0.8, scale_in_below=0.6, scale_out_pause_s=100, scale_in_after_s=300)
ANY = Limits(PoolSize(min_replicas=1, max_replicas=10))


def demand(engines: float) -> Demand:
    return Demand(engines, Signal.THROUGHPUT, {})


def after(before: Desired, loads: dict[float, float], limits: Limits = ANY) -> Desired:
    """What is wanted after the loads of some moments."""
    for now, load in loads.items():
        before = step(before, demand(load), now, RULES, limits)
    return before


@pytest.mark.parametrize(
    ("load", "replicas", "reason"),
    [
        (3.2, 4, Reason.FITS),
        (3.21, 5, Reason.GROWS),
        (1.81, 4, Reason.FITS),  # three would be loaded beyond 60 %
        (1.8, 4, Reason.PASSING_SURPLUS),
        (20, 8, Reason.GROWS),  # at most twice as many at once
    ],
)
def test_between_the_two_shares_a_pool_stays_as_it_is(load: float, replicas: int, reason: Reason) -> None:
    desired = step(Desired(4), demand(load), 1000.0, RULES, ANY)
    assert (desired.replicas, desired.reason) == (replicas, reason)


def test_it_does_not_grow_again_before_what_was_asked_for_can_be_there() -> None:
    grown = after(Desired(2), {1000: 2.0})
    assert (grown.replicas, grown.reason) == (3, Reason.GROWS)
    early = after(grown, {1099: 9.0})
    assert (early.replicas, early.reason) == (3, Reason.COOLING_DOWN)
    assert after(early, {1100: 9.0}).replicas == 6


def test_a_surplus_must_last_and_what_was_needed_meanwhile_stays() -> None:
    young = after(Desired(6), {0: 0.5, 100: 1.7, 299: 0.5})
    assert (young.replicas, young.reason) == (6, Reason.PASSING_SURPLUS)
    shrunk = after(young, {300: 0.5})
    assert (shrunk.replicas, shrunk.reason) == (3, Reason.SHRINKS)
    assert after(shrunk, {301: 0.5}).replicas == 3, "the next one has to last as well"


def test_a_surplus_that_passes_is_none() -> None:
    assert after(Desired(4), {0: 0.5, 200: 3.0, 300: 0.5, 599: 0.5}).replicas == 4


def joined(before: Desired, now: float, engines: int, load: float = 0.5, size: PoolSize = ANY.size) -> Desired:
    """What is wanted at a look that sees so many engines."""
    return step(before, demand(load), now, RULES, Limits(size, engines))


def test_engines_that_join_a_young_pool_are_wanted_until_a_surplus_has_lasted_with_them() -> None:
    young = joined(joined(Desired(2, young_until=300), 0, 2), 100, 2)
    assert (young.replicas, young.surplus_since) == (2, 0)
    all_up = joined(young, 299, 8)
    assert (all_up.replicas, all_up.reason, all_up.surplus_since) == (8, Reason.PASSING_SURPLUS, 299)
    fewer = joined(all_up, 598, 3)
    assert (fewer.replicas, fewer.surplus_since) == (8, 299), "those that are gone are wanted back"
    assert joined(fewer, 599, 8).replicas == 1


def test_they_count_within_the_bounds_and_no_more_once_the_pool_is_not_young() -> None:
    small = PoolSize(min_replicas=1, max_replicas=5)
    assert joined(Desired(2, young_until=300), 299, 8, size=small).replicas == 5
    old = joined(Desired(2, young_until=300), 300, 8, load=1.5)
    assert (old.replicas, old.reason) == (2, Reason.FITS)


def test_a_young_pool_that_grows_does_so_from_what_has_joined() -> None:
    grown = joined(Desired(1, young_until=300), 10, 4, load=5.0)
    assert (grown.replicas, grown.reason, grown.grown_at) == (7, Reason.GROWS, 10)


def test_prefill_shrinks_a_lease_later() -> None:
    lease = Limits(ANY.size, lease_s=30)
    waiting = after(Desired(3), {0: 0.5, 300: 0.5, 329: 0.5}, lease)
    assert (waiting.replicas, waiting.reason, waiting.surplus_most) == (3, Reason.KV_LEASE, 1)
    assert after(waiting, {330: 0.5}, lease).replicas == 1


@pytest.mark.parametrize("load", [0.5, 9.0])
def test_a_pool_that_is_held_neither_grows_nor_shrinks(load: float) -> None:
    held = after(Desired(4), {0: load, 1000: load}, Limits(ANY.size, held=True))
    assert (held.replicas, held.reason) == (4, Reason.DECODE_SATURATED)
    assert held.surplus_since is None, "what decode lets through is no surplus of prefill"


@pytest.mark.parametrize(
    ("size", "load", "replicas", "reason"),
    [
        (PoolSize(min_replicas=3, max_replicas=9), 0.0, 3, Reason.AT_MIN_REPLICAS),
        (PoolSize(min_replicas=1, max_replicas=3), 9.0, 3, Reason.AT_MAX_REPLICAS),
        (PoolSize(min_replicas=5, max_replicas=9), 3.2, 5, Reason.FITS),
    ],
)
def test_bounds_hold(size: PoolSize, load: float, replicas: int, reason: Reason) -> None:
    desired = step(Desired(3), demand(load), 0.0, RULES, Limits(size))
    assert (desired.replicas, desired.reason) == (replicas, reason)
