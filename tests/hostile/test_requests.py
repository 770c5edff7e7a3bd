"""Requests that must not be served: the right 4xx, a closed connection, and nothing of them reaches an engine."""

import asyncio

import pytest

from tests.hostile.conftest import Front
from tests.hostile.corpus import CASES
from tests.support.gateway import post
from tests.support.raw_http import answers, connected_to, talk

pytestmark = pytest.mark.asyncio(loop_scope="module")

SMUGGLED = post()
"""A good request right behind a bad one. It must never be served."""


async def test_the_corpus_is_large() -> None:
    assert len(CASES) >= 60


@pytest.mark.parametrize("name", CASES)
async def test_it_is_refused_and_nothing_behind_it_is_read(front: Front, name: str) -> None:
    status, raw = CASES[name]
    served = len(front.engine.requests)
    (answer,) = answers(await talk(front.url, raw + SMUGGLED))
    assert (answer.status, answer.error["type"]) == (status, "invalid_request_error")
    assert answer.error.keys() == {"message", "type", "param", "code"}
    assert answer.headers["connection"] == "close"
    assert answer.headers["x-request-id"]
    assert len(front.engine.requests) == served


@pytest.mark.parametrize("name", ["length and chunks", "two hosts", "a space after the size", "endless headers"])
async def test_it_is_refused_however_it_is_cut(front: Front, name: str) -> None:
    status, raw = CASES[name]
    async with connected_to(front.url) as (reader, writer):
        for start in range(0, len(raw), max(1, len(raw) // 50)):
            writer.write(raw[start : start + max(1, len(raw) // 50)])
            await asyncio.sleep(0)
        async with asyncio.timeout(5):
            (answer,) = answers(await reader.read())
    assert answer.status == status


async def test_it_waits_for_the_answers_to_what_was_asked_before(front: Front) -> None:
    good, bad = post(stream=True), CASES["two hosts"][1]
    said = await talk(front.url, good + bad + SMUGGLED)
    first, _, rest = said.partition(b"0\r\n\r\n")
    assert first.startswith(b"HTTP/1.1 200")
    assert first.count(b"hel") == 1
    assert b"[DONE]" in first
    (answer,) = answers(rest)
    assert answer.status == 400


async def test_a_body_that_breaks_off_behind_a_good_request_is_refused_in_its_turn(front: Front) -> None:
    said = await talk(front.url, post() + CASES["a size of letters"][1] + SMUGGLED)
    assert [answer.status for answer in answers(said)] == [200, 400]


async def test_nothing_is_read_after_a_request_that_closes(front: Front) -> None:
    served = len(front.engine.requests)
    said = await talk(front.url, post(more="connection: close\r\n") + SMUGGLED)
    assert [answer.status for answer in answers(said)] == [200]
    assert len(front.engine.requests) == served + 1


async def test_good_traffic_goes_on_while_bad_is_thrown(front: Front) -> None:
    loop = asyncio.get_running_loop()
    lags_s: list[float] = []

    async def good() -> None:
        for _ in range(60):
            begun = loop.time()
            answer = await front.site.ask(stream=True)
            lags_s.append(loop.time() - begun)
            assert (answer.status_code, answer.text.count("[DONE]")) == (200, 1)

    async def bad(raw: bytes) -> None:
        assert await talk(front.url, raw)

    async with asyncio.TaskGroup() as group:
        for _ in range(2):
            group.create_task(good())
        for _, raw in CASES.values():
            group.create_task(bad(raw + SMUGGLED))
    assert len(lags_s) == 120
    assert sorted(lags_s)[60] < 0.25


async def test_refusals_are_counted_by_name(front: Front) -> None:
    before = front.site.count("refused", code="expectation_failed")
    await talk(front.url, CASES["an unknown expectation"][1])
    assert front.site.count("refused", code="expectation_failed") == before + 1


# What looks odd and is right


async def test_a_thousand_pipelined_requests_are_answered_in_order(front: Front) -> None:
    lines = [b"GET /v1/models/m%d HTTP/1.1\r\nHost: gateway\r\n\r\n" % number for number in range(1000)]
    lines[-1] = lines[-1][:-2] + b"Connection: close\r\n\r\n"
    said = await talk(front.url, b"".join(lines), within_s=20)
    told = list(answers(said))
    assert [answer.status for answer in told] == [404] * 1000
    assert all(f"'m{number}'" in answer.error["message"] for number, answer in enumerate(told))


async def test_a_length_of_thousands_of_digits_is_read_as_the_number_it_is(front: Front) -> None:
    head, _, body = post(more="connection: close\r\n").partition(b"\r\n\r\n")
    head = head.replace(b"content-length: ", b"content-length: " + b"0" * 5000)
    async with connected_to(front.url) as (reader, writer), asyncio.timeout(5):
        writer.write(head + b"\r\n\r\n" + body[:9])
        await asyncio.sleep(0.05)
        writer.write(body[9:])
        assert [answer.status for answer in answers(await reader.read())] == [200]


@pytest.mark.parametrize(
    "target", ["/v1/completions", "http://gateway/v1/completions", "HTTP://GATEWAY/v1/completions"]
)
async def test_absolute_form_is_served_for_the_same_host(front: Front, target: str) -> None:
    said = await talk(front.url, post(target, more="connection: close\r\n"))
    assert [answer.status for answer in answers(said)] == [200]


async def test_a_chunked_body_is_served_with_extensions_and_trailers(front: Front) -> None:
    head, _, body = post(more="connection: close\r\n").partition(b"\r\n\r\n")
    lines = [line for line in head.split(b"\r\n") if not line.startswith(b"content-length")]
    chunks = b"%x;name=value\r\n%b\r\n0\r\nX-Sum: 1\r\n\r\n" % (len(body), body)
    raw = b"\r\n".join([*lines, b"transfer-encoding: chunked", b"", b""]) + chunks
    assert [answer.status for answer in answers(await talk(front.url, raw))] == [200]


@pytest.mark.parametrize(
    "framing",
    [
        b"0\r\n" + b"X: " + b"a" * 1_000_000 + b"\r\n\r\n",
        b"0\r\n" + b"X: a\r\n" * 100_000 + b"\r\n",
        b"1;" + b"a" * 1_000_000 + b"\r\nx\r\n0\r\n\r\n",
        b"0" * 1_000_000 + b"1\r\nx\r\n0\r\n\r\n",
    ],
    ids=["one trailer", "many trailers", "an extension", "a size"],
)
async def test_a_megabyte_of_framing_is_refused(front: Front, framing: bytes) -> None:
    raw = b"POST /v1/completions HTTP/1.1\r\nHost: gateway\r\nTransfer-Encoding: chunked\r\n\r\n" + framing
    (answer,) = answers(await talk(front.url, raw))
    assert (answer.status, "framing" in answer.error["message"]) == (400, True)


async def test_an_expected_continue_is_sent(front: Front) -> None:
    head, _, body = post(more="expect: 100-continue\r\nconnection: close\r\n").partition(b"\r\n\r\n")
    async with connected_to(front.url) as (reader, writer):
        writer.write(head + b"\r\n\r\n")
        async with asyncio.timeout(5):
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            writer.write(body)
            assert [answer.status for answer in answers(await reader.read())] == [200]


async def test_an_http_1_0_client_gets_a_stream_that_ends_with_its_connection(front: Front) -> None:
    head, _, rest = (await talk(front.url, post(stream=True).replace(b"HTTP/1.1", b"HTTP/1.0"))).partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head
    assert b"connection: close" in head
    events = rest.split(b"\n\n")
    assert [event[:6] for event in events] == [b"data: ", b"data: ", b"data: ", b""]
    assert events[-2] == b"data: [DONE]"


async def test_an_http_1_0_client_gets_a_length_where_there_is_one(front: Front) -> None:
    for raw in (post(), post("/v1/nothing")):
        (answer,) = answers(await talk(front.url, raw.replace(b"HTTP/1.1", b"HTTP/1.0")))
        assert answer.headers["connection"] == "close"


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate", "zstd", "gzip, identity"])
async def test_compressed_bodies_are_not_unpacked(front: Front, encoding: str) -> None:
    (answer,) = answers(await talk(front.url, post(more=f"content-encoding: {encoding}\r\n")))
    assert (answer.status, answer.error["code"]) == (415, "unsupported_media_type")
