"""From bytes to events: vLLM's msgpack, as it is now (an event is a map) and as it was (an array).

A batch is `[seconds, [event, ...], data-parallel rank]`. Token ids, by far the most of it, are skipped and never become
objects. Kinds of events and fields that are not known are passed over; what else does not fit is an error, as a batch
that is half understood would leave a wrong picture.
"""

from collections.abc import Iterator
from math import isfinite
from typing import Annotated

import msgspec

from router.fleet.kv_events.events import Batch, BlockHash, Cleared, Event, Removed, Stored

FIRST_GROUP = (None, 0)
"""Models with several kinds of attention have a cache group for each; the first stands for the prompt."""

ON_THE_DEVICE = (None, "GPU")
"""vLLM says GPU on any platform; what was moved to memory or disk is no longer where a prompt finds it for nothing."""


class BadBatch(Exception):
    """Bytes that are no batch of events."""


Size = Annotated[int, msgspec.Meta(gt=0)]


class _Batch(msgspec.Struct, array_like=True):
    at: float
    events: list[msgspec.Raw]


class _StoredMap(msgspec.Struct, tag="BlockStored"):
    block_hashes: list[BlockHash]
    block_size: Size
    parent_block_hash: BlockHash | None = None
    medium: str | None = None
    group_idx: int | None = None
    session_id: str | None = None


class _RemovedMap(msgspec.Struct, tag="BlockRemoved"):
    block_hashes: list[BlockHash]
    medium: str | None = None
    group_idx: int | None = None


class _ClearedMap(msgspec.Struct, tag="AllBlocksCleared"):
    pass


class _StoredArray(msgspec.Struct, array_like=True, tag="BlockStored"):
    block_hashes: list[BlockHash]
    parent_block_hash: BlockHash | None
    token_ids: msgspec.Raw
    block_size: Size
    lora_id: int | None = None
    medium: str | None = None
    session_id = None
    group_idx = None


class _RemovedArray(msgspec.Struct, array_like=True, tag="BlockRemoved"):
    block_hashes: list[BlockHash]
    medium: str | None = None
    group_idx = None


class _ClearedArray(msgspec.Struct, array_like=True, tag="AllBlocksCleared"):
    pass


_batches = msgspec.msgpack.Decoder(_Batch)
_maps = msgspec.msgpack.Decoder(_StoredMap | _RemovedMap | _ClearedMap)
_arrays = msgspec.msgpack.Decoder(_StoredArray | _RemovedArray | _ClearedArray)
KINDS = ("BlockStored", "BlockRemoved", "AllBlocksCleared")


def decode(payload: bytes) -> Batch:
    """The batch in the last frame of a message. Raises `BadBatch`."""
    try:
        batch = _batches.decode(payload)
        events = [*_events(batch.events)]
    except (msgspec.DecodeError, ValueError, RecursionError) as error:  # also text that is none, and depth
        raise BadBatch(str(error)) from None
    if not isfinite(batch.at):
        raise BadBatch(f"its time is {batch.at}")
    return Batch(batch.at, events)


def _events(raw: list[msgspec.Raw]) -> Iterator[Event]:
    for one in raw:
        try:
            event = (_arrays if _is_array(one) else _maps).decode(one)
        except msgspec.ValidationError:
            if _kind(one) in KINDS:
                raise
            continue
        if isinstance(event, _ClearedMap | _ClearedArray):
            yield Cleared()
        elif event.medium in ON_THE_DEVICE and event.group_idx in FIRST_GROUP:
            if isinstance(event, _RemovedMap | _RemovedArray):
                yield Removed(event.block_hashes)
            elif event.block_hashes:
                yield Stored(event.block_hashes, event.parent_block_hash, event.block_size, event.session_id)


def _is_array(raw: msgspec.Raw) -> bool:
    """By the first byte: an array of up to 15, of up to 2^16, or of more items."""
    first = bytes(memoryview(raw)[:1])[0]
    return first & 0xF0 == 0x90 or first in (0xDC, 0xDD)


def _kind(raw: msgspec.Raw) -> object:
    event = msgspec.msgpack.decode(raw)
    if isinstance(event, dict):
        return event.get("type")
    return event[0] if isinstance(event, list) and event else None
