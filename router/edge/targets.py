"""What does a request ask for? Its target, taken apart."""

from functools import lru_cache
from typing import NamedTuple
from urllib.parse import unquote

import httptools

REMEMBERED = 64
"""Clients ask for the same few."""


class Target(NamedTuple):
    """A request's target as ASGI tells it: the path, decoded and as sent, and what follows the question mark."""

    path: str
    raw_path: bytes
    query: bytes


@lru_cache(REMEMBERED)
def target_of(url: bytes) -> Target:
    """The parts of a target as it was sent. Raises what the parser and the decoder do: it is bad."""
    parsed = httptools.parse_url(url)
    return Target(unquote(parsed.path.decode("ascii")), parsed.path, parsed.query or b"")
