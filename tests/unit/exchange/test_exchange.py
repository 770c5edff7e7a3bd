import asyncio
from dataclasses import replace

import orjson
import pytest

from router.errors import (
    BadAnswer,
    ConnectFailed,
    ConnectionLost,
    EngineError,
    EngineFault,
    EngineRefusal,
    EngineTimeout,
    ErrorEvent,
    Leg,
    Outcome,
    OutOfTime,
    OversizedAnswer,
)
from tests.support.gateway import body
from tests.support.legs import Stand, call, stand
from tests.support.scripted_engine import (
    DONE,
    LAST_CHUNK,
    Connection,
    Request,
    Script,
    answer,
    chunk,
    completion,
    error,
    event,
    handover,
    head,
    says,
    says_and_closes,
    says_and_waits,
    stream,
    stream_head,
)
from tests.support.virtual_time import virtual_time

PREFILLED = says(answer(handover(cached_tokens=3)))
ANSWERED = says(answer(completion()))
STREAMED = says(stream("a", "b"))


def run_on(prefill: Script, decode: Script, test: object, **given: object) -> None:
    """Run `test` with a stand on virtual time; at its end nothing must be held."""

    @virtual_time
    async def run() -> None:
        async with stand(prefill, decode, **given) as made:  # type: ignore[arg-type]
            await test(made)  # type: ignore[operator]
            await made.at_rest()

    run()


@virtual_time
async def test_both_legs_have_the_same_request() -> None:
    async with stand(PREFILLED, ANSWERED) as made:
        assert orjson.loads(await made.ask(extra=[1]))["choices"] == completion()["choices"]
        first, second = made.prefill.requests[0], made.decode.requests[0]
        assert first.headers["x-request-id"] == second.headers["x-request-id"] == "id-1"
        asked = {"max_tokens": 1, "stream": False, "n": 1, "kv_transfer_params": {"do_remote_decode": True}}
        assert first.json == body(extra=[1]) | asked
        assert second.json == body(extra=[1]) | {"kv_transfer_params": handover()["kv_transfer_params"]}
        assert made.prefill_outcomes == [Outcome.OK]
        assert made.journey.prefilled_at is not None
        await made.at_rest()
        assert not made.told.counts


@virtual_time
async def test_a_stream_is_opened_with_its_first_events() -> None:
    async with stand(
        PREFILLED, says_and_waits(stream_head(), chunk(b": ping\n\n"), chunk(event("a")[:9]), chunk(event("a")[9:]))
    ) as made:
        assert await made.ask(stream=True) == event("a")
        await made.at_rest()
        assert not made.told.counts


@virtual_time
async def test_one_engine_alone_gets_the_body_as_it_is() -> None:
    async with stand(PREFILLED, ANSWERED) as made:
        legs = replace(made.legs, prefill=None)
        async with made.exchange.open(call(), legs, made.journey) as opened:
            assert orjson.loads(opened.body)["choices"]
        assert (made.prefill.accepted, made.decode.bodies) == (0, [body()])


async def _resets(connection: Connection, _: Request) -> None:
    connection.rst()


BAD_PREFILLS: dict[str, tuple[Script, str]] = {
    "500": (says(answer(error(500), "500 Internal Server Error")), "engine_error"),
    "401": (says(answer(error(401), "401 Unauthorized")), "engine_error"),
    "redirect": (says(head("302 Found", location="http://127.0.0.1:9/", content_length="0")), "bad_answer"),
    "reset": (_resets, "connection_lost"),
    "cut": (says_and_closes(answer(handover())[:-1]), "connection_lost"),
    "silent": (says_and_waits(), "timeout"),
    "not json": (says(answer(b"{")), "bad_answer"),
    "html": (says(answer(handover(), content_type="text/html")), "bad_answer"),
    "gzip": (says(answer(handover(), content_encoding="gzip")), "bad_answer"),
    "no parameters": (says(answer(completion())), "bad_handoff"),
    "bad parameters": (says(answer(handover(remote_port=0))), "bad_handoff"),
    "large": (says(answer(completion("x" * 100_000))), "oversized_answer"),
}


@pytest.mark.parametrize(("prefill", "reason"), BAD_PREFILLS.values(), ids=BAD_PREFILLS)
def test_without_a_usable_hand_over_decode_is_not_asked(prefill: Script, reason: str) -> None:
    async def test(made: Stand) -> None:
        with pytest.raises(EngineFault) as caught:
            await made.ask()
        assert (caught.value.reason, caught.value.leg) == (reason, Leg.PREFILL)
        assert made.decode.requests == []
        assert len(made.prefill.requests) == 1
        assert made.prefill_outcomes == [Outcome.TIMEOUT if reason == "timeout" else Outcome.UPSTREAM_ERROR]

    run_on(prefill, ANSWERED, test, max_answer_bytes=50_000)


@virtual_time
async def test_nothing_to_hand_over_is_nobodys_fault() -> None:
    over = completion() | {"choices": [{"index": 0, "text": "", "finish_reason": "stop"}]}
    async with stand(says(answer(over)), ANSWERED) as made:
        await made.ask()
        assert (made.decode.bodies, made.journey.fallback_reason) == ([body()], "nothing_to_hand_over")
        assert made.prefill_outcomes == [Outcome.OK]


