"""What the comparison under faults makes of answers and of the engines' books; one scenario as it is run."""

import asyncio
import json
import random
import socket
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from bench.compare import routers
from bench.compare.routers import Place, Router
from bench.faults.__main__ import main
from bench.faults.clients import Clients, Happening, a_body, after_events, within
from bench.faults.fates import Fate, fate
from bench.faults.report import command_lines, table
from bench.faults.scenarios import SCENARIOS
from bench.faults.stand import NotReady, Stand
from bench.faults.trial import Books, Result, result, trial
from router.bench.client import Reply
from router.sim.text import reference_text
from tests.support.scripted_engine import (
    Connection,
    Request,
    answer,
    chunk,
    head,
    says,
    says_and_closes,
    says_and_waits,
    scripted_engine,
    stream_head,
)

BODY = a_body("1")
RIGHT = reference_text("sim-8b", "chat", BODY).text
DONE = b"data: [DONE]\n\n"
ERROR = b'data: {"error": {"message": "no"}}\n\n'


def text(text: str, finish: str | None = None, eol: bytes = b"\n\n") -> bytes:
    choice: dict[str, Any] = {"index": 0, "delta": {"content": text}, "finish_reason": finish}
    return b"data: " + orjson.dumps({"choices": [choice]}) + eol


WHOLE = text(RIGHT[:8]) + text(RIGHT[8:], "length") + DONE

FATES = [
    (WHOLE, Fate.RIGHT),
    (b": ping\n\n" + text(RIGHT[:8], None, b"\r\n\r\n") + text(RIGHT[8:], "length") + DONE, Fate.RIGHT),
    (text("", None) + ERROR + DONE, Fate.BROKEN_OFF),
    (text(RIGHT[:8]) + ERROR, Fate.BROKEN_OFF),
    (text("other") + ERROR + DONE, Fate.WRONG),
    (text("other", "length") + DONE, Fate.WRONG),
    (b"", Fate.DISGUISED),
    (text(RIGHT, "length"), Fate.DISGUISED),
    (text(RIGHT) + DONE, Fate.DISGUISED),
    (text(RIGHT[:8]) + DONE, Fate.DISGUISED),
    (DONE + text(RIGHT, "length"), Fate.DISGUISED),
    (b"data: {not json\n\n" + DONE, Fate.DISGUISED),
    (b"data: 1\n\n" + DONE, Fate.DISGUISED),
    (b"<html>", Fate.DISGUISED),
]


def a_reply(body: bytes, status: int = 200, *, complete: bool = True) -> Reply:
    reply = Reply()
    length = len(body) + (not complete)
    reply.feed(head(f"{status} OK", content_length=str(length)) + body)
    return reply


@pytest.mark.parametrize(("body", "expected"), FATES)
def test_what_a_client_concludes(body: bytes, expected: Fate) -> None:
    assert fate(a_reply(body), BODY) is expected


def test_errors_and_cut_answers() -> None:
    assert fate(a_reply(b"no JSON", 503), BODY) is Fate.REFUSED
    assert fate(a_reply(WHOLE, complete=False), BODY) is Fate.CUT
    assert fate(a_reply(b"{}", 503, complete=False), BODY) is Fate.CUT
    assert fate(Reply(), BODY) is Fate.CUT


async def ended(script: Any, patience_s: float = 5, **how: Any) -> Clients:
    """Clients that have asked a scripted server once."""
    async with scripted_engine(script) as server:
        clients = Clients(server.url, patience_s)
        await clients.load(1, **how)
        return clients


async def test_what_becomes_of_a_request() -> None:
    assert (await ended(says(answer({}, "500 No")))).fates == {Fate.REFUSED: 1}
    assert (await ended(says_and_closes(stream_head()))).fates == {Fate.CUT: 1}
    assert (await ended(says_and_closes(b"what?\r\n\r\n"))).fates == {Fate.CUT: 1}
    late = await ended(says_and_waits(), patience_s=0.05)
    assert late.fates == {Fate.UNANSWERED: 1}
    assert 0.05 <= late.slowest_s < 5
    nobody = Clients("http://127.0.0.1:9", 5)
    assert await nobody.ask(BODY) is Fate.CUT


async def test_clients_that_leave() -> None:
    begins = says_and_waits(stream_head(), *map(chunk, (b"data: 1\n\n", b"data: 2\n\n")))
    for leaving in (within(0, 0.01), after_events(2)):
        left = await ended(begins, leaving=leaving)
        assert (left.fates, left.slowest_s) == ({Fate.LEFT: 1}, 0)
    assert (await ended(begins, patience_s=0.05, leaving=after_events(3))).fates == {Fate.UNANSWERED: 1}


