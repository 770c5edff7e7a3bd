"""JSON made to stop the loop, to mean two things, or to be read by nobody: refused in time, and no engine sees it."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx
import orjson
import pytest
import pytest_asyncio

from tests.support.gateway import COMPLETIONS, Site, settings, site
from tests.support.scripted_engine import (
    MODEL,
    Connection,
    Request,
    ScriptedEngine,
    answer,
    completion,
    scripted_engine,
)

MAX_STALL_S = 0.25
"""Five times what is aimed at, as client and engine share the loop; without bounds it is seconds."""

MAX_BODY_BYTES = 8 << 20

pytestmark = pytest.mark.asyncio(loop_scope="module")


@dataclass
class Front:
    """A gateway and the engine behind it."""

    site: Site
    engine: ScriptedEngine

    async def post(self, raw: bytes) -> httpx.Response:
        """A completion with this body."""
        return await self.site.client.post(COMPLETIONS, content=raw, headers={"content-type": "application/json"})


async def _answer(connection: Connection, _: Request) -> None:
    await connection.send(answer(completion()))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def front() -> AsyncIterator[Front]:
    """One gateway with the default limits for all tests."""
    async with scripted_engine(_answer) as engine, site(settings(aggregated=engine.url)) as running:
        yield Front(running, engine)


@asynccontextmanager
async def stalls() -> AsyncIterator[list[float]]:
    """The seconds of CPU that each turn of the loop took while the block lasted; others' load does not count."""
    turns_s = [0.0]

    async def look() -> None:
        while True:
            before = time.thread_time()
            await asyncio.sleep(0)
            turns_s.append(time.thread_time() - before)

    async with asyncio.TaskGroup() as tasks:
        looking = tasks.create_task(look())
        yield turns_s
        looking.cancel()


def with_field(value: bytes, name: bytes = b"x") -> bytes:
    """A completion with one more field."""
    return b'{"model":"%b","prompt":"a","%b":%b}' % (MODEL.encode(), name, value)


