"""What clients get to read: the only place where error JSON is made and where response headers are set."""

from collections.abc import Sequence
from typing import Any

import orjson

from router.errors import EngineFault, EngineRefusal, RequestError, Unavailable, WrongKey

Headers = Sequence[tuple[bytes, bytes]]

STREAM_HEADERS: Headers = ((b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no"))
"""Keep caches and buffering proxies from holding a stream back."""


CLOSE: Headers = ((b"connection", b"close"),)


def headers(content_type: bytes, request_id: str, more: Headers = ()) -> Headers:
    """The headers of a response: these and no others."""
    return ((b"content-type", content_type), (b"x-request-id", request_id.encode()), *more)


def length(body: bytes) -> Headers:
    """How long a body is."""
    return ((b"content-length", b"%d" % len(body)),)


def header_lines(headers: Headers) -> bytes:
    """Headers as they travel."""
    return b"".join([b"%b: %b\r\n" % header for header in headers])


STREAM_LINES = header_lines(STREAM_HEADERS)


def stream_lines(content_type: bytes, request_id: str) -> bytes:
    """The headers of a stream as they travel."""
    return b"content-type: %b\r\nx-request-id: %b\r\n%b" % (content_type, request_id.encode(), STREAM_LINES)


def start_message(status: int, headers: Headers) -> dict[str, Any]:
    """The ASGI message that starts a response."""
    return {"type": "http.response.start", "status": status, "headers": list(headers)}


def error_object(error: RequestError) -> dict[str, Any]:
    """An error in the OpenAI shape."""
    return {"error": {"message": error.message, "type": error.type, "param": error.param, "code": error.code}}


def error_body(error: RequestError) -> bytes:
    """The JSON that tells an error; an engine's refusal in the engine's own words."""
    return error.body if isinstance(error, EngineRefusal) else orjson.dumps(error_object(error))


def error_headers(error: RequestError) -> Headers:
    """When to come back, where that is known, whether trying again at once is of any use, and what key is asked for."""
    if isinstance(error, Unavailable):
        return ((b"retry-after", str(error.retry_after_s).encode()),)
    if isinstance(error, EngineFault) and error.tries_used_up:
        return ((b"x-should-retry", b"false"),)
    if isinstance(error, WrongKey):
        return ((b"www-authenticate", b"Bearer"),)
    return ()


def error_events(error: RequestError) -> bytes:
    """The end of a stream that failed after its start: one error event, then `[DONE]`."""
    return b"data: " + b" ".join(error_body(error).split(b"\n")) + b"\n\ndata: [DONE]\n\n"
