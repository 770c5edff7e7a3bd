import orjson
import pytest

from router.errors import BadAnswer, EngineError, EngineRefusal
from router.exchange import judge

REFUSAL = b'{"error":{"message":"The model `nope` does not exist.","type":"NotFoundError","param":"model","code":404}}'


@pytest.mark.parametrize("status", [400, 404, 413, 422, 429])
def test_a_4xx_is_the_engines_refusal_in_its_own_words(status: int) -> None:
    fault = judge.fault_of_status(status, "d:1", REFUSAL)
    assert isinstance(fault, EngineRefusal)
    assert (fault.status, orjson.loads(fault.body)) == (status, orjson.loads(REFUSAL))


@pytest.mark.parametrize("body", [b"", b"<html>10.0.0.1</html>", b"[]", b'{"detail":"10.0.0.1"}', b'{"error":"text"}'])
def test_a_refusal_in_another_shape_says_no_more_than_its_status(body: bytes) -> None:
    fault = judge.fault_of_status(400, "d:1", body)
    assert isinstance(fault, EngineRefusal)
    assert b"10.0.0.1" not in fault.body
    assert orjson.loads(fault.body)["error"]["code"] == 400


def test_only_the_error_of_a_refusal_is_passed_on() -> None:
    fault = judge.fault_of_status(400, "d:1", b'{"error":{"message":"no"},"backend":"10.0.0.1"}')
    assert isinstance(fault, EngineRefusal)
    assert fault.body == b'{"error":{"message":"no"}}'


@pytest.mark.parametrize("status", [500, 502, 503, 401, 403, 407])
def test_5xx_and_a_refused_key_are_the_engines_fault(status: int) -> None:
    assert isinstance(judge.fault_of_status(status, "d:1", REFUSAL), EngineError)


@pytest.mark.parametrize("status", [201, 204, 301, 302, 307])
def test_other_statuses_are_no_answer(status: int) -> None:
    assert isinstance(judge.fault_of_status(status, "d:1", b""), BadAnswer)


@pytest.mark.parametrize("kind", [b"text/event-stream", b"text/event-stream; charset=utf-8", b"Text/Event-Stream"])
def test_the_content_type_that_was_asked_for_passes(kind: bytes) -> None:
    judge.check_head({b"content-type": kind}, judge.EVENT_STREAM, "d:1")


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {b"content-type": b"application/json"},
        {b"content-type": b"text/html"},
        {b"content-type": b"text/event-stream", b"content-encoding": b"gzip"},
    ],
)
def test_anything_else_is_no_answer(headers: dict[bytes, bytes]) -> None:
    with pytest.raises(BadAnswer):
        judge.check_head(headers, judge.EVENT_STREAM, "d:1")
