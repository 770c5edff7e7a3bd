"""The few places where an answer differs from what the decode engine said.

A decode engine that pulled its prompt reports all of it as cached; what was really saved is what the prefill engine
had cached, so its figure replaces decode's. `kv_transfer_params` is between the engines. Streams are asked for their
usage, which is noted; clients that did not ask for it do not get it.
"""

from typing import Any

import orjson

from router.errors import BadAnswer
from router.telemetry.events import Journey
from router.usage import Usage

USAGE = b'"usage":{'

INTERNAL_FIELDS = ("kv_transfer_params", "ec_transfer_params")


def answer(body: bytes, journey: Journey) -> bytes:
    """A complete JSON answer as the client gets it. Raises `BadAnswer` when it is not one."""
    try:
        content = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise BadAnswer("the answer is not JSON") from None
    if not isinstance(content, dict) or not isinstance(content.get("choices"), list):
        raise BadAnswer("the answer has no choices")
    for name in INTERNAL_FIELDS:
        content.pop(name, None)
    _note_usage(content, journey)
    return _written(content)


def event(data: bytes, journey: Journey, *, shows_usage: bool) -> bytes:
    """A stream's event as the client gets it, empty for none; only one with a usage is opened.

    Raises `BadAnswer` when that one is not JSON, or none that can be passed on.
    """
    if USAGE not in data or not data.startswith(b"data: {"):
        return data
    try:
        content = orjson.loads(data[len(b"data: ") :])
    except orjson.JSONDecodeError:
        raise BadAnswer("an event is not JSON") from None
    _note_usage(content, journey)
    if not shows_usage and not content.get("choices"):
        return b""
    return b"data: " + _written(content)


def _written(content: dict[str, Any]) -> bytes:
    try:
        return orjson.dumps(content)
    except orjson.JSONEncodeError:  # nested more deeply than can be written
        raise BadAnswer("the answer cannot be passed on") from None


def _note_usage(content: dict[str, Any], journey: Journey) -> None:
    usage = Usage.of(content)
    if usage is None:
        return
    journey.usage = usage
    computed = journey.prefill_usage
    if computed and computed.cached_tokens is not None and usage.cached_tokens is not None:
        content["usage"]["prompt_tokens_details"]["cached_tokens"] = computed.cached_tokens
