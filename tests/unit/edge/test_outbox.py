import asyncio

from router.edge.outbox import FULL_BYTES, Outbox


class Socket(asyncio.WriteTransport):
    """A client's, whose writes are kept in `written`, which several may share."""

    def __init__(self, written: list[bytes]) -> None:
        super().__init__()
        self.written = written
        self.closing = False

    def is_closing(self) -> bool:
        return self.closing

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written.append(bytes(data))


async def test_what_is_put_in_is_written_together_and_in_order() -> None:
    outbox, loop, written = Outbox(), asyncio.get_running_loop(), list[bytes]()
    socket = Socket(written)
    for data in (b"a", b"b", b"c"):
        outbox.put(loop, socket, data)
    assert written == []
    await asyncio.sleep(0)
    assert written == [b"a", b"b", b"c"]


async def test_who_cannot_wait_flushes() -> None:
    outbox, loop, written = Outbox(), asyncio.get_running_loop(), list[bytes]()
    socket = Socket(written)
    outbox.put(loop, socket, b"a")
    outbox.flush()
    outbox.put(loop, socket, b"b")
    assert written == [b"a"]
    await asyncio.sleep(0)
    assert written == [b"a", b"b"]


async def test_a_full_box_does_not_wait() -> None:
    outbox, loop, written = Outbox(), asyncio.get_running_loop(), list[bytes]()
    socket = Socket(written)
    flood = bytes(FULL_BYTES // 2)
    for _ in range(2):
        outbox.put(loop, socket, flood)
    assert written == []
    outbox.put(loop, socket, b"a")
    assert written == [flood, flood, b"a"]
    outbox.put(loop, socket, flood)
    assert len(written) == 3
    await asyncio.sleep(0)
    assert len(written) == 4


async def test_what_a_write_leads_to_is_written_in_the_next_round() -> None:
    outbox, loop, written = Outbox(), asyncio.get_running_loop(), list[bytes]()

    class Echo(Socket):
        def write(self, data: bytes | bytearray | memoryview) -> None:
            super().write(data)
            if data == b"a":
                outbox.put(loop, self, b"b")

    outbox.put(loop, Echo(written), b"a")
    await asyncio.sleep(0)
    assert written == [b"a"]
    await asyncio.sleep(0)
    assert written == [b"a", b"b"]


async def test_a_write_that_raises_costs_the_others_nothing() -> None:
    outbox, loop, written = Outbox(), asyncio.get_running_loop(), list[bytes]()
    socket = Socket(written)
    reported: list[object] = []
    loop.set_exception_handler(lambda _, context: reported.append(context["exception"]))

    class Broken(Socket):
        def write(self, _: bytes | bytearray | memoryview) -> None:
            raise OSError("gone")

    for to, data in ((socket, b"a"), (Broken(written), b"x"), (socket, b"b"), (socket, b"c")):
        outbox.put(loop, to, data)
    for _ in range(3):
        await asyncio.sleep(0)
    assert written == [b"a", b"b", b"c"]
    assert [type(error) for error in reported] == [OSError]


async def test_nothing_is_written_to_a_client_that_is_being_left() -> None:
    outbox, loop = Outbox(), asyncio.get_running_loop()
    left, other = Socket([]), Socket([])
    for to in (left, other):
        outbox.put(loop, to, b"a")
    left.closing = True
    await asyncio.sleep(0)
    assert (left.written, other.written) == ([], [b"a"])
