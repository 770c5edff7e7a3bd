import asyncio
import re
from dataclasses import replace
from typing import Any

import pytest

from router.edge.census import SPARE_CONNECTIONS
from router.edge.guarded import LINGER_BYTES, MAX_WAITING_REQUESTS, Phase
from tests.support.client_side import ClientTransport, connected
from tests.support.edge import TurnedAway, guards

GET = b"GET /a HTTP/1.1\r\nHost: gateway\r\n\r\n"
BAD = b"GET /b HTTP/1.1\r\n\r\n"


AHEAD = b"x" * 70_000
"""More than is read ahead of answers."""


def post(body: bytes, length: int) -> bytes:
    return b"POST /c HTTP/1.1\r\nHost: gateway\r\nContent-Length: %d\r\n\r\n%b" % (length, body)


class App:
    """Answers with the request's path once it may; streams when told to, and then stops in the middle."""

    def __init__(self) -> None:
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.starts_early = False
        self.seen: list[str] = []
        self.messages: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.seen.append(scope["path"])
        if self.starts_early:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        message = await receive()
        self.messages.append(message["type"])
        await self.may_answer.wait()
        if message["type"] == "http.disconnect":
            return
        body = scope["path"].encode()
        if not self.starts_early:
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": body})


@pytest.fixture
def app() -> App:
    return App()


@pytest.fixture
def client() -> ClientTransport:
    return ClientTransport()


def statuses(client: ClientTransport) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d+)", client.written)]


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_a_request_is_answered_and_the_connection_stays(app: App, client: ClientTransport) -> None:
    protocol = connected(app, guards(), client)
    for _ in range(2):
        protocol.data_received(GET)
        await settle()
    assert (statuses(client), client.ended, app.seen) == ([200, 200], "", ["/a", "/a"])
    protocol.connection_lost(None)


async def test_a_place_is_taken_and_given_back(app: App, client: ClientTransport) -> None:
    shared = guards()
    protocol = connected(app, shared, client)
    assert shared.census.open == 1
    protocol.connection_lost(None)
    assert shared.census.open == 0
    assert protocol._deadline._handle is None


async def test_without_room_a_client_is_told_and_in_the_end_not_waited_for(app: App) -> None:
    shared = guards(connections=1, per_address=1000)
    transports = [ClientTransport() for _ in range(SPARE_CONNECTIONS + 2)]
    protocols = [connected(app, shared, transport) for transport in transports]
    assert [statuses(transport) for transport in transports] == [[], *[[503]] * (SPARE_CONNECTIONS + 1)]
    assert [transports[0].ended, transports[1].half_closed, transports[-1].ended] == ["", True, "closed"]
    protocols[1].data_received(GET)
    await settle()
    assert app.seen == []
    for protocol in protocols:
        protocol.connection_lost(None)
    assert shared.census.open == 0


async def test_after_a_refusal_nothing_is_parsed_and_little_is_read(app: App, client: ClientTransport) -> None:
    observer = TurnedAway()
    protocol = connected(app, guards(observer), client)
    protocol.data_received(BAD + GET)
    assert (statuses(client), client.half_closed, client.ended) == ([400], True, "")
    protocol.data_received(GET)
    reading = [client.reading]
    protocol.data_received(b"x" * (LINGER_BYTES + 1))
    assert [*reading, client.reading] == [True, False]
    await settle()
    assert (app.seen, observer.codes) == ([], ["malformed_request"])
    protocol._too_slow()
    assert client.ended == "aborted"
    protocol.connection_lost(None)


async def test_a_refusal_waits_for_all_answers_before_it(app: App, client: ClientTransport) -> None:
    protocol = connected(app, guards(), client)
    app.may_answer.clear()
    protocol.data_received(GET + GET + BAD + GET)
    await settle()
    assert statuses(client) == []
    app.may_answer.set()
    await settle()
    assert (statuses(client), app.seen, client.half_closed) == ([200, 200, 400], ["/a", "/a"], True)
    protocol.connection_lost(None)


