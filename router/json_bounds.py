"""How much structure may a JSON document have, and is it within that before parsing it costs anything?

Parsing costs by values, not by bytes: 8 MiB of `[[]],` stop the loop for seconds, in a thread no less, as the parser
keeps the interpreter's lock. So values are bounded from the bytes, by tests that get dearer as they get sharper:

    length            a value and its separator take two bytes, so that most documents are done
    commas, brackets  every value but the first follows a comma or opens its container; strings may hold more of both
    structure         the same without strings: exact

Nesting is looked at in what was parsed, for the parser has a bound of its own (1,024 levels), and only where the bytes
have more brackets than a document within the bound must have.
"""

from dataclasses import dataclass
from typing import Any

import orjson

from router.errors import InvalidRequest, TooLarge

CONTAINERS = frozenset((dict, list))

NO_BEGINNING = bytes(set(range(256)) - set(b",[{"))
"""Every byte but those after which a value begins."""

QUOTES_PER_VALUE = 4
"""A value is at most a string with a key."""


@dataclass(frozen=True, slots=True)
class JsonBounds:
    """The most levels and values that a document may have. A scalar has no level; keys are no values."""

    max_depth: int = 64
    max_values: int = 150_000


def loads(raw: bytes, bounds: JsonBounds) -> Any:  # noqa: ANN401 - any JSON value
    """Parse `raw`. Raises `InvalidRequest` for what is no JSON or nested too deeply, `TooLarge` for too many values."""
    is_shallow = _brackets(raw, bounds.max_depth) <= bounds.max_depth
    if _may_exceed(raw, bounds.max_values) and count_values(raw, bounds.max_values) > bounds.max_values:
        raise TooLarge(f"the body must not have more than {bounds.max_values} JSON values")
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"the body is not valid JSON: {error}") from None
    if not is_shallow and is_deeper(value, bounds.max_depth):
        raise InvalidRequest(f"the body is nested too deeply: more than {bounds.max_depth} levels")
    return value


def _brackets(raw: bytes, limit: int) -> int:
    """How many opening brackets there are, strings included; counts a little beyond `limit` at most.

    Hops from one to the next: over text a search runs 30 times as fast as a count.
    """
    found = 0
    for bracket in (b"[", b"{"):
        at = raw.find(bracket)
        while at >= 0 and found <= limit:
            found += 1
            at = raw.find(bracket, at + 1)
    return found


def _may_exceed(raw: bytes, max_values: int) -> bool:
    """Whether there may be too many values, as far as it can be told without looking for strings."""
    return len(raw) > 2 * max_values and 1 + len(raw.translate(None, NO_BEGINNING)) > max_values


def count_values(raw: bytes, limit: int) -> int:
    """The number of values of a JSON text, exact up to `limit`; otherwise no less than in its valid beginning.

    Escaped backslashes go first, then escaped quotes; what is left between the quotes in turn is structure and strings.
    """
    text = raw.replace(rb"\\", b"").replace(rb"\"", b"") if b"\\" in raw else raw
    if text.count(b'"') > QUOTES_PER_VALUE * limit:
        return limit + 1
    structure = b'"'.join(text.split(b'"')[::2]).translate(None, b" \t\r\n")
    separators, openings = structure.count(b","), structure.count(b"[") + structure.count(b"{")
    if max(separators, openings) > limit:
        return limit + 1
    return 1 + separators + openings - structure.count(b"[]") - structure.count(b"{}")


def is_deeper(value: Any, max_depth: int) -> bool:  # noqa: ANN401 - any JSON value
    """Whether containers are nested more than `max_depth` levels."""
    level = [value] if type(value) in CONTAINERS else []
    for _ in range(max_depth):
        level = [
            child
            for container in level
            for child in (container.values() if type(container) is dict else container)
            if type(child) in CONTAINERS
        ]
        if not level:
            return False
    return bool(level)
