"""The log: one line per request and one per change of an engine, for people or for collectors.

Levels: error, a fault of the gateway itself; warning, an engine failed or a request was lost to it; info, what
happened; debug, more of it. No prompt, answer, key or hand-over is ever in a line: they are made from named facts.
"""

import asyncio
import logging
import sys
import time
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Any, TextIO

import orjson

from router.errors import Outcome
from router.settings.telemetry import Log
from router.telemetry.events import Journey, Stage

ACCESS = "router.access"

EXCEPTION = "exception"
"""The fact that is a traceback."""

WORTH_A_WARNING = (Outcome.UPSTREAM_ERROR, Outcome.TIMEOUT, Outcome.INTERNAL_ERROR)

BATCH_S = 0.1
"""How long a line may wait for others to be written with: a write for each request costs 5 % of a short one's CPU."""

MOST_WAITING = 64
"""Lines that are made and written together; making more would hold the loop for longer than 0.3 ms."""

Format = Callable[[float, int, str, str, Mapping[str, Any]], str]
"""A line of: when (Unix time), level, logger, message, facts."""


def configure(settings: Log) -> "Lines":
    """Send the log to standard error in the chosen format; returns where its lines go."""
    lines = Lines(sys.stderr, settings)
    logging.basicConfig(level=settings.level.upper(), handlers=[LinesHandler(lines)], force=True)
    # Facts that no line shows, looked up for every record (logging's own advice for speed).
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    return lines


def json_line(at: float, level: int, logger: str, message: str, facts: Mapping[str, Any]) -> str:
    """One JSON object: `ts` (UTC, ISO 8601), `level`, `logger`, `message`, and the facts."""
    ts = f"{_second(int(at))}.{int(at % 1 * 1000):03}+00:00"
    line = {"ts": ts, "level": LEVEL_NAMES[level], "logger": logger, "message": message, **facts}
    return orjson.dumps(line, default=str).decode()


@lru_cache(maxsize=1)
def _second(at: int) -> str:
    """A second as ISO 8601 has it; most lines are of the same one as the last."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at))


def pretty_line(at: float, level: int, logger: str, message: str, facts: Mapping[str, Any]) -> str:
    """`time level message key=value ...`, for reading in a terminal."""
    del logger
    text = " ".join([f"{k}={v}" for k, v in facts.items() if k != EXCEPTION])
    when = f"{time.strftime('%H:%M:%S', time.localtime(at))}.{int(at % 1 * 1000):03}"
    line = f"{when} {LEVEL_NAMES[level]:7} {message} {text}".rstrip()
    return f"{line}\n{facts[EXCEPTION]}" if EXCEPTION in facts else line


LEVEL_NAMES = {number: name.lower() for name, number in logging.getLevelNamesMapping().items()}

FORMATS: Mapping[str, Format] = {"json": json_line, "pretty": pretty_line}


class Lines:
    """Where lines go. Those of a moment are written together; warnings and worse, and what came before them, at once.

    Lines wait only while an event loop runs, for `BATCH_S` at most. Some are made only when they are written: one after
    the other they find the code for that in the processor's caches, which the kernel takes over between two tokens.

    Whoever has something to say is not to fail by it: what cannot be written, as the disk is full or nobody reads the
    pipe any more, is counted, and told of when lines can be written again.
    """

    def __init__(self, stream: TextIO, settings: Log) -> None:
        self._lost = 0
        self._stream = stream
        self._level = logging.getLevelNamesMapping()[settings.level.upper()]
        self._waiting: list[str | Callable[[], str]] = []
        self.format = FORMATS[settings.format]

    def takes(self, level: int) -> bool:
        """Whether lines of a level are written."""
        return level >= self._level

    def add(self, level: int, line: str | Callable[[], str]) -> None:
        """One more; what makes it is called when it is written."""
        self._waiting.append(line)
        if level >= logging.WARNING or len(self._waiting) >= MOST_WAITING:
            self.flush()
        elif len(self._waiting) == 1:
            self._flush_soon()

    def flush(self) -> None:
        """Write what waits."""
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        lines = [*map(self._made, waiting), ""]
        if self._lost:
            lost = {"lines": self._lost}
            lines.insert(0, self.format(time.time(), logging.WARNING, __name__, "lines of the log were lost", lost))
        try:
            self._stream.write("\n".join(lines))
            self._stream.flush()
        except (OSError, ValueError):  # ValueError: it is closed, or cannot encode what a line has
            self._lost += len(waiting)
        else:
            self._lost = 0

    def _made(self, line: str | Callable[[], str]) -> str:
        """A mistake in making one costs no other."""
        if isinstance(line, str):
            return line
        try:
            return line()
        except Exception as error:  # noqa: BLE001 - it is in the log
            return self.format(time.time(), logging.ERROR, __name__, "a line could not be made", {"why": ascii(error)})

    def _flush_soon(self) -> None:
        try:
            asyncio.get_running_loop().call_later(BATCH_S, self.flush)
        except RuntimeError:  # no loop runs
            self.flush()


class LinesHandler(logging.Handler):
    """Makes lines of log records; the facts are the record's `facts`."""

    def __init__(self, lines: Lines) -> None:
        super().__init__()
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        """Add the record's line."""
        facts = getattr(record, "facts", None) or {}
        if record.exc_info:
            facts = {**facts, EXCEPTION: logging.Formatter().formatException(record.exc_info)}
        try:
            line = self._lines.format(record.created, record.levelno, record.name, record.getMessage(), facts)
        except (TypeError, ValueError):  # arguments that do not fit their message
            self.handleError(record)
        else:
            self._lines.add(record.levelno, line)

    def flush(self) -> None:
        """Write what waits; called at the end of the process, too."""
        self._lines.flush()


