import asyncio

from router.edge.outbox import FULL_BYTES, Outbox


async def test_what_is_put_in_is_written_together_and_in_order() -> None:
    outbox, loop, written = Outbox(), asyncio.get_running_loop(), list[bytes]()
    for data in (b"a", b"b", b"c"):
        outbox.put(loop, written.append, data)
    assert written == []
    await asyncio.sleep(0)
    assert written == [b"a", b"b", b"c"]


async def test_who_cannot_wait_flushes() -> None:
    outbox, loop, written = Outbox(), asyncio.get_running_loop(), list[bytes]()
    outbox.put(loop, written.append, b"a")
    outbox.flush()
    outbox.put(loop, written.append, b"b")
    assert written == [b"a"]
    await asyncio.sleep(0)
    assert written == [b"a", b"b"]


async def test_a_full_box_does_not_wait() -> None:
    outbox, loop, written = Outbox(), asyncio.get_running_loop(), list[bytes]()
    flood = bytes(FULL_BYTES // 2)
    for _ in range(2):
        outbox.put(loop, written.append, flood)
    assert written == []
    outbox.put(loop, written.append, b"a")
    assert written == [flood, flood, b"a"]
    outbox.put(loop, written.append, flood)
    assert len(written) == 3
    await asyncio.sleep(0)
    assert len(written) == 4


async def test_what_a_write_leads_to_is_written_in_the_next_round() -> None:
    outbox, loop, written = Outbox(), asyncio.get_running_loop(), list[bytes]()

    def write(data: bytes) -> None:
        written.append(data)
        if data == b"a":
            outbox.put(loop, write, b"b")

    outbox.put(loop, write, b"a")
    await asyncio.sleep(0)
    assert written == [b"a"]
    await asyncio.sleep(0)
    assert written == [b"a", b"b"]


async def test_a_write_that_raises_costs_the_others_nothing() -> None:
    outbox, loop, written = Outbox(), asyncio.get_running_loop(), list[bytes]()
    reported: list[object] = []
    loop.set_exception_handler(lambda _, context: reported.append(context["exception"]))

    def broken(_: bytes) -> None:
        raise OSError("gone")

    for write, data in ((written.append, b"a"), (broken, b"x"), (written.append, b"b"), (written.append, b"c")):
        outbox.put(loop, write, data)
    for _ in range(3):
        await asyncio.sleep(0)
    assert written == [b"a", b"b", b"c"]
    assert [type(error) for error in reported] == [OSError]
