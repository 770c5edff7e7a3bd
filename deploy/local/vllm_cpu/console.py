"""How does the kit talk to the person at the terminal?"""

import signal
import sys
from pathlib import Path
from types import FrameType
from typing import NoReturn

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Failure(Exception):
    """Something the person at the terminal has to know; the text says what to do about it."""


def say(text: str) -> None:
    """Progress, on standard error: standard output is for results."""
    print(f"engines: {text}", file=sys.stderr, flush=True)


def end_on_signal() -> None:
    """Makes Ctrl-C, a request to end and a closed terminal an orderly exit, so that what was begun is cleaned up."""
    for number in ENDING:  # named, since a shell's background job ignores SIGINT
        signal.signal(number, _end)


def _end(number: int, _: FrameType | None) -> NoReturn:
    for ending in ENDING:  # a second one must not break the cleaning up
        signal.signal(ending, signal.SIG_IGN)
    sys.exit(128 + number)


def tail(log: Path, lines: int) -> str:
    """The last lines of a log file; empty when there is none."""
    try:
        return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
    except FileNotFoundError:
        return ""
