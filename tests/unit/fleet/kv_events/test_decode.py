from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.fleet.kv_events.decode import BadBatch, decode
from router.fleet.kv_events.events import Batch, Cleared, Event, Removed, Stored

STORED: dict[str, Any] = {
    "type": "BlockStored",
    "block_hashes": [2**64 - 1, 3],
    "parent_block_hash": 3544924643889592053,
    "token_ids": [1, 4, 93, 267] * 2,
    "block_size": 4,
    "lora_id": None,
    "medium": "GPU",
    "lora_name": None,
    "extra_keys": [None, ["pepper"]],
    "group_idx": 0,
    "kv_cache_spec_kind": "full_attention",
    "session_id": "r-1",
}
"""As vLLM 0.32 sends it."""


def packed(*events: object) -> bytes:
    return msgspec.msgpack.encode([12.5, list(events), 0])


def read(*events: object) -> list[Event]:
    return [*decode(packed(*events)).events]


def test_a_batch_of_vllm() -> None:
    removed = {"type": "BlockRemoved", "block_hashes": [7], "medium": "GPU", "group_idx": 0}
    assert decode(packed(STORED, removed, {"type": "AllBlocksCleared"})) == Batch(
        12.5, [Stored([2**64 - 1, 3], 3544924643889592053, 4, "r-1"), Removed([7]), Cleared()]
    )


def test_events_as_arrays_from_the_oldest_form_to_the_longest() -> None:
    assert read(["BlockStored", [1, 2], None, [5, 6, 7, 8], 2, None]) == [Stored([1, 2], None, 2)]
    assert read(["BlockStored", [1], 9, [5, 6], 2, None, "GPU", "adapter"]) == [Stored([1], 9, 2)]
    assert read(["BlockRemoved", [1]], ["BlockRemoved", [2], "GPU"]) == [Removed([1]), Removed([2])]
    assert read(["AllBlocksCleared"]) == [Cleared()]


def test_nothing_is_stored_where_no_block_is_named() -> None:
    assert read(STORED | {"block_hashes": []}, ["BlockStored", [], None, [], 4]) == []


def test_hashes_may_be_whole_digests() -> None:
    assert read(STORED | {"block_hashes": [b"\1" * 32], "parent_block_hash": None}) == [
        Stored([b"\1" * 32], None, 4, "r-1")
    ]


@pytest.mark.parametrize("elsewhere", [{"medium": "CPU"}, {"medium": "STORAGE"}, {"group_idx": 1}])
def test_what_is_not_on_the_device_or_of_another_group_does_not_count(elsewhere: dict[str, Any]) -> None:
    removed = {"type": "BlockRemoved", "block_hashes": [1]}
    assert read(STORED | elsewhere, removed | elsewhere) == []
    assert read(removed) == [Removed([1])]


def test_kinds_and_fields_that_are_not_known_are_passed_over() -> None:
    assert read({"type": "BlockMoved", "to": 3}, ["BlockMoved", 3], 5) == []
    assert read({"type": "AllBlocksCleared", "why": "asked to"}) == [Cleared()]


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xff" * 20,
        packed(STORED)[:-3],
        msgspec.msgpack.encode({"ts": 1.0}),
        msgspec.msgpack.encode([1.0]),
        packed({"type": "BlockStored", "block_hashes": ["text"], "block_size": 4}),
        packed({"type": "BlockStored", "block_hashes": [1], "block_size": 0}),
        packed(["BlockStored", [1], None, [], 0]),
        packed({"type": "BlockRemoved"}),
        packed(["BlockStored", [1]]),
        packed({"type": "BlockRemoved", "block_hashes": [1], "medium": 5}),
        msgspec.msgpack.encode([float("inf"), []]),
        msgspec.msgpack.encode([float("nan"), []]),
        b"\x92\xcb" + bytes(8) + b"\x91" + b"\x91" * 5000 + b"\xc0",  # deeper than may be
        b"\x92\xcb" + bytes(8) + b"\x91\x81\xa1\xff\x01",  # no UTF-8
        b"\x92\xcb" + bytes(8) + b"\x91\x81\x80\x01",  # a map as a key
        b"\x92\xcb" + bytes(8) + b"\x91\xd7\xff" + b"\xff" * 8,  # no time
    ],
)
def test_what_is_half_a_batch_is_none(payload: bytes) -> None:
    with pytest.raises(BadBatch):
        decode(payload)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_batch_or_none(payload: bytes) -> None:
    with suppress(BadBatch):
        decode(payload)
