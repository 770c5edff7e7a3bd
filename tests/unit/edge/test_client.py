import asyncio
import gc
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import orjson
import pytest

from router.edge.api_key import ApiKey
from router.edge.client import AsgiClient, Limits
from router.edge.protocol import EXTENSION
from router.errors import (
    BadAnswer,
    ClientGone,
    EngineTimeout,
    RequestError,
    TooLarge,
    Unavailable,
    UnsupportedMedia,
    WrongKey,
)
from tests.support.client_side import ClientTransport, connected
from tests.support.edge import body_memory, guards

TRACEPARENT = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Asgi:
    """An ASGI server's side of one request: messages to receive, and what was sent."""

    def __init__(self, *pieces: bytes, headers: Mapping[bytes, bytes] | None = None) -> None:
        self.scope: dict[str, Any] = {"headers": list((headers or {}).items())}
        self.messages: asyncio.Queue[Mapping[str, Any]] = asyncio.Queue()
        self.sent: list[dict[str, Any]] = []
        self.stalled = False
        for number, piece in enumerate(pieces, start=1):
            message = {"type": "http.request", "body": piece, "more_body": number < len(pieces)}
            self.messages.put_nowait(message)

    def leave(self) -> None:
        self.messages.put_nowait({"type": "http.disconnect"})

    async def send(self, message: dict[str, Any]) -> None:
        if self.stalled:
            await asyncio.Event().wait()
        self.sent.append(message)

    def client(self, **limits: Any) -> AsgiClient:
        defaults: dict[str, Any] = {"max_body_bytes": 100, "write_stall_s": 0.02, "bodies": body_memory()}
        allowed = Limits(**(defaults | limits))
        return AsgiClient(self.scope, self.messages.get, self.send, "id-1", allowed)

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)


@pytest.mark.parametrize("pieces", [(b"{}",), (b"{", b"}"), (b"", b"{", b"", b"}")])
async def test_a_body_is_read_whole(pieces: tuple[bytes, ...]) -> None:
    assert await Asgi(*pieces).client().body() == b"{}"


async def test_a_body_may_be_as_long_as_the_limit() -> None:
    assert len(await Asgi(b"x" * 60, b"x" * 40).client().body()) == 100


async def test_who_has_not_the_key_is_refused_before_anything_is_read() -> None:
    asgi = Asgi(b"{}", headers={b"authorization": b"Bearer wrong"})
    client = asgi.client(key=ApiKey("right"))
    with pytest.raises(WrongKey) as caught:
        await client.body()
    assert asgi.messages.qsize() == 1
    await client.fail(caught.value)
    assert asgi.sent[0]["status"] == 401
    assert {(b"www-authenticate", b"Bearer"), (b"connection", b"close")} <= set(asgi.sent[0]["headers"])
    assert orjson.loads(asgi.body)["error"]["code"] == "invalid_api_key"


async def test_who_has_it_is_not() -> None:
    asgi = Asgi(b"{}", headers={b"authorization": b"Bearer right"})
    assert await asgi.client(key=ApiKey("right")).body() == b"{}"


@pytest.mark.parametrize("pieces", [(b"x" * 101,), (b"x" * 60, b"x" * 41)])
async def test_a_longer_one_is_refused(pieces: tuple[bytes, ...]) -> None:
    with pytest.raises(TooLarge):
        await Asgi(*pieces).client().body()


async def test_a_declared_length_over_the_limit_is_refused_unread() -> None:
    asgi = Asgi(b"x", headers={b"content-length": b"101"})
    with pytest.raises(TooLarge):
        await asgi.client().body()
    assert asgi.messages.qsize() == 1


async def test_a_client_that_leaves_in_its_body_is_gone() -> None:
    asgi = Asgi()
    asgi.leave()
    with pytest.raises(ClientGone):
        await asgi.client().body()


@pytest.mark.parametrize(
    "headers",
    [
        {b"content-type": b"text/plain"},
        {b"content-type": b"application/x-www-form-urlencoded"},
        {b"content-encoding": b"gzip"},
    ],
)
async def test_only_plain_json_is_read(headers: dict[bytes, bytes]) -> None:
    with pytest.raises(UnsupportedMedia):
        await Asgi(b"{}", headers=headers).client().body()


