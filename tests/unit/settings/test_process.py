import pytest
from pydantic import ValidationError

from router.settings.process import Drain, Process


def test_a_gateway_without_a_balancer_may_stop_accepting_at_once() -> None:
    assert Drain(drain_accept_s=0).drain_accept_s == 0
    with pytest.raises(ValidationError, match="less than or equal to 3600"):
        Drain(drain_accept_s=3601)


def test_other_event_loops_are_refused() -> None:
    with pytest.raises(ValidationError, match="'uvloop' or 'asyncio'"):
        Process.model_validate({"loop": "trio"})
