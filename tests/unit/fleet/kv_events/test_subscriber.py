import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from typing import Any, cast

import msgspec
import pytest
import zmq.asyncio

from router.fleet.backend import Backend
from router.fleet.kv_events import subscriber as room
from router.fleet.kv_events.events import BlockHash, Stored
from router.fleet.kv_events.holdings import Holdings
from router.fleet.kv_events.subscriber import Subscriber, sockets
from tests.support.builders import a_backend
from tests.support.virtual_time import virtual_time

Message = tuple[int, bytes]


class Heard:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[object] = []

    def stored(self, engine: Backend, event: Stored, depth: int | None) -> None:
        self.told.append((*event.hashes, depth))

    def removed(self, engine: Backend, hashes: Sequence[BlockHash]) -> None:
        self.told.append(("removed", *hashes))

    def cleared(self, engine: Backend) -> None:
        self.told.append("cleared")

    def lost(self, engine: Backend) -> None:
        self.told.append("lost")


class Followed(Subscriber):
    """One whose engine repeats what a test says."""

    def __init__(self, *repeats: Sequence[Message], replay: bool = True) -> None:
        rules = {"endpoint": "tcp://{host}:5557"} | ({"replay_endpoint": "tcp://{host}:5558"} if replay else {})
        self.engine = a_backend(kv_events=rules)
        self.heard = Heard()
        super().__init__(self.engine, cast(zmq.asyncio.Context, None), self.heard)
        self.repeats = list(repeats)
        self.asked: list[tuple[str, int]] = []

    @property
    def holdings(self) -> Holdings:
        assert self.engine.holdings is not None
        return self.engine.holdings

    async def take(self, *messages: Message) -> None:
        for message in messages:
            await self._take(*message)

    async def _repeated(self, endpoint: str, first: int) -> AsyncGenerator[Message, None]:
        self.asked.append((endpoint, first))
        for message in self.repeats.pop(0):
            yield message


def stored(number: int, *, life: float = 0.0) -> Message:
    """A batch that stores one block, whose hash is its number."""
    event = {"type": "BlockStored", "block_hashes": [number], "parent_block_hash": None, "block_size": 16}
    return batch(number, event, life=life)


def batch(number: int, *events: dict[str, Any], life: float = 0.0) -> Message:
    return number, msgspec.msgpack.encode([life + number, list(events), 0])


async def test_batches_in_order() -> None:
    one = Followed()
    await one.take(stored(0), batch(1, {"type": "BlockRemoved", "block_hashes": [0]}, {"type": "AllBlocksCleared"}))
    assert one.heard.told == [(0, 0), ("removed", 0), "cleared"]
    assert (one.holdings.batches, one.holdings.gaps, one.asked) == (2, 0, [])


async def test_what_is_missing_is_repeated_from_the_last_known_one_on() -> None:
    one = Followed([stored(number) for number in range(1, 6)])
    await one.take(stored(0), stored(1), stored(4), stored(5))
    assert one.heard.told == [(number, 0) for number in range(6)]
    assert one.asked == [("tcp://127.0.0.1:5558", 1)]
    assert (one.holdings.gaps, one.holdings.replays, one.holdings.complete) == (1, 1, True)


async def test_who_comes_late_has_all_repeated_which_is_no_gap() -> None:
    one = Followed([stored(number) for number in range(3)])
    await one.take(stored(3))
    assert one.heard.told == [(number, 0) for number in range(4)]
    assert (one.asked[0][1], one.holdings.gaps, one.holdings.complete) == (0, 0, True)


async def test_what_is_not_repeated_is_lost() -> None:
    for one in (Followed([stored(3)]), Followed(replay=False)):
        await one.take(stored(0), stored(4))
        assert one.heard.told[:2] == [(0, 0), "lost"]
        assert one.heard.told[-1] == (4, 0)
        assert (one.holdings.gaps, one.holdings.complete) == (1, False)


async def test_a_long_gap_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "MOST_REPEATED", 10)
    one = Followed()
    await one.take(stored(0), stored(11))
    assert (one.asked, one.heard.told) == ([], [(0, 0), "lost", (11, 0)])


async def test_numbers_that_fall_back_are_another_life() -> None:
    one = Followed()
    await one.take(stored(0), stored(1), stored(0, life=100), stored(1, life=100))
    assert one.heard.told == [(0, 0), (1, 0), "cleared", (0, 0), (1, 0)]
    assert (one.holdings.restarts, one.holdings.gaps, one.holdings.complete) == (1, 0, True)


async def test_another_life_whose_numbers_go_on_is_known_by_the_time_of_the_last_batch() -> None:
    again = [stored(number, life=100) for number in range(6)]
    one = Followed(again[1:], again)
    await one.take(stored(0), stored(1), stored(5, life=100))
    assert one.heard.told == [(0, 0), (1, 0), "cleared", *((number, 0) for number in range(6))]
    assert [first for _, first in one.asked] == [1, 0]
    assert (one.holdings.restarts, one.holdings.complete) == (1, True)


async def test_behind_a_lost_connection_may_be_another_life_whose_numbers_go_on_at_once() -> None:
    again = [stored(number, life=100) for number in range(3)]
    one = Followed(again[1:], again)
    await one.take(stored(0), stored(1))
    one._reconnected = True
    await one.take(stored(2, life=100))
    assert one.heard.told == [(0, 0), (1, 0), "cleared", *((number, 0) for number in range(3))]
    assert (one.holdings.restarts, one.holdings.gaps) == (1, 0)