def filled(piece: bytes, last: bytes) -> bytes:
    """An array of so many pieces as a body may have bytes."""
    return b"[" + piece * ((MAX_BODY_BYTES - 100) // len(piece)) + last + b"]"


def nested(levels: int, opening: bytes = b"[", closing: bytes = b"]") -> bytes:
    return opening * levels + b"1" + closing * levels


KEYS = b"{" + b",".join(b'"%d":1' % i for i in range(600_000)) + b"}"

TOO_COSTLY = {
    "64 levels below the body": with_field(nested(64)),
    "500 levels": with_field(nested(500)),
    "2,000 levels": with_field(nested(2000)),
    "1,000,000 objects in each other": with_field(nested(1_000_000, b'{"":', b"}")),
    "5,000,000 arrays begun": b"[" * 5_000_000,
    "5,000,000 objects begun": b'{"":' * 1_200_000,
    "small arrays": with_field(filled(b"[[]],", b"1")),
    "numbers": with_field(filled(b"1,", b"1")),
    "empty strings": with_field(filled(b'"",', b'""')),
    "quotes": with_field(b'"' * (MAX_BODY_BYTES - 100)),
    "quotes and commas": with_field(filled(b'",', b'"')),
    "backslashes and commas": with_field(b"\\," * 4_000_000),
    "600,000 keys": with_field(KEYS),
    "800,000 messages": with_field(filled(b"{},", b"{}"), b"messages"),
    "1,000,000 stops": with_field(filled(b'"a",', b'"b"'), b"stop"),
    "2,000,000 prompts": with_field(filled(b'"",', b'""'), b"prompt"),
    "4,000,000 token ids": with_field(filled(b"1,", b"1"), b"prompt"),
}

NOT_JSON = {
    "nothing": b"",
    "a space": b" ",
    "half an object": with_field(b"1")[:-1],
    "half a string": with_field(b'"a')[:-1],
    "two objects": with_field(b"1") * 2,
    "a NUL at the end": with_field(b"1") + b"\0",
    "NaN": with_field(b"NaN", b"temperature"),
    "-Infinity": with_field(b"-Infinity", b"temperature"),
    "1e999": with_field(b"1e999", b"temperature"),
    "10,000 digits": with_field(b"1" * 10_000, b"seed"),
    "8,000,000 digits": with_field(b"1" * 8_000_000, b"seed"),
    "a high surrogate alone": with_field(rb'"\ud800"'),
    "a low surrogate alone": with_field(rb'"\udc00"'),
    "a surrogate in UTF-8": with_field(b'"\xed\xa0\x80"'),
    "an overlong slash": with_field(b'"\xc0\xaf"'),
    "half a character": with_field(b'"\xe6\xbc"'),
    "UTF-16": with_field(b"1").decode().encode("utf-16"),
    "UTF-32": with_field(b"1").decode().encode("utf-32-le"),
    "a byte order mark": b"\xef\xbb\xbf" + with_field(b"1"),
    "a newline in a string": with_field(b'"\n"'),
    "a comment": with_field(b"1/**/"),
    "a comma too many": with_field(b"[1,]"),
    "apostrophes": b"{'model':'m'}",
}

NO_REQUEST = {
    "null": b"null",
    "true": b"true",
    "an array": b"[" + with_field(b"1") + b"]",
    "a string": b'"' + MODEL.encode() + b'"',
    "no model": b"{}",
    "a model of two": with_field(b'["a","b"]', b"model"),
    "stream in words": with_field(b'"true"', b"stream"),
    "max_tokens of 2^63": with_field(b"9223372036854775808", b"max_tokens"),
    "max_tokens of 2^64": with_field(b"18446744073709551616", b"max_tokens"),
    "a seed of 1e300": with_field(b"1e300", b"seed"),
    "n of 300 digits": with_field(b"1" * 300, b"n"),
    "parameters of a hand-over, null last": with_field(b'{"remote_host":"10.0.0.1"},"kv_transfer_params":null').replace(
        b'"x"', b'"kv_transfer_params"'
    ),
    "parameters of a hand-over, escaped": with_field(b"{}", rb"kv_transfer_\u0070arams"),
}

CORPUS = TOO_COSTLY | NOT_JSON | NO_REQUEST


@pytest.mark.parametrize("name", CORPUS)
async def test_it_is_refused_in_time_and_no_engine_sees_it(name: str, front: Front) -> None:
    before = len(front.engine.requests)
    async with stalls() as turns_s:
        refused = await front.post(CORPUS[name])
    error = refused.json()["error"]
    assert refused.status_code in ((400, 413) if name in TOO_COSTLY else (400,))
    assert error["type"] == "invalid_request_error"
    assert error["message"]
    assert refused.headers["x-request-id"]
    assert len(front.engine.requests) == before
    assert max(turns_s) < MAX_STALL_S
    assert (await front.post(with_field(b"1"))).status_code == 200


@pytest.mark.parametrize(
    "prompt",
    [
        b'"' + rb"\\\"" * 2_000_000 + b"," * 200_000 + b'"',
        b'"' + rb"\n" * 4_000_000 + b'"',
        b'"' + rb"\ud83d\ude00" * 650_000 + b'"',
        b'"' + "\u6f22".encode() * 2_700_000 + b'"',
        b"[" + b"1," * 131_071 + b"1]",
        b'"' + b"[{" * 1_000_000 + b'"',
    ],
    ids=["backslashes and quotes", "newlines", "escaped pairs", "three bytes each", "128k token ids", "brackets"],
)
async def test_what_is_large_and_right_is_served_without_a_stall(prompt: bytes, front: Front) -> None:
    raw = with_field(prompt, b"prompt")
    async with stalls() as turns_s:
        served = await front.post(raw)
    assert served.status_code == 200
    assert front.engine.requests[-1].json == orjson.loads(raw)
    assert max(turns_s) < MAX_STALL_S


@pytest.mark.parametrize(
    ("name", "first", "last"),
    [("model", b'"m"', b'"%b"' % MODEL.encode()), ("stream", b"true", b"false"), ("max_tokens", b"1", b"20")],
)
async def test_of_a_repeated_key_engines_see_only_what_the_gateway_saw(
    name: str, first: bytes, last: bytes, front: Front
) -> None:
    escaped = name.replace("m", r"\u006d", 1).replace("s", r"\u0073", 1).encode()
    served = await front.post(
        b'{"model":"%b","prompt":"a","%b":%b,"%b":%b}' % (MODEL.encode(), name.encode(), first, escaped, last)
    )
    assert served.status_code == 200
    sent = front.engine.requests[-1]
    assert (sent.body.count(b'"%b":' % name.encode()), sent.json[name]) == (1, orjson.loads(last))


async def test_the_bounds_are_those_that_are_set() -> None:
    edge = {"max_json_depth": 8, "max_json_values": 1000}
    async with scripted_engine(_answer) as engine, site(settings(aggregated=engine.url, edge=edge)) as running:
        front = Front(running, engine)
        bodies = [nested(7), nested(8), b"[" + b"1," * 995 + b"1]", b"[" + b"1," * 996 + b"1]"]
        assert [(await front.post(with_field(body))).status_code for body in bodies] == [200, 400, 200, 413]
