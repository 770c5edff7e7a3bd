"""Which numbers may stand on the command line? For `type=` of argparse, which makes bad usage of all others."""

from argparse import ArgumentTypeError

MOST_PORT = 65535


def positive(text: str) -> float:
    """A finite number over 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise ArgumentTypeError("must be a positive number")
    return value


def count(text: str) -> int:
    """An integer from 1."""
    value = _integer(text)
    if value is None or value < 1:
        raise ArgumentTypeError("must be a positive integer")
    return value


def count_or_0(text: str) -> int:
    """An integer from 0, where none at all makes sense."""
    value = _integer(text)
    if value is None or value < 0:
        raise ArgumentTypeError("must be 0 or a positive integer")
    return value


def port(text: str) -> int:
    """A TCP port to listen on; 0 takes a free one."""
    value = _integer(text)
    if value is None or not 0 <= value <= MOST_PORT:
        raise ArgumentTypeError(f"must be a port, 0 to {MOST_PORT}")
    return value


def _integer(text: str) -> int | None:
    try:
        return int(text)
    except ValueError:
        return None
