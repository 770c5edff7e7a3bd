import json
from pathlib import Path
from typing import Any

import pytest

from router.bench.replay.trace import TraceError, as_call, read
from tests.support.traces import a_request

ROW: dict[str, Any] = {"timestamp": 3000, "input_length": 1100, "output_length": 7, "hash_ids": [4, 5, 6]}


def a_trace(tmp_path: Path, *rows: Any) -> Path:
    path = tmp_path / "trace.jsonl"
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n\n")
    return path


def test_requests_come_in_the_order_of_their_times(tmp_path: Path) -> None:
    path = a_trace(tmp_path, ROW, ROW | {"timestamp": 1000})
    first, second = read(path, speed=2)
    assert (first.at_s, second.at_s) == (0.5, 1.5)
    assert (second.input_tokens, second.output_tokens, second.blocks) == (1100, 7, (4, 5, 6))


def test_the_last_block_has_what_is_left() -> None:
    assert [size for _, size in a_request("abc", tokens=1100).sizes] == [512, 512, 76]


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ("{", "trace.jsonl:2: not a line of a trace"),
        ("[1]", "trace.jsonl:2: not a line of a trace"),
        ({"timestamp": 1}, "trace.jsonl:2: not a line of a trace"),
        (ROW | {"hash_ids": [1, 2]}, "trace.jsonl:2: hash_ids must be one for each 512 tokens"),
        (ROW | {"input_length": 0, "hash_ids": []}, "trace.jsonl:2: hash_ids must be"),
    ],
)
def test_what_is_no_trace(tmp_path: Path, row: Any, why: str) -> None:
    with pytest.raises(TraceError, match=why):
        read(a_trace(tmp_path, ROW, row))


def test_a_file_that_is_not_there_or_empty(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="No such file"):
        read(tmp_path / "none")
    with pytest.raises(TraceError, match="no request in it"):
        read(a_trace(tmp_path))


def test_routing_sees_the_traces_blocks() -> None:
    call = as_call(a_request("ab"))
    assert call.blocks is not None
    assert (call.prompt_tokens, len(call.blocks.hashes), call.blocks.tokens_each) == (1024, 2, 512)
