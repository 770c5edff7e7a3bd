"""Which prompts begin alike? A prompt as a chain of hashes over blocks of its bytes, in the order of chat templates.

What a template puts first comes first: its own switches, tools, then message after message. So turn n + 1 of a chat
has all full blocks of turn n, and equal text in another place has others. The bytes are those of the decoded text, not
of its JSON: how a client escapes, orders keys or sends nulls does not matter. Long parts that are no text, such as
images, are in it by their digest; tool calls are text.

The chain begins with the model and a salt: engines share KV neither between models nor, where they are salted, between
tenants. The salt must hold what clients cannot know, as the hash is none that withstands whoever does. Blocks have a
fixed size in bytes, as a size that followed the estimate of tokens per byte would make every change of that estimate
forget all that is known; how many tokens they stand for is what follows.
"""

from array import array
from collections.abc import Mapping
from struct import iter_unpack
from typing import Any

import orjson
from xxhash import xxh3_64_intdigest, xxh3_128_digest

from router.call import ROLE_AND_CONTENT, Api, Blocks, Call

BLOCK_TOKENS = 64
"""Small beside prompts that are worth a hand-over (512 tokens), large beside what a hash costs (0.13 us)."""

BLOCK_BYTES = 256
"""About `BLOCK_TOKENS` of English text."""

TOKEN_ID_BYTES = 8

TEMPLATE_FIELDS = ("chat_template", "chat_template_kwargs", "reasoning_effort", "documents", "tools")
"""Fields beside the messages that templates put into the prompt, before them."""

LONG_PART_BYTES = 1024
"""Parts of a content that are no text and longer than this count by their digest."""

NO_BLOCKS = Blocks((), BLOCK_TOKENS)

MESSAGE, PART, FIELD = b"\x1e", b"\x1d", b"\x1f"
"""ASCII separators: text cannot forge them unnoticed, as each is followed by what it begins."""


def blocks(call: Call, prompt_tokens: int, salt: bytes = b"") -> Blocks:
    """The full blocks of a call's prompt, which has `prompt_tokens`; without any it has no blocks."""
    if prompt_tokens <= 0:
        return NO_BLOCKS
    seed = xxh3_64_intdigest(salt, xxh3_64_intdigest(f"{call.api.label} {call.model}".encode()))
    ids = _token_ids(call.fields.get("prompt")) if call.api is Api.COMPLETIONS else None
    if ids is not None:
        return Blocks(chain(ids, seed, BLOCK_TOKENS * TOKEN_ID_BYTES), BLOCK_TOKENS)
    content = b"".join(_content(call.api, call.fields))
    return Blocks(chain(content, seed, BLOCK_BYTES), prompt_tokens * BLOCK_BYTES / max(len(content), 1))


def chain(content: bytes, seed: int, block_bytes: int) -> list[int]:
    """The hashes of all full blocks, each seeded with the one before it."""
    hashes = []
    full = memoryview(content)[: len(content) // block_bytes * block_bytes]
    for (block,) in iter_unpack(f"{block_bytes}s", full):  # cut in one go: a fifth less than slice by slice
        seed = xxh3_64_intdigest(block, seed)
        hashes.append(seed)
    return hashes


def _token_ids(prompt: object) -> bytes | None:
    """A list of token ids as bytes; None of any other prompt."""
    if not isinstance(prompt, list):
        return None
    try:
        return array("Q", prompt).tobytes()
    except (TypeError, OverflowError):
        return None


def _content(api: Api, fields: Mapping[str, Any]) -> list[bytes]:
    if api is Api.COMPLETIONS:
        return [_text(fields.get("prompt"))]
    content = [
        FIELD + name.encode() + orjson.dumps(fields[name], option=orjson.OPT_SORT_KEYS)
        for name in TEMPLATE_FIELDS
        if fields.get(name)
    ]
    messages = fields.get("messages")
    for message in messages if isinstance(messages, list) else ():
        content += _message(message)
    return content


def _message(message: object) -> list[bytes]:
    """Role, content, then all else that is set, such as tool calls."""
    if not isinstance(message, dict):
        return [MESSAGE, _text(message)]
    content = message.get("content")
    parts = [MESSAGE, _text(message.get("role")), FIELD]
    if isinstance(content, list):
        parts += map(_part, content)
    else:
        parts.append(_part(content))
    if not message.keys() <= ROLE_AND_CONTENT:  # mostly there is nothing else to sort
        for name in sorted(message.keys() - ROLE_AND_CONTENT):
            if message[name]:
                parts.append(FIELD + name.encode() + _text(message[name]))
    return parts


def _part(part: object) -> bytes:
    """A message's text is the same to a template whether it comes as a string or as a part."""
    if isinstance(part, str):
        return part.encode()
    if isinstance(part, dict):
        return _text(part["text"]) if isinstance(part.get("text"), str) else PART + _short(part)
    return b"" if part is None else _text(part)


def _text(value: object) -> bytes:
    return value.encode() if isinstance(value, str) else orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def _short(value: object) -> bytes:
    content = _text(value)
    return content if len(content) <= LONG_PART_BYTES else xxh3_128_digest(content)
