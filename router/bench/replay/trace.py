"""What is replayed: a trace in Mooncake's format, one JSON object a line.

`timestamp` in ms, `input_length` and `output_length` in tokens, `hash_ids`: one id for each block of 512 tokens of the
prompt (the last may be partial), equal where two prompts agree up to and in that block.

Mooncake: a KVCache-centric architecture for serving LLM chatbots (FAST '25), which published such traces.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from router.call import Api, Blocks, Call, Trace

MODEL = "replayed"
BLOCK_TOKENS = 512


class TraceError(Exception):
    """A file that is no trace; says which line is wrong."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request, `at_s` seconds after the first."""

    at_s: float
    input_tokens: int
    output_tokens: int
    blocks: tuple[int, ...]

    @property
    def sizes(self) -> Iterator[tuple[int, int]]:
        """Its blocks with their tokens, from first to last."""
        left = self.input_tokens
        for block in self.blocks:
            yield block, min(BLOCK_TOKENS, left)
            left -= BLOCK_TOKENS


def read(path: Path, speed: float = 1.0) -> list[Request]:
    """The requests of a file in the order of their times, `speed` times as fast. Raises `TraceError`."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise TraceError(f"{path}: {error.strerror}") from None
    requests = [_request(path, number, line, speed) for number, line in enumerate(lines, 1) if line.strip()]
    if not requests:
        raise TraceError(f"{path}: no request in it")
    return sorted(requests, key=lambda request: request.at_s)


def _request(path: Path, number: int, line: bytes, speed: float) -> Request:
    try:
        row: dict[str, Any] = orjson.loads(line)
        request = Request(
            at_s=float(row["timestamp"]) / 1000 / speed,
            input_tokens=int(row["input_length"]),
            output_tokens=int(row["output_length"]),
            blocks=tuple(int(block) for block in row["hash_ids"]),
        )
    except (orjson.JSONDecodeError, LookupError, TypeError, ValueError) as error:
        raise TraceError(f"{path}:{number}: not a line of a trace: {error}") from None
    if request.input_tokens < 1 or len(request.blocks) != -(-request.input_tokens // BLOCK_TOKENS):
        raise TraceError(f"{path}:{number}: hash_ids must be one for each {BLOCK_TOKENS} tokens of input_length")
    return request


def as_call(request: Request) -> Call:
    """The request as routing sees it, with the trace's blocks instead of those of a body."""
    return Call(
        trace=Trace("replayed"),
        api=Api.CHAT,
        model=MODEL,
        stream=True,
        include_usage=False,
        max_tokens=None,
        prompt_tokens=request.input_tokens,
        undisaggregatable=None,
        fields={},
        wire={},
        blocks=Blocks(request.blocks, BLOCK_TOKENS),
    )
