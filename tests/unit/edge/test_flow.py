"""Does an event wake whoever waits, and does a writer wait for a client that is slow?"""

import asyncio

import pytest

from router.edge.flow import Flow, LazyEvent
from tests.support.client_side import ClientTransport


@pytest.fixture
def turns() -> list[str]:
    """What waited and went on, in order."""
    return []


async def waiting(event: LazyEvent, turns: list[str], name: str) -> asyncio.Task[None]:
    async def wait() -> None:
        await event.wait()
        turns.append(name)

    task = asyncio.get_running_loop().create_task(wait())
    await asyncio.sleep(0)
    return task


async def test_all_who_wait_go_on_when_it_is_set(turns: list[str]) -> None:
    event = LazyEvent()
    first, second = await waiting(event, turns, "first"), await waiting(event, turns, "second")
    assert (event.is_set(), turns) == (False, [])
    event.set()
    await asyncio.gather(first, second)
    assert (event.is_set(), turns) == (True, ["first", "second"])


async def test_nobody_waits_once_it_is_set() -> None:
    event = LazyEvent()
    event.set()
    waits = event.wait()
    with pytest.raises(StopIteration):  # without giving up its turn
        waits.send(None)


@pytest.mark.parametrize("somebody_waited", [False, True])
async def test_cleared_it_has_to_be_waited_for_again(turns: list[str], *, somebody_waited: bool) -> None:
    event = LazyEvent()
    if somebody_waited:
        task = await waiting(event, turns, "before")
        event.set()
        await task
    event.set()
    event.clear()
    turns.clear()
    task = await waiting(event, turns, "after")
    assert turns == []
    event.set()
    await task
    assert turns == ["after"]


async def test_who_gave_up_waiting_costs_the_others_nothing(turns: list[str]) -> None:
    event = LazyEvent()
    gone, there = await waiting(event, turns, "gone"), await waiting(event, turns, "there")
    gone.cancel()
    await asyncio.sleep(0)
    event.set()
    await there
    assert turns == ["there"]


async def test_a_writer_waits_for_a_client_that_is_behind() -> None:
    flow = Flow(ClientTransport())
    await flow.drain()
    flow.pause_writing()
    drained = asyncio.get_running_loop().create_task(flow.drain())
    await asyncio.sleep(0)
    assert (flow.write_paused, drained.done()) == (True, False)
    flow.resume_writing()
    await drained
    assert not flow.write_paused


async def test_the_transport_is_told_once() -> None:
    told: list[str] = []

    class Told(ClientTransport):
        def pause_reading(self) -> None:
            told.append("pause")

        def resume_reading(self) -> None:
            told.append("resume")

    flow = Flow(Told())
    flow.resume_reading()
    for _ in range(2):
        flow.pause_reading()
    assert flow.read_paused
    for _ in range(2):
        flow.resume_reading()
    assert (told, flow.read_paused) == (["pause", "resume"], False)


async def test_held_it_is_not_read_whoever_would_like_to() -> None:
    client = ClientTransport()
    flow = Flow(client)
    flow.hold()
    flow.resume_reading()
    assert (client.reading, flow.read_paused) == (False, True)
    flow.release()
    assert (client.reading, flow.read_paused) == (True, False)
    flow.pause_reading()
    flow.resume_reading()
    assert client.reading