class AccessLog:
    """One line for each request that ended; an observer of journeys.

    Written without a log record: that would cost more than the line.
    """

    def __init__(self, lines: Lines) -> None:
        self._lines = lines
        self.notes = {Stage.SETTLED: self._settled}

    def _settled(self, journey: Journey) -> None:
        level = logging.WARNING if journey.outcome in WORTH_A_WARNING else logging.INFO
        if not self._lines.takes(level):
            return
        make = partial(self._line, time.time(), level, journey)
        self._lines.add(level, make if journey.error is None else make())  # an error holds on to what it failed in

    def _line(self, at: float, level: int, journey: Journey) -> str:
        return self._lines.format(at, level, ACCESS, "request", _facts(journey))


def _facts(journey: Journey) -> dict[str, Any]:
    """What all requests have, then what most have, then what few have: most lines are made without a look for it."""
    facts = {
        "request_id": journey.request_id,
        "api": journey.api,
        "model": journey.model,
        "stream": journey.stream,
        "outcome": journey.outcome,
        "status": journey.status,
        "route": journey.route,
        "prompt_tokens_estimate": journey.prompt_tokens,
        "events": journey.events,
        "answer_bytes": journey.answer_bytes,
        "total_s": round(journey.total_s, 4),
    }
    if journey.reason:
        facts["reason"] = journey.reason
    if journey.prefill is not None:
        facts["prefill"] = journey.prefill
    if journey.decode is not None:
        facts["decode"] = journey.decode
    if journey.prefill_s is not None:
        facts["prefill_s"] = round(journey.prefill_s, 4)
    if journey.handoff_s is not None:
        facts["handoff_s"] = round(journey.handoff_s, 4)
    if journey.ttft_s is not None:
        facts["ttft_s"] = round(journey.ttft_s, 4)
    trace_id, queue = journey.trace_id, journey.queue
    if trace_id or queue or journey.arm or journey.retries or journey.fallback_reason or journey.error is not None:
        facts |= _seldom(journey, trace_id)
    return facts


def _seldom(journey: Journey, trace_id: str | None) -> dict[str, Any]:
    error = journey.error
    facts = {
        "trace_id": trace_id,
        "arm": journey.arm or None,
        "queue_s": round(journey.queue_s, 4) if journey.queue else None,
        "retries": journey.retries or None,
        "fallback": journey.fallback_reason,
        "fallback_detail": journey.fallback_detail,
        "error": error.code if error else None,
        "detail": error.detail if error else None,
    }
    return {name: value for name, value in facts.items() if value is not None}
