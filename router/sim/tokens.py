"""Which tokens is a prompt made of?

A token is four bytes of UTF-8, so that tokenising is a copy and four bytes per token is about what real tokenisers
need for English. Every segment (a message's header, its text, its end) is padded to whole tokens: the tokens of a
generated answer stay the same when a client sends it back as a message, which lets a continuation hit the prefix cache.
"""

import struct
from collections.abc import Iterable, Sequence
from typing import Any

import orjson

TOKEN_BYTES = 4
TOKEN_LIMIT = 1 << 8 * TOKEN_BYTES
END_OF_TURN = b"<|end|>\n"


def encode(text: str) -> bytes:
    """The tokens of `text`: four bytes each, the last one padded with NULs."""
    data = text.encode("utf-8", "surrogatepass")
    return data + bytes(-len(data) % TOKEN_BYTES)


def decode(tokens: bytes) -> str:
    """The text of `tokens`, without padding."""
    return tokens.replace(b"\0", b"").decode("utf-8", "replace")


def count(tokens: bytes) -> int:
    """How many tokens these bytes are."""
    return len(tokens) // TOKEN_BYTES


def from_ids(ids: Sequence[int]) -> bytes:
    """Tokens given by number, each at least 0 and below `TOKEN_LIMIT`."""
    return struct.pack(f">{len(ids)}I", *ids)


def to_ids(tokens: bytes) -> list[int]:
    """The numbers of tokens."""
    return list(struct.unpack(f">{count(tokens)}I", tokens))


def from_messages(messages: Iterable[dict[str, Any]], tools: object = None) -> bytes:
    """A conversation under the chat template, ending where the assistant's answer begins."""
    turns = [_header("tools") + encode(_json(tools)) + END_OF_TURN] if tools else []
    turns += [_header(str(message.get("role"))) + encode(_message_text(message)) + END_OF_TURN for message in messages]
    return b"".join(turns) + _header("assistant")


def _header(role: str) -> bytes:
    return encode(f"<|{role}|>\n")


def _message_text(message: dict[str, Any]) -> str:
    content = message.get("content")
    text = content if isinstance(content, str) else "".join(_part_text(part) for part in content or ())
    calls = message.get("tool_calls")
    return text + _json(calls) if calls else text


def _part_text(part: object) -> str:
    if isinstance(part, dict) and part.get("type") == "text":
        return str(part.get("text", ""))
    return part if isinstance(part, str) else _json(part)


def _json(value: object) -> str:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()
