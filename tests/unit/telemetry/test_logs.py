import asyncio
import errno
import io
import logging
import time
import weakref
from collections.abc import Iterator
from typing import Any

import orjson
import pytest

from router.errors import BadAnswer, InvalidRequest, Outcome
from router.settings.telemetry import Log
from router.telemetry.events import Journey, Observers, RouteKind
from router.telemetry.logs import AccessLog, Lines, LinesHandler, configure, json_line, pretty_line


class Written(io.StringIO):
    """A stream that keeps apart what is written to it."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[str] = []

    def write(self, text: str) -> int:
        self.pieces.append(text)
        return len(text)

    @property
    def parsed(self) -> list[dict[str, Any]]:
        return [orjson.loads(line) for line in "".join(self.pieces).splitlines()]


def lines(stream: io.StringIO, level: str = "info", form: str = "json") -> Lines:
    return Lines(stream, Log.model_validate({"level": level, "format": form}))


def settled(
    to: Lines, outcome: Outcome = Outcome.OK, status: int = 200, error: BadAnswer | InvalidRequest | None = None
) -> None:
    journey = Journey("r-1", "chat", 1.0, lambda: 3.5, Observers(AccessLog(to)))
    journey.model = "m"
    journey.chosen(RouteKind.DISAGGREGATED, "novel_prompt", "d:1", "p:1")
    journey.committed()
    journey.settled(outcome, status, error)


def test_a_request_is_one_line_of_named_facts() -> None:
    stream = Written()
    settled(lines(stream))
    (told,) = stream.parsed
    expected = {
        "level": "info",
        "logger": "router.access",
        "message": "request",
        "request_id": "r-1",
        "outcome": "ok",
        "status": 200,
        "prefill": "p:1",
        "decode": "d:1",
        "total_s": 2.5,
    }
    assert {name: told[name] for name in expected} == expected


def test_a_line_tells_all_that_is_known_of_a_request() -> None:
    stream, now = Written(), [0.0]
    journey = Journey("r-1", "chat", 0.0, lambda: now[0], Observers(AccessLog(lines(stream))))
    journey.model, journey.stream, journey.prompt_tokens = "m", True, 500
    journey.queued("prefill", 0.12345)
    journey.chosen(RouteKind.DISAGGREGATED, "novel_prompt", "d:1", "p:1")
    journey.retried("decode", "connection_lost")
    journey.prefill_sent()
    now[0] = 1.00001
    journey.prefilled()
    now[0] = 1.5
    journey.committed()
    journey.events, journey.answer_bytes = 3, 600
    now[0] = 2.0
    journey.settled(Outcome.UPSTREAM_ERROR, 502, BadAnswer("d:1: no stream"))
    (told,) = stream.parsed
    del told["ts"]
    assert told == {
        "level": "warning",
        "logger": "router.access",
        "message": "request",
        "request_id": "r-1",
        "api": "chat",
        "model": "m",
        "stream": True,
        "outcome": "upstream_error",
        "status": 502,
        "route": "disaggregated",
        "reason": "novel_prompt",
        "prefill": "p:1",
        "decode": "d:1",
        "retries": 1,
        "queue_s": 0.1235,
        "prompt_tokens_estimate": 500,
        "events": 3,
        "answer_bytes": 600,
        "prefill_s": 1.0,
        "handoff_s": 0.5,
        "ttft_s": 1.5,
        "total_s": 2.0,
        "error": "upstream_error",
        "detail": "d:1: no stream",
    }


def test_a_line_leaves_out_what_a_request_has_not() -> None:
    stream = Written()
    Journey("r-1", "chat", 1.0, lambda: 1.0, Observers(AccessLog(lines(stream)))).settled(Outcome.CLIENT_ERROR, 400)
    absent = {"reason", "prefill", "decode", "prefill_s", "handoff_s", "ttft_s", "queue_s", "arm", "trace_id", "error"}
    assert not absent & set(stream.parsed[0])


def test_a_fallback_is_told_with_its_detail() -> None:
    stream = Written()
    journey = Journey("r-1", "chat", 1.0, lambda: 1.0, Observers(AccessLog(lines(stream))))
    journey.fell_back("bad_handoff", "p:1: foreign")
    journey.settled(Outcome.OK, 200)
    assert (stream.parsed[0]["fallback"], stream.parsed[0]["fallback_detail"]) == ("bad_handoff", "p:1: foreign")


def test_only_what_engines_did_is_a_warning() -> None:
    stream = Written()
    settled(lines(stream), Outcome.UPSTREAM_ERROR, 502, BadAnswer("d:1: an empty stream"))
    settled(lines(stream), Outcome.CLIENT_ERROR, 400, InvalidRequest("no", param="model"))
    assert [line["level"] for line in stream.parsed] == ["warning", "info"]
    assert stream.parsed[0]["detail"] == "d:1: an empty stream"


def test_below_its_level_nothing_is_written() -> None:
    stream = Written()
    settled(lines(stream, "warning"))
    assert stream.pieces == []


def test_json_lines_can_be_parsed() -> None:
    parsed = orjson.loads(json_line(1.5, logging.INFO, "router.app", "engine up", {"backend": "d:1"}))
    assert parsed == {
        "ts": "1970-01-01T00:00:01.500+00:00",
        "level": "info",
        "logger": "router.app",
        "message": "engine up",
        "backend": "d:1",
    }


def test_pretty_lines_can_be_read() -> None:
    text = pretty_line(1.5, logging.INFO, "router.app", "engine up", {"backend": "d:1"})
    assert text[8:] == ".500 info    engine up backend=d:1"


def record(message: str, level: int = logging.INFO, **extra: Any) -> logging.LogRecord:
    made = logging.LogRecord("router.app", level, "", 0, message, None, None)
    made.__dict__.update(extra)
    return made


def test_a_record_has_its_facts_in_its_line() -> None:
    stream = Written()
    LinesHandler(lines(stream)).handle(record("up", facts={"backend": "d:1"}))
    assert (stream.parsed[0]["message"], stream.parsed[0]["backend"]) == ("up", "d:1")


@pytest.mark.parametrize("form", ["json", "pretty"])
def test_a_traceback_is_kept(form: str) -> None:
    stream, error = Written(), ValueError("broken")
    LinesHandler(lines(stream, form=form)).handle(
        record("up", logging.ERROR, exc_info=(ValueError, error, error.__traceback__))
    )
    assert "ValueError: broken" in stream.pieces[0]


@pytest.fixture
def root_log() -> Iterator[logging.Logger]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield root
    root.handlers[:] = handlers
    root.setLevel(level)


def test_the_format_and_level_are_those_of_the_settings(
    root_log: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    made = configure(Log(format="json", level="error"))
    logging.getLogger("router.app").warning("not told")
    logging.getLogger("router.app").error("told")
    assert orjson.loads(capsys.readouterr().err)["message"] == "told"
    assert (made.takes(logging.WARNING), made.takes(logging.ERROR)) == (False, True)


async def test_lines_of_a_moment_are_written_together() -> None:
    stream = Written()
    some = lines(stream)
    for line in ("a", "b"):
        some.add(logging.INFO, line)
    assert stream.pieces == []
    await asyncio.sleep(0.15)
    assert stream.pieces == ["a\nb\n"]
    some.add(logging.INFO, "c")
    handler = LinesHandler(some)
    handler.flush()
    handler.flush()
    assert stream.pieces[1:] == ["c\n"]


async def test_a_warning_is_written_at_once_after_what_came_before_it() -> None:
    stream = Written()
    some = lines(stream)
    some.add(logging.INFO, "a")
    some.add(logging.WARNING, "w")
    assert stream.pieces == ["a\nw\n"]


async def test_a_line_that_waits_tells_when_its_request_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Written()
    some = lines(stream)
    monkeypatch.setattr(time, "time", lambda: 1.5)
    settled(some)
    some.add(logging.INFO, '{"message": "later"}')
    monkeypatch.setattr(time, "time", lambda: 9.0)
    assert stream.pieces == []
    some.flush()
    assert [line["message"] for line in stream.parsed] == ["request", "later"]
    assert stream.parsed[0]["ts"] == "1970-01-01T00:00:01.500+00:00"


async def test_no_line_that_waits_keeps_an_error_and_what_failed_with_it() -> None:
    stream, error = Written(), InvalidRequest("no", param="model")
    some, gone = lines(stream), weakref.ref(error)
    settled(some, Outcome.CLIENT_ERROR, 400, error)
    del error
    assert (stream.pieces, gone()) == ([], None)
    some.flush()
    assert stream.parsed[0]["error"] == "invalid_request"


def test_without_a_loop_nothing_waits() -> None:
    stream = Written()
    lines(stream).add(logging.INFO, "a")
    assert stream.pieces == ["a\n"]


def test_a_line_that_cannot_be_made_stops_nobody(capsys: pytest.CaptureFixture[str]) -> None:
    stream = Written()
    LinesHandler(lines(stream)).handle(logging.LogRecord("router.app", logging.INFO, "", 0, "%d", ("x",), None))
    assert stream.pieces == []
    assert "Logging error" in capsys.readouterr().err


def test_the_arm_of_a_comparison_is_told() -> None:
    stream = Written()
    journey = Journey("r-1", "chat", 1.0, lambda: 3.5, Observers(AccessLog(lines(stream))))
    journey.arm = "local"
    journey.settled(Outcome.OK, 200)
    assert stream.parsed[0]["arm"] == "local"


class Full(Written):
    """A disk with no room left, for a while."""

    full = True

    def write(self, text: str) -> int:
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(text)


def test_a_log_that_cannot_be_written_fails_nobody_and_tells_of_it_once_it_can() -> None:
    stream = Full()
    to = lines(stream)
    settled(to)
    settled(to, Outcome.UPSTREAM_ERROR, 502)
    stream.full = False
    settled(to)
    settled(to)
    messages = [(told["message"], told.get("lines")) for told in stream.parsed]
    assert messages == [("lines of the log were lost", 2), ("request", None), ("request", None)]


def test_a_log_that_is_closed_fails_nobody() -> None:
    to = lines(stream := io.StringIO())
    stream.close()
    settled(to)


def test_a_line_that_cannot_be_made_costs_no_other() -> None:
    stream = Written()
    to = lines(stream)

    def faulty() -> str:
        raise TypeError("\ud800")

    to.add(logging.INFO, "before")
    to.add(logging.INFO, faulty)
    to.add(logging.WARNING, "after")
    before, made, after = "".join(stream.pieces).splitlines()
    assert (before, after) == ("before", "after")
    assert orjson.loads(made)["why"] == "TypeError('\\ud800')"
