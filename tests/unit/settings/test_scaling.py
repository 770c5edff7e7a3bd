import pytest

from router.settings.faults import SettingsError
from router.settings.loading import load


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ({"scale_in_below": 0.8}, "scale_in_below must be below scale_out_above"),
        ({"decode": {"min_replicas": 3, "max_replicas": 2}}, "min_replicas must not be above max_replicas"),
        ({"interval_s": 40}, "window_s must be at least 2 \\* interval_s"),
        ({"prefill": {"min_replicas": 0}}, "greater than or equal to 1"),
    ],
)
def test_pools_that_would_flap_or_have_no_size_are_refused(rules: dict[str, object], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        load(flags={"autoscale": rules}, environ={})