async def test_a_load_asks_each_prompt_once_and_lets_things_happen_on_the_way() -> None:
    seen: list[Any] = []
    happened: list[int] = []

    async def script(connection: Connection, asked: Request) -> None:
        seen.append(asked.json)
        await connection.send(answer({}, "500 No"))

    def at(share: float) -> Happening:
        async def note() -> None:
            happened.append(len(seen))

        return share, note

    async with scripted_engine(script) as server:
        clients = Clients(server.url, 5)
        await clients.load(20, at(0.5), at(0.2), streams=1, words=3, max_tokens=7)
    assert (clients.fates, happened) == ({Fate.REFUSED: 20}, [4, 10])
    assert len({body["messages"][0]["content"] for body in seen}) == 20
    assert {body["max_tokens"] for body in seen} == {7}


def a_result(router: str, number: int = 0, **more: Any) -> Result:
    fates = {"right": 8, "refused": 1, "broken_off": 2, "cut": 3, "unanswered": 4, "disguised": 5, "wrong": 7}
    made = Result(router, "F01", number, fates, 1.25, 60, 90, 3, 12, 2)
    return replace(made, **more)


def test_the_books_before_do_not_count() -> None:
    before = Counter(issued=4, arrived=4, expired=1), Counter(arrived=4)
    after = (
        Counter(issued=10, arrived=12, expired=2, handoffs_open=3, blocks_in_use=9, requests_running=1),
        Counter(issued=9, arrived=6, requests_waiting=4),
    )
    clients = Clients("", 1, Counter({Fate.RIGHT: 2, Fate.CUT: 1}), 0.12345)
    made = result("r", "F01", 1, clients, Books(before, after))
    assert made == Result("r", "F01", 1, {"cut": 1, "right": 2}, 0.123, 6, 10, 4, 9, 5)
    assert made.tried == 3


def test_the_table_sums_rounds_and_names_a_scenario_once() -> None:
    lines = list(table([a_result("a"), a_result("b", scenario="F04"), a_result("b"), a_result("a", 1, slowest_s=2)]))
    assert lines[2:] == [
        "| **F01** 1 of 3 prefill engines killed under load | a | 60 | 16 | 2 | 4 | 14 | 10 | 14 | 2.0 | 2.00 | 3.00 "
        "| 6 | 4 |",
        "|  | b | 30 | 8 | 1 | 2 | 7 | 5 | 7 | 1.2 | 2.00 | 3.00 | 3 | 2 |",
        "| **F04** 1 of 3 prefill engines answers 500 | b | 30 | 8 | 1 | 2 | 7 | 5 | 7 | 1.2 | 2.00 | 3.00 | 3 | 2 |",
    ]
    assert {line.count("|") for line in lines} == {lines[0].count("|")}
    (left,) = list(table([a_result("a", fates={"left": 60})]))[2:]
    assert left.endswith("| a | 60 |  |  |  |  |  |  |  | 1.00 | 1.50 | 3 | 2 |")


def test_how_routers_were_started() -> None:
    router = Router("peer", ("/some/where/peer", "--file", "/tmp/x/peer.json"))
    assert list(command_lines([router], Path("/tmp/x"))) == ["peer --file peer.json"]


@pytest.mark.parametrize("flags", [("--only", "F99"), ("--peers", "nginx"), ("--rounds", "x")])
def test_what_cannot_be_done_is_refused(flags: Sequence[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(flags)
    assert ended.value.code == 2
    assert flags[0] in capsys.readouterr().err


# As it is run


def a_base_port() -> int:
    """The first of 50 ports of which those that are used are free."""
    while True:
        base = random.randrange(20_000, 30_000)
        if all(map(_is_free, (base, base + 1, base + 10, base + 30))):
            return base


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def test_one_scenario_with_the_gateway_alone(tmp_path: Path) -> None:
    place = Place(tmp_path, a_base_port(), engines=1)
    made = asyncio.run(trial(Stand(place), routers.gateway(place), SCENARIOS["F13"], 0))
    assert made.fates == {"left": 60}
    assert (made.prefills, made.sent) == (60, 120)
    assert (made.handoffs_held, made.blocks_held, made.still_running) == (0, 0, 0)
    assert json.loads(json.dumps(asdict(made)))["scenario"] == "F13"


def test_a_router_that_ends_is_not_ready(tmp_path: Path) -> None:
    place = Place(tmp_path, a_base_port(), engines=1)
    with pytest.raises(NotReady, match=f"{place.port} is not ready"):
        asyncio.run(trial(Stand(place), Router("none", ("true",)), SCENARIOS["F13"], 0))
