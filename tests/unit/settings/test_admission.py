import pytest
from pydantic import ValidationError

from router.settings.admission import Admission


def test_without_limits_nobody_waits() -> None:
    assert Admission(decode_permits=0, prefill_permits=0, queue_size=0).queue_size == 0


@pytest.mark.parametrize("rules", [{"decode_permits": -1}, {"prefill_permit_tokens": 0}, {"queue_timeout_s": 0}])
def test_less_than_nothing_is_refused(rules: dict[str, int]) -> None:
    with pytest.raises(ValidationError, match="greater than"):
        Admission.model_validate(rules)