async def test_behind_a_lost_connection_may_be_the_same_life() -> None:
    one = Followed([stored(1), stored(2)])
    await one.take(stored(0), stored(1))
    one._reconnected = True
    await one.take(stored(2), stored(3))
    assert one.heard.told == [(number, 0) for number in range(4)]
    assert (one.asked[0][1], one.holdings.gaps, one.holdings.complete) == (1, 0, True)


async def test_a_batch_that_cannot_be_read_is_missing() -> None:
    one = Followed()
    await one.take(stored(0), (1, b"\xc1"), stored(2))
    assert one.heard.told == [(0, 0), "lost", (2, 0)]
    assert one.holdings.complete is False


async def test_a_first_batch_that_cannot_be_read_leaves_something_unknown() -> None:
    one = Followed()
    await one.take((0, b"\xc1"), stored(1))
    assert one.heard.told == ["lost", (1, 0)]
    assert one.holdings.complete is False


async def test_the_loop_has_its_turn_within_a_burst() -> None:
    one, turns = Followed(), 0
    hashes = list(range(room.SLICE_BLOCKS // 2))
    event = {"type": "BlockStored", "block_hashes": hashes, "parent_block_hash": None, "block_size": 16}
    async with asyncio.TaskGroup() as group:
        burst = group.create_task(one.take(*(batch(number, event) for number in range(20))))
        while not burst.done():
            turns += 1
            await asyncio.sleep(0)
    assert turns >= 10


@pytest.mark.parametrize("kind", ["BlockStored", "BlockRemoved"])
async def test_the_loop_has_its_turn_within_one_long_event(kind: str) -> None:
    one, turns = Followed(), 0
    hashes = list(range(10 * room.SLICE_BLOCKS))
    event = {"type": kind, "block_hashes": hashes, "parent_block_hash": None, "block_size": 16}
    async with asyncio.TaskGroup() as group:
        taking = group.create_task(one.take(batch(0, event)))
        while not taking.done():
            turns += 1
            await asyncio.sleep(0)
    assert turns >= 10
    assert one.holdings.tokens == (16 * len(hashes) if kind == "BlockStored" else 0)
    assert one.holdings.apply(Stored([-1], hashes[-1], 16)) == (len(hashes) if kind == "BlockStored" else None)


async def test_an_address_that_cannot_be_had_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(room, "PAUSE_S", 0)
    one, tries = Followed(), 0

    async def fail() -> None:
        nonlocal tries
        tries += 1
        if tries == 3:
            raise asyncio.CancelledError
        raise zmq.ZMQError(zmq.EADDRINUSE)

    monkeypatch.setattr(one, "_follow", fail)
    with pytest.raises(asyncio.CancelledError):
        await one.run()
    (record,) = caplog.records
    assert (record.message, record.exc_info) == ("background work failed", None)
    assert record.facts["work"].endswith(one._rules.endpoint)  # type: ignore[attr-defined]


async def test_what_nobody_foresaw_ends_no_following(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(room, "PAUSE_S", 0)
    one, turns = Followed(), 0
    await one.take(stored(0))

    async def follow() -> None:
        nonlocal turns
        turns += 1
        if turns == 2:
            raise asyncio.CancelledError
        raise IndexError

    monkeypatch.setattr(one, "_follow", follow)
    with pytest.raises(asyncio.CancelledError):
        await one.run()
    assert (one.heard.told, one.holdings.complete) == ([(0, 0), "lost"], False)
    assert [record.message for record in caplog.records] == ["background work failed", "KV events are missing"]


@virtual_time
async def test_what_is_missing_again_and_again_is_told_rarely_until_it_is_over(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    one, began = Followed(replay=False), asyncio.get_running_loop().time()
    told: list[tuple[object, ...]] = []

    async def take(message: Message) -> None:
        await one.take(message)
        at_s = round(asyncio.get_running_loop().time() - began)
        for record in caplog.records:
            facts = record.__dict__["facts"]
            why = str(facts.get("why")).partition(":")[0]
            told.append((at_s, record.message, why, facts.get("times"), facts.get("for_s")))
        caplog.clear()
        await asyncio.sleep(1)

    await take(stored(0))
    for number in range(2, 202, 2):
        await take((number, b"\xc1") if number % 4 else stored(number))
    for number in range(201, 270):
        await take(stored(number))
    assert told == [
        (1, "KV events are missing", "a batch cannot be read", None, None),
        (2, "KV events are missing", "batches are missing", None, None),
        (61, "KV events are still missing", "a batch cannot be read", 61, 60),
        (160, "KV events come without gaps again", "None", 100, 99),
    ]


@pytest.mark.parametrize("frames", [[], [b"kv", b"12345678"], [b"kv", b"", b"payload"], [b"kv", b"123456789", b"p"]])
def test_what_is_no_batch(frames: list[bytes]) -> None:
    assert room._message(frames) is None


def test_a_batch_is_the_last_two_frames() -> None:
    assert room._message([b"kv", (7).to_bytes(8), b"p"]) == (7, b"p")
    assert room._message([b"", b"kv", (7).to_bytes(8), b"p"]) == (7, b"p")
    assert room._message([b"", b"", b"\xff" * 8, b""]) == (room.END, b"")


def test_sockets_end_with_their_block() -> None:
    with sockets() as context:
        socket = context.socket(zmq.SUB)
    assert (socket.closed, context.closed) == (True, True)