NOWHERE = b"GET http://a:99999/ HTTP/1.1\r\nHost: a:99999\r\n\r\n"
"""A target that only taking it apart shows to be none."""


async def test_a_target_that_is_none_costs_no_request_before_it(app: App, client: ClientTransport) -> None:
    protocol = connected(app, guards(), client)
    app.may_answer.clear()
    protocol.data_received(GET + NOWHERE)
    await settle()
    app.may_answer.set()
    await settle()
    assert (statuses(client), app.messages) == ([200, 400], ["http.request"])
    protocol.connection_lost(None)


async def test_a_target_that_is_none_is_refused_on_a_connection_that_was_used_before(
    app: App, client: ClientTransport
) -> None:
    protocol = connected(app, guards(), client)
    for sent in (GET, NOWHERE):
        protocol.data_received(sent)
        await settle()
    assert (statuses(client), client.half_closed) == ([200, 400], True)
    protocol.connection_lost(None)


@pytest.mark.parametrize("next_one", [GET + GET[:9], BAD])
async def test_nothing_is_done_for_a_connection_that_can_be_answered_no_more(
    app: App, client: ClientTransport, next_one: bytes
) -> None:
    protocol = connected(app, guards(), client)
    app.may_answer.clear()
    protocol.data_received(GET + next_one)
    await settle()
    protocol.end()  # its answer says that it is the last, as the request was not read
    app.may_answer.set()
    await settle()
    assert app.seen == ["/a"]
    assert statuses(client) == [200]
    protocol.connection_lost(None)


async def test_the_time_of_a_request_begins_with_its_own_head(app: App, client: ClientTransport) -> None:
    protocol = connected(app, guards(), client)
    protocol.data_received(post(b"x", 2))
    protocol._body_begun_at -= 4
    protocol.data_received(b"x" + post(b"x", 2))
    assert protocol._body_begun_at == pytest.approx(asyncio.get_running_loop().time(), abs=1)
    protocol.connection_lost(None)


async def test_a_request_whose_body_breaks_off_is_taken_back(app: App, client: ClientTransport) -> None:
    protocol = connected(app, guards(), client)
    protocol.data_received(b"POST /c HTTP/1.1\r\nHost: gateway\r\nTransfer-Encoding: chunked\r\n\r\n")
    await settle()
    protocol.data_received(b"zz\r\n")
    await settle()
    assert (statuses(client), app.messages) == ([400], ["http.disconnect"])
    protocol.connection_lost(None)


async def test_one_that_waits_its_turn_is_never_begun(app: App, client: ClientTransport) -> None:
    protocol = connected(app, guards(), client)
    app.may_answer.clear()
    protocol.data_received(GET + b"POST /c HTTP/1.1\r\nHost: gateway\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")
    await settle()
    app.may_answer.set()
    await settle()
    assert (statuses(client), app.seen) == ([200, 400], ["/a"])
    protocol.connection_lost(None)


async def test_one_that_is_being_answered_gets_no_second_answer(app: App, client: ClientTransport) -> None:
    app.starts_early = True
    protocol = connected(app, guards(), client)
    protocol.data_received(b"POST /c HTTP/1.1\r\nHost: gateway\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n")
    app.may_answer.clear()
    await settle()
    protocol.data_received(b"zz\r\n")
    app.may_answer.set()
    await settle()
    assert (statuses(client), client.half_closed) == ([200], True)
    protocol.connection_lost(None)


async def test_what_is_answered_unread_is_not_read(app: App, client: ClientTransport) -> None:
    protocol = connected(app, guards(), client)
    protocol.data_received(post(b"x", 100))
    await settle()
    assert (statuses(client), client.half_closed) == ([200], True)
    protocol.data_received(b"x" * 99 + GET)
    await settle()
    assert app.seen == ["/c"]
    protocol.connection_lost(None)


