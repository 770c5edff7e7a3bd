import inspect
import re

import pytest

from router import errors
from router.errors import (
    BadHandoff,
    ClientFault,
    ClientGone,
    EngineFault,
    EngineRefusal,
    EngineTimeout,
    InvalidRequest,
    Outcome,
    RequestError,
    Unavailable,
)

KINDS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, RequestError)]
ENGINE_FAULTS = [kind for kind in KINDS if issubclass(kind, EngineFault)]


@pytest.mark.parametrize(
    ("name", "status", "outcome"),
    [
        ("InvalidRequest", 400, "client_error"),
        ("UnknownModel", 404, "client_error"),
        ("NotFound", 404, "client_error"),
        ("MethodNotAllowed", 405, "client_error"),
        ("UnsupportedMedia", 415, "client_error"),
        ("TooLarge", 413, "client_error"),
        ("Unavailable", 503, "rejected"),
        ("EngineFault", 502, "upstream_error"),
        ("ConnectFailed", 502, "upstream_error"),
        ("ConnectionLost", 502, "upstream_error"),
        ("EngineTimeout", 504, "timeout"),
        ("EngineError", 502, "upstream_error"),
        ("BadAnswer", 502, "upstream_error"),
        ("BadHandoff", 502, "upstream_error"),
        ("ClientGone", 499, "client_gone"),
        ("InternalFault", 500, "internal_error"),
    ],
)
def test_a_kind_decides_status_and_blame(name: str, status: int, outcome: str) -> None:
    kind = getattr(errors, name)
    assert (kind.status, kind.outcome) == (status, outcome)


def test_every_kind_is_drawn_in_the_tree() -> None:
    drawn = errors.__doc__ or ""
    assert [kind.__name__ for kind in KINDS if not re.search(rf"^ +{kind.__name__}\b", drawn, re.MULTILINE)] == []


def test_a_client_is_never_told_what_only_the_log_may_know() -> None:
    for kind in ENGINE_FAULTS:
        fault = kind("10.0.0.7:8000: connection lost")
        assert (fault.detail, "10.0.0.7" in fault.message) == ("10.0.0.7:8000: connection lost", False)


def test_each_engine_fault_is_counted_under_a_name_of_its_own() -> None:
    assert len({kind.reason for kind in ENGINE_FAULTS}) == len(ENGINE_FAULTS)


def test_a_timeout_says_so() -> None:
    assert "in time" in EngineTimeout("x").message


def test_a_fault_of_the_client_names_the_field() -> None:
    error = InvalidRequest("model must be a non-empty string", param="model")
    assert (error.param, error.message, str(error)) == ("model", "model must be a non-empty string", error.message)


def test_a_refusal_carries_the_status_and_body_of_the_engine() -> None:
    refusal = EngineRefusal(422, b'{"error":{}}')
    assert (refusal.status, refusal.body, refusal.outcome) == (422, b'{"error":{}}', Outcome.CLIENT_ERROR)
    assert not isinstance(refusal, EngineFault | ClientFault)


def test_an_engine_without_room_is_told_from_one_that_is_broken() -> None:
    assert [errors.EngineError("x", status).overloaded for status in (503, 500)] == [True, False]


def test_nothing_available_says_why_and_when_to_come_back() -> None:
    error = Unavailable("no decode engine is free", code="decode_saturated", retry_after_s=3)
    assert (error.code, error.retry_after_s, error.type) == ("decode_saturated", 3, "service_unavailable")
    assert Unavailable("later").retry_after_s == 1


def test_a_bad_handoff_may_be_retried_by_whoever_catches_engine_faults() -> None:
    with pytest.raises(EngineFault):
        raise BadHandoff("used twice")


def test_a_client_that_left_is_nobodys_fault() -> None:
    assert not isinstance(ClientGone(), ClientFault | EngineFault)
