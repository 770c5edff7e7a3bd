"""Frames of the side channel."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from router.sim.blocks import DIGEST_BYTES, BlockContent
from router.sim.wire import Head, Wire, frame, pack_blocks, unpack_blocks

DIGESTS = st.binary(min_size=DIGEST_BYTES, max_size=DIGEST_BYTES)


@given(st.lists(st.builds(BlockContent, DIGESTS, st.binary(max_size=200))))
def test_blocks_come_back(contents: list[BlockContent]) -> None:
    assert unpack_blocks(pack_blocks(contents)) == contents


async def test_frames_may_be_cut_anywhere() -> None:
    got: list[tuple[Head, bytes]] = []
    wire = Wire(lambda _wire, head, tail: got.append((head, tail)), lambda _wire: None, lambda _wire: None)
    sent = frame({"id": 1}, b"tail") + frame({"id": 2}) + frame({"id": 3}, b"x" * 100)
    for at in range(len(sent)):
        wire.data_received(sent[at : at + 1])
    wire.data_received(sent)
    assert got == [({"id": 1}, b"tail"), ({"id": 2}, b""), ({"id": 3}, b"x" * 100)] * 2


async def test_a_wire_tells_when_it_is_made_and_lost() -> None:
    made: list[Wire] = []
    lost: list[Wire] = []
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Wire(lambda *_: None, lost.append, made.append), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    _, wire = await loop.create_connection(lambda: Wire(lambda *_: None, lost.append, made.append), "127.0.0.1", port)
    states = [wire.open]
    wire.close()
    states.append(wire.open)
    await wire.closed
    wire.send({"id": 1})
    server.close()
    await asyncio.gather(*(each.closed for each in made))
    assert states == [True, False]
    assert len(made) == len(lost) == 2
