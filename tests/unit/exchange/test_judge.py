import orjson
import pytest

from router.errors import BadAnswer, EngineError, EngineRefusal, ErrorEvent
from router.exchange.judge import EVENT_STREAM, JSON, check_event, check_head, fault_of_status


@pytest.mark.parametrize("status", [400, 404, 413, 422, 429])
def test_an_engines_refusal_is_the_answer(status: int) -> None:
    fault = fault_of_status(status, "e:1", b'{"error":{"message":"too long","code":400},"internal":"x"}')
    assert isinstance(fault, EngineRefusal)
    assert fault.status == status
    assert orjson.loads(fault.body) == {"error": {"message": "too long", "code": 400}}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>e:1</html>",
        b"[]",
        b'{"detail":"e:1"}',
        b'{"error":"e:1"}',
        b"\xff",
        b'{"error":{"message":"e:1","param":%b%b}}' % (b"[" * 300, b"]" * 300),
    ],
)
def test_a_refusal_in_another_form_says_no_more_than_its_status(body: bytes) -> None:
    fault = fault_of_status(422, "e:1", body)
    assert isinstance(fault, EngineRefusal)
    assert b"e:1" not in fault.body
    assert orjson.loads(fault.body)["error"]["code"] == 422


@pytest.mark.parametrize("status", [401, 403, 407, 500, 502, 503, 504])
def test_what_the_client_cannot_help_is_the_engines_failure(status: int) -> None:
    fault = fault_of_status(status, "e:1", b'{"error":{"message":"bad key sk-1"}}')
    assert isinstance(fault, EngineError)
    assert (fault.status, fault.message) == (502, "the engine failed to answer this request")


@pytest.mark.parametrize("status", [201, 204, 206, 301, 302, 304, 307])
def test_any_other_status_is_a_bad_answer(status: int) -> None:
    assert isinstance(fault_of_status(status, "e:1", b""), BadAnswer)


@pytest.mark.parametrize("kind", [b"application/json", b"application/json; charset=utf-8", b"Application/JSON ;x=y"])
@pytest.mark.parametrize("encoding", [{}, {b"content-encoding": b"identity"}, {b"content-encoding": b"Identity"}])
def test_a_good_head(kind: bytes, encoding: dict[bytes, bytes]) -> None:
    check_head({b"content-type": kind} | encoding, JSON, "e:1")


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {b"content-type": b""},
        {b"content-type": b"application/json"},
        {b"content-type": b"text/event-streams"},
        {b"content-type": b"text/html\xff"},
        {b"content-type": EVENT_STREAM, b"content-encoding": b"gzip"},
        {b"content-type": EVENT_STREAM, b"content-encoding": b"identity, br"},
    ],
)
def test_a_head_that_was_not_asked_for(headers: dict[bytes, bytes]) -> None:
    with pytest.raises(BadAnswer):
        check_head(headers, EVENT_STREAM, "e:1")


@pytest.mark.parametrize(
    "event", [b'data: {"a":1}', b'data:{"a":\ndata: 1}', b"event: x\ndata: 1", b"id: 7", b"retry: 3"]
)
def test_an_events_data_is_json_if_there_is_any(event: bytes) -> None:
    check_event(event)


@pytest.mark.parametrize(
    "event",
    [
        b"event: error",
        b"event:error\ndata: not json",
        b'id: 1\nevent: error\ndata: {"a":1}',
        b'data: { "error" : {}}',
        b'data:{"id":1,\ndata:"error":"no"}',
        b'data: {"object":"error"}',
    ],
)
def test_an_event_may_be_an_error(event: bytes) -> None:
    with pytest.raises(ErrorEvent):
        check_event(event)


@pytest.mark.parametrize(
    "event",
    [b"event: errors", b'data: {"a":{"error":1}}', b'data: {"error":null}', b'data: "error"', b'data: {"object":"x"}'],
)
def test_what_only_speaks_of_errors_is_none(event: bytes) -> None:
    check_event(event)


@pytest.mark.parametrize("event", [b"data: {not json", b"data:", b"data: <html>", b'id: 7\ndata: {"a":'])
def test_an_event_that_is_not_json_is_no_answer(event: bytes) -> None:
    with pytest.raises(BadAnswer) as caught:
        check_event(event)
    assert caught.value.detail == "an event is not JSON"
