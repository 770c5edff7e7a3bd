"""Is this answer what was asked for? Status, headers and first event, judged before a client hears of them.

An error passed on as a success is the worst of failures: the client cannot retry what it believes. So a 200 must have
the content type that was asked for, a body, and, in a stream, a first event that is the engine's work.
"""

from collections.abc import Mapping
from contextlib import suppress

import orjson

from router.errors import BadAnswer, EngineError, EngineFault, EngineRefusal, ErrorEvent

EVENT_STREAM = b"text/event-stream"
JSON = b"application/json"

GATEWAYS_OWN_FAULT = (401, 403, 407)
"""An engine that refuses the gateway's key, not the client's request."""


def fault_of_status(status: int, engine: str, body: bytes) -> EngineFault | EngineRefusal:
    """What a status other than 200 means."""
    if 400 <= status < 500 and status not in GATEWAYS_OWN_FAULT:
        return EngineRefusal(status, _error_object(status, body))
    if status >= 500 or status in GATEWAYS_OWN_FAULT:
        return EngineError(f"{engine} answered {status}", status)
    return BadAnswer(f"{engine} answered {status}, which is neither success nor refusal")


def check_head(headers: Mapping[bytes, bytes], wanted: bytes, engine: str) -> None:
    """A 200's headers. Raises `BadAnswer`."""
    kind = headers.get(b"content-type", b"")
    if kind != wanted and (kind := kind.split(b";")[0].strip().lower()) != wanted:
        raise BadAnswer(f"{engine} answered {kind.decode('latin-1') or 'no content type'} instead of {wanted.decode()}")
    encoding = headers.get(b"content-encoding")
    if encoding is not None and encoding.lower() != b"identity":
        raise BadAnswer(f"{engine} answered in an encoding that was not asked for")


def check_event(event: bytes) -> None:
    """What an event of a stream carries. Raises `ErrorEvent`, or `BadAnswer` when that is not JSON."""
    lines = event.split(b"\n")
    if b"event: error" in lines or b"event:error" in lines:
        raise ErrorEvent("an error event")
    data = [line.removeprefix(b"data:") for line in lines if line.startswith(b"data:")]
    try:
        content = orjson.loads(b"\n".join(data)) if data else None
    except orjson.JSONDecodeError:
        raise BadAnswer("an event is not JSON") from None
    if isinstance(content, dict) and (content.get("error") is not None or content.get("object") == "error"):
        raise ErrorEvent("an error event")


def _error_object(status: int, body: bytes) -> bytes:
    """The engine's error, if it has the OpenAI shape; otherwise one that says no more than the status."""
    try:
        content = orjson.loads(body)
    except orjson.JSONDecodeError:
        content = None
    if isinstance(content, dict) and isinstance(content.get("error"), dict):
        with suppress(orjson.JSONEncodeError):  # nested more deeply than can be written
            return orjson.dumps({"error": content["error"]})
    error = {
        "message": "the engine refused this request",
        "type": "invalid_request_error",
        "param": None,
        "code": status,
    }
    return orjson.dumps({"error": error})
