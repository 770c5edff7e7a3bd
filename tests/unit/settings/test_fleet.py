import pytest
from pydantic import BaseModel, ValidationError

from router.settings.fleet import Ejection, PairRules, Probes, Scrapes


@pytest.mark.parametrize(
    ("section", "count"),
    [
        (Probes, "down_after"),
        (Probes, "up_after"),
        (Ejection, "failures"),
        (Ejection, "silences"),
        (Ejection, "trial_successes"),
        (PairRules, "failures"),
    ],
)
def test_nothing_is_judged_by_no_sign_at_all(section: type[BaseModel], count: str) -> None:
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        section.model_validate({count: 0})


def test_who_is_out_is_looked_at_more_often_and_tried_ever_more_rarely() -> None:
    assert Probes().down_interval_s < Probes().interval_s
    assert Ejection().first_s < Ejection().longest_s


def test_looks_end_before_the_next_ones_are_due() -> None:
    assert Scrapes().timeout_s <= Scrapes().interval_s
    assert Probes().timeout_s <= Probes().interval_s