async def test_a_client_that_wants_to_close_is_closed_at_once(app: App, client: ClientTransport) -> None:
    protocol = connected(app, guards(), client)
    protocol.data_received(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
    await settle()
    assert (client.ended, client.half_closed) == ("closed", False)
    protocol.connection_lost(None)


@pytest.mark.parametrize(
    ("sent", "phase", "waits_s"),
    [
        (b"", Phase.FRESH, 10),
        (b"GET", Phase.HEAD, 10),
        (post(b"x", 9), Phase.BODY, 5),
        (GET, Phase.ANSWER, None),
    ],
)
async def test_each_phase_has_its_time(
    app: App, client: ClientTransport, sent: bytes, phase: Phase, waits_s: float | None
) -> None:
    protocol = connected(app, guards(), client)
    if sent:
        protocol.data_received(sent)
    due = protocol._deadline._due
    left_s = None if due is None else due - asyncio.get_running_loop().time()
    assert (protocol._phase, left_s) == (phase, waits_s if waits_s is None else pytest.approx(waits_s, abs=0.5))
    await settle()
    protocol.connection_lost(None)


async def test_an_idle_connection_has_its_own(app: App, client: ClientTransport) -> None:
    protocol = connected(app, guards(keep_alive_s=7), client)
    protocol.data_received(GET)
    await settle()
    assert protocol._deadline._due == pytest.approx(asyncio.get_running_loop().time() + 7, abs=0.5)
    protocol._too_slow()
    assert (client.ended, statuses(client)) == ("closed", [200])
    protocol.connection_lost(None)


async def test_a_client_is_not_blamed_while_it_is_not_read(app: App, client: ClientTransport) -> None:
    protocol = connected(app, guards(), client)
    app.may_answer.clear()
    protocol.data_received(GET + post(AHEAD, len(AHEAD) + 8))
    protocol._body_begun_at -= 100
    protocol._too_slow()
    assert (client.written, client.reading) == (b"", False)
    app.may_answer.set()
    await settle()
    protocol.data_received(b"x" * 8)
    await settle()
    assert (statuses(client), app.seen) == ([200, 200], ["/a", "/c"])
    protocol.connection_lost(None)


async def test_nor_for_a_head_that_is_not_read(app: App, client: ClientTransport) -> None:
    protocol = connected(app, guards(), client)
    app.may_answer.clear()
    protocol.data_received(GET + post(AHEAD, len(AHEAD)) + GET[:9])
    protocol._too_slow()
    assert (client.written, client.reading, protocol._phase) == (b"", False, Phase.HEAD)
    app.may_answer.set()
    await settle()
    protocol.data_received(GET[9:])
    await settle()
    assert statuses(client) == [200, 200, 200]
    protocol.connection_lost(None)


async def test_who_is_a_little_ahead_of_the_answers_is_read_and_so_heard_leaving(
    app: App, client: ClientTransport
) -> None:
    protocol = connected(app, guards(), client)
    app.may_answer.clear()
    protocol.data_received(GET + GET + post(b"x", 2))
    assert client.reading
    protocol.data_received(b"x")
    app.may_answer.set()
    await settle()
    assert app.seen == ["/a", "/a", "/c"]
    protocol.connection_lost(None)


async def test_who_is_far_ahead_is_not_read_before_all_of_it_is_begun(app: App, client: ClientTransport) -> None:
    protocol = connected(app, guards(), client)
    app.may_answer.clear()
    protocol.data_received(GET + GET + post(AHEAD, len(AHEAD)))
    reading = []
    for _ in range(3):
        await settle()
        protocol.flow.resume_reading()  # as who has taken a body does
        reading.append(client.reading)
        app.may_answer.set()
        app.may_answer.clear()
    await settle()
    assert (reading, client.reading) == ([False, False, True], True)
    protocol.data_received(GET + GET)
    assert client.reading, "what was ahead is behind"
    await settle()
    protocol.connection_lost(None)


async def test_only_so_many_requests_wait_on_one_connection(app: App, client: ClientTransport) -> None:
    observer = TurnedAway()
    protocol = connected(app, guards(observer), client)
    app.may_answer.clear()
    protocol.data_received(GET * (1 + MAX_WAITING_REQUESTS))
    assert observer.codes == []
    protocol.data_received(GET * 2)
    assert (observer.codes, len(protocol.pipeline)) == (["too_many_waiting"], MAX_WAITING_REQUESTS)
    app.may_answer.set()
    for _ in range(MAX_WAITING_REQUESTS):
        await settle()
    assert statuses(client) == [200] * (1 + MAX_WAITING_REQUESTS) + [400]
    protocol.connection_lost(None)


async def test_refused_behind_others_it_is_hardly_read_meanwhile(app: App, client: ClientTransport) -> None:
    protocol = connected(app, guards(), client)
    app.may_answer.clear()
    protocol.data_received(GET * 3 + BAD)
    await settle()
    protocol.data_received(b"x" * (LINGER_BYTES + 1))
    reading = []
    for _ in range(2):
        reading.append(client.reading)
        app.may_answer.set()
        app.may_answer.clear()
        await settle()
    assert (reading, len(statuses(client))) == ([False, False], 2)
    assert not client.reading
    app.may_answer.set()
    await settle()
    assert (statuses(client), client.half_closed) == ([200, 200, 200, 400], True)
    protocol.connection_lost(None)


async def test_every_request_that_was_begun_hears_that_its_client_left(client: ClientTransport) -> None:
    heard: list[str] = []

    async def app(scope: Any, receive: Any, _send: Any) -> None:
        while heard[-1:] != ["http.disconnect"]:
            heard.append((await receive())["type"])

    protocol = connected(app, guards(), client)
    protocol.data_received(GET + GET + GET)
    await settle()
    protocol.connection_lost(None)
    await settle()
    assert heard == ["http.request", "http.disconnect"]


async def test_reading_goes_on_in_the_middle_of_a_head_after_a_body_that_nobody_took(client: ClientTransport) -> None:
    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    protocol = connected(app, guards(), client)
    protocol.data_received(post(AHEAD, len(AHEAD)) + GET[:9])
    before = client.reading
    await settle()
    assert (before, client.reading, bytes(protocol.cycle.body)) == (False, True, b"")
    protocol.data_received(GET[9:])
    await settle()
    assert statuses(client) == [200, 200]
    protocol.connection_lost(None)


@pytest.mark.parametrize("closes", ["idle too long", "asked to", "the server stops"])
async def test_a_client_that_does_not_take_the_rest_before_it_is_closed_is_dropped(
    app: App, client: ClientTransport, closes: str
) -> None:
    protocol = connected(app, replace(guards(), write_stall_s=0.01), client)
    client.unsent_bytes = 1000
    protocol.data_received(GET.replace(b"Host", b"Connection: close\r\nHost") if closes == "asked to" else GET)
    await settle()
    if closes == "idle too long":
        protocol._too_slow()
    elif closes == "the server stops":
        protocol.shutdown()
    assert client.ended == "closed"
    protocol.resume_writing()  # it has taken some, but not all
    await asyncio.sleep(0.03)
    assert client.ended == "aborted"
    protocol.connection_lost(None)


async def test_nobody_is_watched_who_has_left(app: App, client: ClientTransport) -> None:
    protocol = connected(app, replace(guards(), write_stall_s=0.01), client)
    protocol.pause_writing()
    protocol.connection_lost(None)
    await asyncio.sleep(0.03)
    assert client.ended == "closed"


async def test_who_has_taken_everything_needs_no_timer_to_be_closed(app: App, client: ClientTransport) -> None:
    protocol = connected(app, guards(), client)
    protocol.data_received(GET)
    await settle()
    protocol._too_slow()
    assert (client.ended, protocol._stall) == ("closed", None)
    protocol.connection_lost(None)


@pytest.mark.parametrize("cut", [0, len(GET) + 20, len(GET) + 9000])
async def test_a_large_header_line_is_found_behind_another_request(app: App, client: ClientTransport, cut: int) -> None:
    protocol = connected(app, guards(), client)
    data = GET + GET.replace(b"Host", b"X: " + b"x" * 8300 + b"\r\nHost")
    for piece in (data[:cut], data[cut:]):
        if piece:
            protocol.data_received(piece)
    await settle()
    assert statuses(client) == [200, 431]
    protocol.connection_lost(None)


async def test_trailers_are_not_headers(app: App, client: ClientTransport) -> None:
    protocol = connected(app, guards(), client)
    protocol.data_received(b"POST /c HTTP/1.1\r\nHost: gateway\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n")
    protocol.data_received(b"0\r\nAuthorization: x\r\n\r\n")
    assert [name for name, _ in protocol.cycle.scope["headers"]] == [b"host", b"transfer-encoding"]
    await settle()
    protocol.connection_lost(None)


async def test_who_was_told_everything_does_not_hold_up_the_end(app: App, client: ClientTransport) -> None:
    protocol = connected(app, guards(), client)
    protocol.data_received(b"POST /c HTTP/1.1\r\nHost: gateway\r\nTransfer-Encoding: chunked\r\n\r\n")
    await settle()
    protocol.data_received(b"zz\r\n")
    assert (statuses(client), client.ended) == ([400], "")
    protocol.shutdown()
    assert client.ended == "closed"
    protocol.connection_lost(None)


@pytest.mark.parametrize("received", [b"", GET[:9]], ids=["nothing", "half a head"])
async def test_a_request_that_is_on_its_way_when_the_server_stops_is_served(
    received: bytes, app: App, client: ClientTransport
) -> None:
    protocol = connected(app, guards(draining=True), client)
    if received:
        protocol.data_received(received)
    protocol.shutdown()
    assert protocol._deadline._due == pytest.approx(asyncio.get_running_loop().time() + 1, abs=0.5)
    protocol.data_received(GET[len(received) :])
    await settle()
    assert (statuses(client), client.ended, app.seen) == ([200], "closed", ["/a"])
    protocol.connection_lost(None)


async def test_who_asks_for_nothing_when_the_server_stops_is_not_waited_for(app: App) -> None:
    fresh, idle = ClientTransport(), ClientTransport()
    protocols = [connected(app, guards(), transport) for transport in (fresh, idle)]
    protocols[1].data_received(GET)
    await settle()
    for protocol in protocols:
        protocol.shutdown()
    assert (fresh.ended, idle.ended) == ("", "closed")
    protocols[0]._too_slow()
    assert (fresh.ended, fresh.written) == ("closed", b"")
    for protocol in protocols:
        protocol.connection_lost(None)


async def test_while_it_drains_every_answer_is_the_last_of_its_connection(app: App, client: ClientTransport) -> None:
    protocol = connected(app, guards(draining=True), client)
    protocol.data_received(GET)
    await settle()
    assert (statuses(client), client.ended) == ([200], "closed")
    assert b"connection: close" in client.written
    protocol.connection_lost(None)


async def test_a_body_that_nobody_takes_is_not_read_for_ever(app: App, client: ClientTransport) -> None:
    protocol = connected(app, guards(), client)
    protocol.data_received(post(b"x" * 70_000, 80_000))
    before = client.reading
    await settle()
    assert (before, client.reading) == (False, True)
    protocol.connection_lost(None)
    await settle()


async def test_http_1_0_knows_of_no_100(app: App, client: ClientTransport) -> None:
    protocol = connected(app, guards(), client)
    head = post(b"", 2).replace(b"HTTP/1.1", b"HTTP/1.0").replace(b"Host", b"Expect: 100-continue\r\nHost")
    protocol.data_received(head)
    await settle()
    assert client.written == b""
    protocol.data_received(b"{}")
    await settle()
    assert statuses(client) == [200]
    protocol.connection_lost(None)
