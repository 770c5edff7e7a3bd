import logging
from collections.abc import Iterator

import orjson
import pytest

from router.errors import BadAnswer, InvalidRequest, Outcome
from router.settings import Log
from router.telemetry.events import Journey, RouteKind
from router.telemetry.logs import AccessLog, JsonFormatter, PrettyFormatter, configure


def settled(outcome: Outcome = Outcome.OK, status: int = 200, error: BadAnswer | InvalidRequest | None = None) -> None:
    journey = Journey("r-1", "chat", 1.0, lambda: 3.5, (AccessLog(),))
    journey.model = "m"
    journey.chosen(RouteKind.DISAGGREGATED, "novel_prompt", "d:1", "p:1")
    journey.committed()
    journey.settled(outcome, status, error)


def facts(record: logging.LogRecord) -> dict[str, object]:
    found = record.__dict__["facts"]
    assert isinstance(found, dict)
    return found


def test_a_request_is_one_line_of_named_facts(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "router.access"):
        settled()
    (record,) = caplog.records
    told = facts(record)
    expected = {"request_id": "r-1", "outcome": "ok", "status": 200, "prefill": "p:1", "decode": "d:1", "total_s": 2.5}
    assert {name: told[name] for name in expected} == expected


def test_only_what_engines_did_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "router.access"):
        settled(Outcome.UPSTREAM_ERROR, 502, BadAnswer("d:1: an empty stream"))
        settled(Outcome.CLIENT_ERROR, 400, InvalidRequest("no", param="model"))
    assert [record.levelno for record in caplog.records] == [logging.WARNING, logging.INFO]
    assert facts(caplog.records[0])["detail"] == "d:1: an empty stream"


def test_below_its_level_nothing_is_made(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "router.access"):
        settled()
    assert caplog.records == []


def line(**extra: object) -> logging.LogRecord:
    record = logging.LogRecord("router.app", logging.INFO, "", 0, "engine up", None, None)
    record.__dict__.update(extra)
    return record


def test_json_lines_can_be_parsed() -> None:
    parsed = orjson.loads(JsonFormatter().format(line(facts={"backend": "d:1"})))
    assert parsed["ts"].endswith("+00:00")
    assert (parsed["level"], parsed["message"], parsed["backend"]) == ("info", "engine up", "d:1")


def test_pretty_lines_can_be_read() -> None:
    text = PrettyFormatter().format(line(facts={"backend": "d:1"}))
    assert text.split(" ", 1)[1] == "info    engine up backend=d:1"


@pytest.mark.parametrize("formatter", [JsonFormatter(), PrettyFormatter()])
def test_a_traceback_is_kept(formatter: logging.Formatter) -> None:
    error = ValueError("broken")
    record = line(exc_info=(ValueError, error, error.__traceback__))
    assert "ValueError: broken" in formatter.format(record)


@pytest.fixture
def root_log() -> Iterator[logging.Logger]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield root
    root.handlers[:] = handlers
    root.setLevel(level)


def test_the_format_and_level_are_those_of_the_settings(root_log: logging.Logger) -> None:
    configure(Log(format="json", level="error"))
    assert root_log.level == logging.ERROR
    assert isinstance(root_log.handlers[0].formatter, JsonFormatter)
