from typing import Any

from router.call import Trace
from router.exchange.head import post, question
from router.fleet.backend import Backend
from router.settings.engines import BackendSettings, Role
from router.settings.fleet import Probes

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def backend(key: str | None = None, **settings: Any) -> Backend:
    """An engine."""
    return Backend(BackendSettings(url="http://engine:8000", role=Role.DECODE, **settings), Probes(), now=0, key=key)


def test_an_engine_gets_these_headers_and_no_other() -> None:
    assert post(backend(), "/v1/completions", 17, Trace("id-1")) == (
        b"POST /v1/completions HTTP/1.1\r\n"
        b"host: engine:8000\r\n"
        b"content-type: application/json\r\n"
        b"accept: */*\r\n"
        b"accept-encoding: identity\r\n"
        b"x-request-id: id-1\r\n"
        b"content-length: 17\r\n"
        b"\r\n"
    )


def test_its_own_key_and_a_trace_are_added_where_there_are_any() -> None:
    lines = post(backend("sk-1"), "/v1/completions", 17, Trace("id-1", TRACEPARENT)).split(b"\r\n")
    assert lines[-4:] == [b"authorization: Bearer sk-1", f"traceparent: {TRACEPARENT}".encode(), b"", b""]


def test_an_engine_whose_events_are_followed_names_the_request_in_them() -> None:
    head = post(backend(kv_events={"endpoint": "tcp://engine:5557"}), "/v1/completions", 17, Trace("id-1"))
    assert b"\r\nx-session-id: id-1\r\n" in head


def test_a_question_without_content_is_bare() -> None:
    assert question(backend(), "/metrics", 0) == (
        b"GET /metrics HTTP/1.1\r\nhost: engine:8000\r\naccept: */*\r\naccept-encoding: identity\r\n\r\n"
    )
    assert question(backend("sk-1"), "/health", 0).endswith(b"\r\nauthorization: Bearer sk-1\r\n\r\n")


def test_a_question_with_content_is_json() -> None:
    assert question(backend("sk-1"), "/v1/completions", 17) == (
        b"POST /v1/completions HTTP/1.1\r\n"
        b"host: engine:8000\r\n"
        b"accept: */*\r\n"
        b"accept-encoding: identity\r\n"
        b"authorization: Bearer sk-1\r\n"
        b"content-type: application/json\r\n"
        b"content-length: 17\r\n"
        b"\r\n"
    )
