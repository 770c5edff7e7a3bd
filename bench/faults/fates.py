"""What may a client conclude from an answer, whichever router it came through?

Each request ends in one of these. What a router promises beyond that, such as the form of its errors, is not asked.
"""

from collections.abc import Iterator
from enum import StrEnum
from typing import Any

import orjson

from router.bench.client import Reply
from router.sim.text import reference_text

DONE = b"[DONE]"


class Fate(StrEnum):
    """How a request ended, as its client sees it."""

    RIGHT = "right"
    REFUSED = "refused"
    """An error status."""
    BROKEN_OFF = "broken_off"
    """Status 200, then an error event; any text before it is the beginning of the right one."""
    CUT = "cut"
    """The connection ended before the answer did; nothing says why."""
    UNANSWERED = "unanswered"
    """No end of an answer within the client's patience."""
    DISGUISED = "disguised"
    """A whole answer with status 200 and no error in it, which is none: empty, not JSON, or without its end."""
    WRONG = "wrong"
    """A whole answer with another text than the right one."""
    LEFT = "left"
    """The client left, as the scenario wants it."""


def fate(reply: Reply, body: dict[str, Any]) -> Fate:
    """How a streamed chat ended. Raises nothing: whatever cannot be read is `DISGUISED`."""
    if not reply.complete:
        return Fate.CUT
    if reply.status >= 400:
        return Fate.REFUSED
    try:
        return _of_events(list(_events(bytes(reply.body))), body)
    except (orjson.JSONDecodeError, LookupError, TypeError, AttributeError):
        return Fate.DISGUISED


def _events(data: bytes) -> Iterator[bytes]:
    """The data of each event; comments are none."""
    for event in data.replace(b"\r\n", b"\n").split(b"\n\n"):
        lines = [line.removeprefix(b"data:").strip() for line in event.split(b"\n") if line.startswith(b"data:")]
        if lines:
            yield b"\n".join(lines)


def _of_events(events: list[bytes], body: dict[str, Any]) -> Fate:
    contents = [orjson.loads(event) for event in events if event != DONE]
    right = reference_text(body["model"], "chat", body)
    text, finish_reason = "", None
    for content in contents:
        if "error" in content:
            return Fate.BROKEN_OFF if right.text.startswith(text) else Fate.WRONG
        for choice in content["choices"]:
            text += choice["delta"].get("content") or ""
            finish_reason = choice.get("finish_reason") or finish_reason
    if DONE not in events[-1:] or finish_reason != right.finish_reason:
        return Fate.DISGUISED
    return Fate.RIGHT if text == right.text else Fate.WRONG