@virtual_time
async def test_a_refusal_of_the_prefill_engine_is_the_answer() -> None:
    async with stand(says(answer(error(400, "too long"), "400 Bad Request")), ANSWERED) as made:
        with pytest.raises(EngineRefusal) as caught:
            await made.ask()
        assert (caught.value.status, orjson.loads(caught.value.body)) == (400, error(400, "too long"))
        await made.at_rest()
        assert made.decode.requests == []
        assert not made.told.counts


BAD_ANSWERS: dict[str, tuple[Script, type[EngineFault]]] = {
    "500": (says(answer(error(500), "500 Internal Server Error")), EngineError),
    "503": (says(answer(b"busy", "503 Service Unavailable", content_type="text/plain")), EngineError),
    "401": (says(answer(error(401), "401 Unauthorized")), EngineError),
    "redirect": (says(head("307 Temporary Redirect", location="http://127.0.0.1:9/", content_length="0")), BadAnswer),
    "no content": (says(head("204 No Content")), BadAnswer),
    "empty": (says(answer(b"")), BadAnswer),
    "html": (says(answer(b"<html>", content_type="text/html")), BadAnswer),
    "reset": (_resets, ConnectionLost),
    "silent": (says_and_waits(), EngineTimeout),
    "large head": (says_and_closes(head(x="y" * 400_000)), BadAnswer),
    "not http": (says(b"+OK ready\r\n"), BadAnswer),
}

BAD_COMPLETIONS: dict[str, tuple[Script, type[EngineFault]]] = {
    "error": (says(answer(error(500))), BadAnswer),
    "encoded": (says(answer(completion(), content_encoding="gzip")), BadAnswer),
    "a stream": (STREAMED, BadAnswer),
    "cut": (says_and_closes(answer(completion())[:-1]), ConnectionLost),
    "cut chunks": (
        says_and_closes(head(content_type="application/json", transfer_encoding="chunked") + chunk(b"{}")),
        ConnectionLost,
    ),
    "trickling": (says_and_waits(answer(completion())[:-1]), EngineTimeout),
    "large": (says(answer(completion("x" * 100_000))), OversizedAnswer),
}

BAD_STREAMS: dict[str, tuple[Script, type[EngineFault]]] = {
    "no event": (says(stream_head() + LAST_CHUNK), BadAnswer),
    "only done": (says(stream()), BadAnswer),
    "only comments": (says(stream_head() + chunk(b": ping\n\n") + LAST_CHUNK), BadAnswer),
    "empty": (says(head(content_type="text/event-stream", content_length="0")), BadAnswer),
    "an error": (
        says(stream_head() + chunk(b'data: {"error":{"message":"no","code":500}}\n\n') + chunk(DONE) + LAST_CHUNK),
        ErrorEvent,
    ),
    "an error after a comment": (
        says(stream_head() + chunk(b': x\n\ndata: {"error":{}}\n\n') + LAST_CHUNK),
        ErrorEvent,
    ),
    "json": (ANSWERED, BadAnswer),
    "encoded": (says(stream_head(content_encoding="gzip") + chunk(event("a"))), BadAnswer),
    "cut": (says_and_closes(stream_head() + chunk(event("a")[:-1])), ConnectionLost),
    "silent": (says_and_waits(stream_head()), EngineTimeout),
    "comments for ever": (says_and_waits(stream_head(), chunk(b": ping\n\n"), chunk(b": ping\n\n")), EngineTimeout),
    "a large event": (
        says(stream_head() + chunk(b"data: " + b"x" * (2 << 20) + b"\n\n") + LAST_CHUNK),
        OversizedAnswer,
    ),
}


@pytest.mark.parametrize(
    ("decode", "fault", "streams"),
    [
        *[pytest.param(*row, s, id=f"{name}-{s}") for name, row in BAD_ANSWERS.items() for s in (False, True)],
        *[pytest.param(*row, False, id=f"completion {name}") for name, row in BAD_COMPLETIONS.items()],
        *[pytest.param(*row, True, id=f"stream {name}") for name, row in BAD_STREAMS.items()],
    ],
)
def test_what_is_no_answer_is_never_opened(decode: Script, fault: type[EngineFault], streams: bool) -> None:
    async def test(made: Stand) -> None:
        with pytest.raises(EngineFault) as caught:
            await made.ask(stream=streams)
        exact = OutOfTime if fault is EngineTimeout and not streams else fault
        assert (type(caught.value), caught.value.leg) == (exact, Leg.DECODE)
        assert made.prefill.url[7:] not in caught.value.message
        assert made.decode.url[7:] not in caught.value.message
        assert len(made.decode.requests) == 1
        await made.at_rest()
        error = caught.value
        answered = isinstance(error, EngineError) or (isinstance(error, BadAnswer) and error.over)
        assert len(made.decode.requests) == 1 + answered, "a decode engine may be pulling: nothing must be released"
        refused_release = answered and exact is not OversizedAnswer  # the script answers that as it did the request
        assert made.told.counts == {f"stranded {'bad_answer' if refused_release else exact.reason}": 1}

    run_on(PREFILLED, decode, test, max_answer_bytes=50_000)


