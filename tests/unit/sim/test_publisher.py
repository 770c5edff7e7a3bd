from pathlib import Path
from typing import Any

import msgspec
import pytest
import zmq
import zmq.asyncio

from router.sim.config import SimConfig
from router.sim.publisher import END, Publisher

CLEARED: list[dict[str, Any]] = [{"type": "AllBlocksCleared"}]


def config(folder: Path, **more: Any) -> SimConfig:
    return SimConfig(kv_events=f"ipc://{folder}/e", kv_events_replay=f"ipc://{folder}/r", kv_events_topic="kv", **more)


async def test_batches_are_numbered_and_repeated_on_demand(tmp_path: Path) -> None:
    publisher = Publisher(config(tmp_path))
    context = zmq.asyncio.Context()
    try:
        asking = context.socket(zmq.DEALER)
        asking.connect(f"ipc://{tmp_path}/r")
        for _ in range(3):
            publisher.publish(CLEARED)
        publisher.publish([])
        await asking.send_multipart([b"", (1).to_bytes(8)])
        answers = [await asking.recv_multipart() for _ in range(3)]
        assert [frames[:3] for frames in answers[:2]] == [[b"", b"kv", (number).to_bytes(8)] for number in (1, 2)]
        assert answers[2] == [b"", b"", END, b""]
        _, events, rank = msgspec.msgpack.decode(answers[0][3])
        assert (events, rank) == (CLEARED, 0)
    finally:
        context.destroy(linger=0)
        publisher.close()


async def test_subscribers_of_the_topic_get_them(tmp_path: Path) -> None:
    publisher = Publisher(config(tmp_path))
    context = zmq.asyncio.Context()
    try:
        hearing = context.socket(zmq.SUB)
        hearing.subscribe("kv")
        hearing.connect(f"ipc://{tmp_path}/e")
        while not await hearing.poll(10):  # what is published before it is connected is lost
            publisher.publish(CLEARED)
        topic, number, _ = await hearing.recv_multipart()
        assert (topic, len(number)) == (b"kv", 8)
    finally:
        context.destroy(linger=0)
        publisher.close()


async def test_an_address_without_a_wildcard_is_connected_to(tmp_path: Path) -> None:
    context = zmq.asyncio.Context()
    hearing = context.socket(zmq.SUB)
    hearing.subscribe("")
    port = hearing.bind_to_random_port("tcp://127.0.0.1")
    publisher = Publisher(SimConfig(kv_events=f"tcp://127.0.0.1:{port}"))
    try:
        while not await hearing.poll(10):
            publisher.publish(CLEARED)
    finally:
        publisher.close()
        context.destroy(linger=0)


async def test_a_taken_address_is_an_os_error() -> None:
    context = zmq.asyncio.Context()
    taken = context.socket(zmq.PUB)
    port = taken.bind_to_random_port("tcp://*")
    with pytest.raises(OSError, match="KV events"):
        Publisher(SimConfig(kv_events=f"tcp://*:{port}"))
    context.destroy(linger=0)
