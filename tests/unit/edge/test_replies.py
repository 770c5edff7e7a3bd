import orjson
import pytest

from router.edge import replies
from router.errors import (
    BadAnswer,
    EngineRefusal,
    EngineTimeout,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
    RequestError,
    TooLarge,
    Unavailable,
    UnknownModel,
    UnsupportedMedia,
)

ERRORS: list[RequestError] = [
    InvalidRequest("model must be a non-empty string", param="model"),
    UnknownModel("no such model", param="model"),
    NotFound("GET /x is not served here"),
    MethodNotAllowed("POST only"),
    UnsupportedMedia("JSON only"),
    TooLarge("too large"),
    Unavailable("no decode engine is free"),
    BadAnswer("10.0.0.1:8200: an empty stream"),
    EngineTimeout("10.0.0.1:8200: no answer in time"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_every_error_has_the_shape_that_sdks_read(error: RequestError) -> None:
    told = orjson.loads(replies.error_body(error))
    assert told.keys() == {"error"}
    assert told["error"].keys() == {"message", "type", "param", "code"}
    assert told["error"]["message"] == error.message


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_no_error_names_an_engine(error: RequestError) -> None:
    assert b"10.0.0.1" not in replies.error_body(error)


def test_a_refusal_is_told_in_the_engines_words() -> None:
    body = b'{"error":{"message":"max_tokens must be at least 1","code":400}}'
    assert replies.error_body(EngineRefusal(400, body)) == body


def test_an_offending_field_is_named() -> None:
    told = orjson.loads(replies.error_body(InvalidRequest("no", param="stream")))
    assert told["error"]["param"] == "stream"


def test_retry_after_is_a_whole_number_where_waiting_helps() -> None:
    assert replies.error_headers(Unavailable("busy", retry_after_s=3)) == ((b"retry-after", b"3"),)
    assert replies.error_headers(InvalidRequest("no")) == ()


def test_a_broken_stream_ends_with_one_error_event_and_done() -> None:
    events = replies.error_events(BadAnswer("cut")).split(b"\n\n")
    assert [event[:14] for event in events] == [b'data: {"error"', b"data: [DONE]", b""]


def test_an_engines_refusal_in_a_stream_is_one_event() -> None:
    events = replies.error_events(EngineRefusal(400, b'{"error":\n\n{}}'))
    assert events == b'data: {"error":  {}}\n\ndata: [DONE]\n\n'


def test_a_head_has_the_type_and_the_id_and_nothing_of_an_engine() -> None:
    head = replies.headers(b"text/event-stream", "id-1", replies.STREAM_HEADERS)
    assert dict(head) == {
        b"content-type": b"text/event-stream",
        b"x-request-id": b"id-1",
        b"cache-control": b"no-cache",
        b"x-accel-buffering": b"no",
    }


def test_a_streams_head_travels_as_it_is_told() -> None:
    told = replies.headers(b"text/event-stream", "id-1", replies.STREAM_HEADERS)
    lines = replies.stream_lines(b"text/event-stream", "id-1")
    assert sorted(lines.splitlines()) == sorted(replies.header_lines(told).splitlines())