@pytest.mark.parametrize(
    ("name", "over"), [("empty", True), ("no event", True), ("only comments", True), ("encoded", False)]
)
def test_what_is_known_to_be_over_is_released(name: str, over: bool) -> None:
    async def test(made: Stand) -> None:
        with pytest.raises(BadAnswer) as caught:
            await made.ask(stream=True)
        assert caught.value.over is over
        await made.at_rest()
        assert len(made.decode.requests) == 1 + over

    run_on(PREFILLED, BAD_STREAMS[name][0], test)


@pytest.mark.parametrize(
    ("streams", "prompt", "expected_s"),
    [(True, "x", 10), (False, "x", 100), (True, "x" * 8000, 12), (False, "x" * 8000, 100)],
)
def test_waits_for_decode_grow_with_the_prompt_inside_the_total(streams: bool, prompt: str, expected_s: float) -> None:
    async def test(made: Stand) -> None:
        began = asyncio.get_running_loop().time()
        with pytest.raises(EngineTimeout):
            await made.ask(stream=streams, prompt=prompt)
        assert asyncio.get_running_loop().time() - began == pytest.approx(expected_s, abs=0.2)

    run_on(PREFILLED, says_and_waits(), test, first_event_timeout_s=10, total_s=100)


def test_the_wait_for_prefill_is_bounded_too() -> None:
    async def test(made: Stand) -> None:
        began = asyncio.get_running_loop().time()
        with pytest.raises(EngineTimeout):
            await made.ask(prompt="x" * 8000)
        assert asyncio.get_running_loop().time() - began == pytest.approx(9, abs=0.2)

    run_on(says_and_waits(), ANSWERED, test, prefill_timeout_s=7)


@pytest.mark.parametrize(
    ("prefill", "decode", "streams", "leg"),
    [
        (says_and_waits(), ANSWERED, True, Leg.PREFILL),
        (PREFILLED, says_and_waits(), True, Leg.DECODE),
        (PREFILLED, says_and_waits(), False, Leg.DECODE),
    ],
    ids=["prefill answer", "first event", "whole answer"],
)
def test_the_requests_own_time_ends_whatever_is_awaited(
    prefill: Script, decode: Script, streams: bool, leg: Leg
) -> None:
    async def test(made: Stand) -> None:
        began = asyncio.get_running_loop().time()
        with pytest.raises(OutOfTime) as caught:
            await made.ask(stream=streams)
        assert caught.value.leg is leg
        assert asyncio.get_running_loop().time() - began == pytest.approx(3, abs=0.2)

    run_on(prefill, decode, test, total_s=3)


@virtual_time
async def test_a_decode_engine_that_refuses_connections_wastes_no_prefill() -> None:
    async with stand(PREFILLED, ANSWERED) as made, stand(PREFILLED, ANSWERED) as other:
        pass
    async with stand(PREFILLED, ANSWERED) as made:
        with pytest.raises(ConnectFailed):
            async with made.exchange.open(call(), replace(made.legs, decode=other.legs.decode), made.journey):
                pass
        assert made.prefill.accepted == 0


async def _turns_releases_down(connection: Connection, request: Request) -> None:
    refused = request.json["model"] == "pd-router/release"
    await connection.send(answer(error(404), "404 Not Found") if refused else answer(completion()))


async def _slow_prefill(connection: Connection, _: Request) -> None:
    await asyncio.sleep(2)
    await connection.send(answer(handover()))


@virtual_time
async def test_decode_is_not_asked_on_a_connection_that_got_too_old_during_the_prefill_leg() -> None:
    async with stand(_slow_prefill, ANSWERED) as made:
        await made.ask()
        await asyncio.sleep(3)
        await made.ask()
        assert (made.decode.accepted, len(made.decode.requests)) == (2, 2)
        await made.at_rest()
        assert not made.told.counts


@virtual_time
async def test_where_that_connection_cannot_be_replaced_the_hand_over_is_given_back() -> None:
    async with stand(_slow_prefill, _turns_releases_down) as made:
        await made.ask()
        await asyncio.sleep(3)
        asking = asyncio.get_running_loop().create_task(made.ask())
        await asyncio.sleep(1)
        pool = made.connections.to(made.decode.url)
        port, pool._port = pool._port, 1
        with pytest.raises(ConnectFailed) as caught:
            await asking
        pool._port = port
        assert caught.value.leg is Leg.DECODE
        await made.at_rest()
        assert made.told.counts == {"released upstream_error": 1}


@virtual_time
async def test_a_hand_over_that_got_too_old_is_given_back_and_not_sent() -> None:
    async def slow(connection: Connection, _: Request) -> None:
        await asyncio.sleep(11)
        await connection.send(answer(handover()))

    async with stand(slow, _turns_releases_down) as made:
        await made.ask()
        await made.at_rest()
        assert body() in made.decode.bodies
        assert len(made.decode.bodies) == 2
        assert made.told.counts == {"released over_age": 1}
        assert made.journey.fallback_reason == "over_age"