@pytest.mark.parametrize("kind", [b"application/json", b"Application/JSON; charset=utf-8"])
async def test_json_may_say_its_charset(kind: bytes) -> None:
    assert await Asgi(b"{}", headers={b"content-type": kind}).client().body() == b"{}"


@pytest.mark.parametrize(
    ("sent", "kept"), [(TRACEPARENT, TRACEPARENT.decode()), (TRACEPARENT + b"\r\nx: y", None), (b"", None)]
)
def test_a_trace_context_travels_only_when_it_is_one(sent: bytes, kept: str | None) -> None:
    trace = Asgi(headers={b"traceparent": sent, b"x-request-id": b"the-clients"}).client().trace
    assert (trace.traceparent, trace.request_id) == (kept, "id-1")


@pytest.mark.parametrize(
    ("headers", "session"),
    [
        ({}, None),
        ({b"x-session-id": b""}, None),
        ({b"x-session-id": b"chat 7"}, "chat 7"),
        ({b"x-session-id": b"\xff"}, "ÿ"),
    ],
)
def test_a_client_may_name_its_conversation(headers: dict[bytes, bytes], session: str | None) -> None:
    assert Asgi(headers=headers).client().session == session


async def test_a_complete_answer_says_its_length() -> None:
    asgi = Asgi()
    await asgi.client().answer(b"application/json", b"{}")
    assert (asgi.sent[0]["status"], asgi.body) == (200, b"{}")
    assert dict(asgi.sent[0]["headers"]) == {
        b"content-type": b"application/json",
        b"x-request-id": b"id-1",
        b"content-length": b"2",
    }


async def test_an_error_before_the_answer_is_the_answer() -> None:
    asgi = Asgi()
    await asgi.client().fail(Unavailable("busy", retry_after_s=2))
    assert asgi.sent[0]["status"] == 503
    assert dict(asgi.sent[0]["headers"])[b"retry-after"] == b"2"
    assert orjson.loads(asgi.body)["error"]["message"] == "busy"


async def test_an_error_in_a_stream_is_its_last_event() -> None:
    asgi, error = Asgi(), EngineTimeout("d:1")
    client = asgi.client()
    await client.start(b"text/event-stream", b"data: {}\n\n")
    await client.fail(error)
    assert [message["type"] for message in asgi.sent].count("http.response.start") == 1
    assert asgi.body.startswith(b'data: {}\n\ndata: {"error"')
    assert asgi.body.endswith(b"\n\ndata: [DONE]\n\n")
    assert not asgi.sent[-1].get("more_body")


async def test_a_client_that_left_is_told_nothing() -> None:
    asgi = Asgi()
    await asgi.client().fail(ClientGone())
    assert asgi.sent == []


async def test_a_client_that_takes_nothing_is_gone() -> None:
    asgi = Asgi()
    asgi.stalled = True
    with pytest.raises(ClientGone):
        await asgi.client().send(b"data")


class Direct:
    """A server that tells when the client leaves."""

    chunks = True
    leaving = False

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.gone: Callable[[], None] | None = None

    def when_gone(self, gone: Callable[[], None] | None) -> None:
        self.gone = gone


@pytest.fixture(params=["told by the server", "by ASGI's word"])
async def leaving(request: pytest.FixtureRequest) -> tuple[AsgiClient, Callable[[], None]]:
    """A client, and what makes it leave."""
    asgi = Asgi()
    if request.param == "by ASGI's word":
        return asgi.client(), asgi.leave
    direct = Direct()
    asgi.scope["extensions"] = {EXTENSION: direct}

    def leave() -> None:
        assert direct.gone is not None
        direct.gone()

    return asgi.client(), leave


async def test_a_block_ends_when_its_client_leaves(leaving: tuple[AsgiClient, Callable[[], None]]) -> None:
    client, leave = leaving
    asyncio.get_running_loop().call_later(0.01, leave)
    with pytest.raises(ClientGone), client.present(stream=False):
        await asyncio.sleep(5)


async def test_a_client_that_has_left_already_begins_nothing() -> None:
    asgi, direct = Asgi(), Direct()
    direct.leaving = True
    asgi.scope["extensions"] = {EXTENSION: direct}
    with pytest.raises(ClientGone), asgi.client().present(stream=False):
        raise AssertionError("not reached")


