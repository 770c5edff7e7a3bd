"""The few places where an answer differs from what the decode engine said.

A decode engine that pulled its prompt reports all of it as cached; what was really saved is what the prefill engine
had cached, so its figure replaces decode's. `kv_transfer_params` is between the engines.
"""

from typing import Any

import orjson

from router.errors import BadAnswer

USAGE = b'"usage":{'

INTERNAL_FIELDS = ("kv_transfer_params", "ec_transfer_params")


def answer(body: bytes, prefill_cached_tokens: int | None) -> bytes:
    """A complete JSON answer as the client gets it. Raises `BadAnswer` when it is not one."""
    try:
        content = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise BadAnswer("the answer is not JSON") from None
    if not isinstance(content, dict) or not isinstance(content.get("choices"), list):
        raise BadAnswer("the answer has no choices")
    for name in INTERNAL_FIELDS:
        content.pop(name, None)
    _tell_cached(content, prefill_cached_tokens)
    try:
        return orjson.dumps(content)
    except orjson.JSONEncodeError:  # nested more deeply than can be written
        raise BadAnswer("the answer cannot be passed on") from None


def event(data: bytes, prefill_cached_tokens: int | None) -> bytes:
    """A stream's event as the client gets it; only the one with the usage is opened, and only where figures differ.

    Raises `BadAnswer` when that one is not JSON.
    """
    if prefill_cached_tokens is None or USAGE not in data or not data.startswith(b"data: {"):
        return data
    try:
        content = orjson.loads(data[len(b"data: ") :])
    except orjson.JSONDecodeError:
        raise BadAnswer("an event is not JSON") from None
    _tell_cached(content, prefill_cached_tokens)
    return b"data: " + orjson.dumps(content)


def _tell_cached(content: dict[str, Any], prefill_cached_tokens: int | None) -> None:
    usage = content.get("usage")
    details = usage.get("prompt_tokens_details") if isinstance(usage, dict) else None
    if prefill_cached_tokens is not None and isinstance(details, dict) and "cached_tokens" in details:
        details["cached_tokens"] = prefill_cached_tokens
