"""The log: one line per request and one per change of an engine, for people or for collectors.

Levels: error, a fault of the gateway itself; warning, an engine failed or a request was lost to it; info, what
happened; debug, more of it. No prompt, answer, key or hand-over is ever in a line: they are made from named facts.
"""

import datetime
import logging
import sys
import time
from typing import Any

import orjson

from router.errors import Outcome
from router.settings import Log
from router.telemetry.events import Journey, Stage

access_log = logging.getLogger("router.access")

WORTH_A_WARNING = (Outcome.UPSTREAM_ERROR, Outcome.TIMEOUT)


def configure(settings: Log) -> None:
    """Send the log to standard error in the chosen format."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if settings.format == "json" else PrettyFormatter())
    logging.basicConfig(level=settings.level.upper(), handlers=[handler], force=True)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    logging.getLogger("httpx").setLevel(logging.WARNING)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: `ts` (UTC, ISO 8601), `level`, `logger`, `message`, and the record's facts."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        at = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
        line: dict[str, Any] = {
            "ts": at.isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_facts(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(line, default=str).decode()


class PrettyFormatter(logging.Formatter):
    """`time level message key=value ...`, for reading in a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        at = f"{time.strftime('%H:%M:%S', time.localtime(record.created))}.{int(record.msecs):03}"
        facts = " ".join([f"{k}={v}" for k, v in _facts(record).items()])
        line = f"{at} {record.levelname.lower():7} {record.getMessage()} {facts}".rstrip()
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class AccessLog:
    """One line for each request that ended; an observer of journeys."""

    def observe(self, stage: Stage, journey: Journey) -> None:
        """Write the line of a settled request."""
        if stage is not Stage.SETTLED:
            return
        level = logging.WARNING if journey.outcome in WORTH_A_WARNING else logging.INFO
        if access_log.isEnabledFor(level):
            # A record made by hand: `log()` would walk the stack for a caller that no line shows.
            record = logging.LogRecord(access_log.name, level, "", 0, "request", None, None)
            record.facts = _line(journey)
            access_log.handle(record)


def _line(journey: Journey) -> dict[str, Any]:
    facts = {
        "request_id": journey.request_id,
        "api": journey.api,
        "model": journey.model,
        "stream": journey.stream,
        "outcome": journey.outcome,
        "status": journey.status,
        "route": journey.route,
        "reason": journey.reason or None,
        "prefill": journey.prefill,
        "decode": journey.decode,
        "fallback": journey.fallback_reason,
        "fallback_detail": journey.fallback_detail,
        "prompt_tokens_estimate": journey.prompt_tokens,
        "events": journey.events,
        "answer_bytes": journey.answer_bytes,
        "prefill_s": _rounded(journey.prefill_s),
        "handoff_s": _rounded(journey.handoff_s),
        "ttft_s": _rounded(journey.ttft_s),
        "total_s": _rounded(journey.total_s),
        "error": journey.error.code if journey.error else None,
        "detail": journey.error.detail if journey.error else None,
    }
    return {name: value for name, value in facts.items() if value is not None}


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 4)


def _facts(record: logging.LogRecord) -> dict[str, Any]:
    facts = getattr(record, "facts", None)
    return facts if isinstance(facts, dict) else {}
