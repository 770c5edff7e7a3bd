import pytest
from pydantic import ValidationError

from router.settings.exchange import HandoffSettings, Retries, Timeouts


def test_no_step_of_a_request_may_take_longer_than_all_of_it() -> None:
    timeouts = Timeouts()
    steps_s = (timeouts.prefill_timeout_s, timeouts.first_event_timeout_s, timeouts.stream_idle_s)
    assert timeouts.connect_s < min(steps_s)
    assert max(steps_s) < timeouts.total_s


def test_how_old_a_hand_over_may_be_is_told_by_the_engines_lease() -> None:
    assert HandoffSettings().handoff_max_age_s is None


@pytest.mark.parametrize("rules", [{"prefill_tries": 0}, {"decode_tries": 0}, {"share": 1.5}, {"reserve": -1}])
def test_requests_are_tried_at_least_once_and_retried_at_most_as_often_as_there_are(rules: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match="or equal to"):
        Retries.model_validate(rules)
