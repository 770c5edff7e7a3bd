import pytest

from router.bench.ramp.ramp import POOLS, Day, percentile, run
from router.settings.engines import Role
from router.settings.scaling import Autoscale

DAY = Day(stretch_s=900)
RULES = Autoscale()


@pytest.mark.parametrize("seed", [1, 2])
def test_pools_follow_a_rise_and_a_fall_without_flapping(seed: int) -> None:
    record = run(Day(stretch_s=900, seed=seed), RULES)
    for role in POOLS:
        assert record.turns(role) == 1, record.changes(role)
        assert sum(record.changes(role)) == 0, "as many at the end as at the beginning"
        assert max(point.desired[role] for point in record.points) >= 3


def test_engines_are_there_when_they_are_needed() -> None:
    record = run(DAY, RULES)
    plateau = [point for point in record.points if 2 * 900 + 300 < point.at_s < 3 * 900]
    for role in POOLS:
        assert all(point.load[role] < point.engines[role] for point in plateau)
    ttft_s = [ttft_s for at_s, ttft_s in record.ttft_s if 2 * 900 + 300 < at_s < 3 * 900]
    assert percentile(ttft_s, 0.9) < 2.5


def test_without_the_band_between_the_two_shares_pools_flap() -> None:
    rules = RULES.model_copy(update={"scale_in_below": RULES.scale_out_above})
    assert max(run(DAY, rules).turns(role) for role in POOLS) > 2


def test_without_lasting_surpluses_pools_flap() -> None:
    rules = RULES.model_copy(update={"scale_in_after_s": 1.0})
    assert max(run(DAY, rules).turns(role) for role in POOLS) > 2


def test_the_day_is_low_rises_stays_and_falls() -> None:
    assert [DAY.rate(at * 900) for at in (0, 0.9, 1.5, 2, 2.9, 3.5, 4, 4.9)] == [0.5, 0.5, 4.25, 8, 8, 4.25, 0.5, 0.5]
    requests = list(Day(stretch_s=60).requests())
    assert requests == list(Day(stretch_s=60).requests()), "the same each time"
    assert len({block for request in requests for block in request.blocks}) == sum(len(r.blocks) for r in requests)


def test_changes_and_turns_are_counted() -> None:
    record = run(Day(stretch_s=30), RULES)
    for point, wanted in zip(record.points, (1, 2, 2, 4, 3, 3, 4), strict=False):
        point.desired[Role.DECODE] = wanted
    record.points = record.points[:7]
    assert (record.changes(Role.DECODE), record.turns(Role.DECODE)) == ([1, 2, -1, 1], 2)
