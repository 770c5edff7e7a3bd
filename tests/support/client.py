"""A client that sees every byte, and judges: is this answer right, or did it say that it failed? Nothing else may be.

The worst that a gateway can do is to pass a failure off as success: a text that is wrong, or one that just ends.
"""

from enum import StrEnum
from typing import Any

import orjson

from router.bench.client import Asker, Reply, ask, asker, request
from router.call import Api
from router.sim.text import reference_text

__all__ = ["Asker", "Reply", "Verdict", "ask", "asker", "judge", "request"]


class WrongText(AssertionError):
    """An answer that looks right and is not."""


class Verdict(StrEnum):
    """What a client may conclude from an answer."""

    RIGHT = "right"
    REFUSED = "refused"
    """A JSON error instead of an answer."""
    BROKEN_OFF = "broken_off"
    """The beginning of the right text, then an error event and `[DONE]`."""


def judge(reply: Reply, body: dict[str, Any], api: Api = Api.CHAT) -> Verdict:
    """What a client may conclude; fails when that would be wrong. Text is that of the only choice."""
    assert reply.complete, f"silently cut off after {len(reply.body)} bytes of status {reply.status}"
    kind = reply.headers.get("content-type", "").partition(";")[0]
    if reply.status != 200:
        assert kind == "application/json", kind
        assert _json(reply.body)["error"]["message"]
        return Verdict.REFUSED
    right = reference_text(body["model"], "chat" if api is Api.CHAT else "completions", body)
    if not body.get("stream"):
        assert kind == "application/json", kind
        (choice,) = _json(reply.body)["choices"]
        _compare(_text(choice), right.text)
        assert choice["finish_reason"] == right.finish_reason
        return Verdict.RIGHT
    assert kind == "text/event-stream", kind
    return _judge_stream(bytes(reply.body), right.text, right.finish_reason)


def _judge_stream(data: bytes, right: str, finish_reason: str) -> Verdict:
    *events, done, rest = data.split(b"\n\n")
    assert (done, rest) == (b"data: [DONE]", b""), f"a stream that ends with {data[-60:]!r}"
    contents = [_json(event.removeprefix(b"data: ")) for event in events]
    errors = [number for number, content in enumerate(contents) if "error" in content]
    assert errors in ([], [len(contents) - 1]), f"error events {errors} of {len(contents)}"
    choices = [choice for content in contents for choice in content.get("choices", ())]
    text = "".join(map(_text, choices))
    if errors:
        _compare(text, right[: len(text)])
        return Verdict.BROKEN_OFF
    _compare(text, right)
    assert choices[-1]["finish_reason"] == finish_reason
    return Verdict.RIGHT


def _json(data: bytes | bytearray) -> Any:
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        raise AssertionError(f"passed on as JSON: {bytes(data[:60])!r}") from None


def _compare(text: str, right: str) -> None:
    if text != right:
        raise WrongText(f"{text!r} instead of {right!r}")


def _text(choice: dict[str, Any]) -> str:
    if "text" in choice:
        return str(choice["text"])
    return str((choice["delta"] if "delta" in choice else choice["message"])["content"])