async def test_a_block_whose_client_stays_ends_by_itself(leaving: tuple[AsgiClient, Callable[[], None]]) -> None:
    client, _ = leaving
    with client.present(stream=False):
        await asyncio.sleep(0)


async def test_an_error_in_the_block_passes(leaving: tuple[AsgiClient, Callable[[], None]]) -> None:
    client, _ = leaving
    error: RequestError = BadAnswer("cut")
    with pytest.raises(BadAnswer) as caught, client.present(stream=False):
        raise error
    assert caught.value is error


async def test_a_block_can_be_cancelled_from_outside(leaving: tuple[AsgiClient, Callable[[], None]]) -> None:
    client, _ = leaving

    async def work() -> None:
        with client.present(stream=False):
            await asyncio.sleep(5)

    async with asyncio.TaskGroup() as group:
        task = group.create_task(work())
        await asyncio.sleep(0)
        task.cancel()
    assert task.cancelled()


async def test_no_watch_outlives_its_block(leaving: tuple[AsgiClient, Callable[[], None]]) -> None:
    client, _ = leaving
    before = asyncio.all_tasks()
    with client.present(stream=False):
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before


async def test_a_body_that_is_given_up_is_not_held() -> None:
    asgi, memory = Asgi(), body_memory()
    asgi.messages.put_nowait({"type": "http.request", "body": b"abc", "more_body": True})
    reading = asyncio.get_running_loop().create_task(asgi.client(bodies=memory).body())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert memory.held_bytes == 3
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert memory.held_bytes == 0


class Arrived(Direct):
    """A server that has the whole body already."""

    def __init__(self, body: bytes) -> None:
        super().__init__()
        self._body = body

    def whole_body(self) -> bytes:
        return self._body


async def test_a_body_that_is_there_is_held_as_any_other() -> None:
    asgi, memory = Asgi(), body_memory()
    asgi.scope["extensions"] = {EXTENSION: Arrived(b"{}")}
    client = asgi.client(bodies=memory)
    assert (await client.body(), memory.held_bytes) == (b"{}", 2)
    with client.present(stream=False):
        assert memory.held_bytes == 0


async def test_a_body_that_is_there_may_be_too_long_and_too_much() -> None:
    asgi, memory = Asgi(), body_memory(50)
    asgi.scope["extensions"] = {EXTENSION: Arrived(b"x" * 101)}
    with pytest.raises(TooLarge):
        await asgi.client(bodies=memory).body()
    asgi.scope["extensions"] = {EXTENSION: Arrived(b"x" * 51)}
    with pytest.raises(Unavailable):
        await asgi.client(bodies=memory).body()
    assert memory.held_bytes == 0


@pytest.fixture
def without_garbage_collection() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("without_garbage_collection")
async def test_a_request_that_is_over_is_freed_at_once() -> None:
    limits = Limits(max_body_bytes=100, write_stall_s=60, bodies=body_memory())
    requests: list[weakref.ref[Any]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        requests.append(weakref.ref(receive.__self__))
        await AsgiClient(scope, receive, send, "id-1", limits).answer(b"application/json", b"{}")

    protocol = connected(app, guards(), ClientTransport())
    for _ in range(2):  # a connection keeps its last request
        protocol.data_received(b"GET /a HTTP/1.1\r\nHost: gateway\r\n\r\n")
        for _ in range(5):
            await asyncio.sleep(0)
    assert [request() is None for request in requests] == [True, False]
    protocol.connection_lost(None)


async def test_a_head_that_was_not_written_is_not_taken_for_one_that_was() -> None:
    asgi = Asgi()
    asgi.stalled = True
    client = asgi.client(write_stall_s=60)
    starting = asyncio.ensure_future(client.start(b"text/event-stream", b"data: 1\n\n"))  # noqa: TID251 - cancelled below
    await asyncio.sleep(0)
    starting.cancel()
    await asyncio.sleep(0)
    asgi.stalled = False
    await client.fail(Unavailable("the gateway is stopping", code="stopping"))
    assert [message["type"] for message in asgi.sent] == ["http.response.start", "http.response.body"]
    assert asgi.sent[0]["status"] == 503
