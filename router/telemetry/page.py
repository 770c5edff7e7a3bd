"""The metrics page, encoded a piece at a time: between two of them the loop serves whoever waits.

What the page says is of one moment. Putting it into words takes ten times as long as to collect it: with 64 engines
20 ms at a stretch, in which no stream would get its tokens. A thread would hold the interpreter just as long.
"""

import asyncio
from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric

SAMPLES_PER_PIECE = 250
"""About a millisecond's worth."""

EOF = b"# EOF\n"
COMMENT = b"# "
CREATED = "_created"


@dataclass(frozen=True, slots=True)
class Piece:
    """Part of a family, in the place of a registry; `further` when it is not the first of its family."""

    metric: Metric
    further: bool = False

    def collect(self) -> Iterator[Metric]:
        """That part."""
        yield self.metric


async def page(registry: CollectorRegistry, accept: str) -> tuple[bytes, str]:
    """The page in the format that an `Accept` header asks for, and its content type."""
    encode, content_type = choose_encoder(accept)
    lines, ends = [], False
    for piece in [piece for metric in registry.collect() for piece in pieces(metric)]:
        text = encode(piece)
        ends = text.endswith(EOF)
        text = text.removesuffix(EOF)
        lines.append(_without_comments(text) if piece.further else text)
        await asyncio.sleep(0)
    return b"".join([*lines, EOF if ends else b""]), content_type


def pieces(metric: Metric) -> Iterator[Piece]:
    """A family in parts that are not too long; whole where the format puts some of its samples elsewhere."""
    samples = metric.samples
    if len(samples) <= SAMPLES_PER_PIECE or any(sample.name.endswith(CREATED) for sample in samples):
        yield Piece(metric)
        return
    for begin in range(0, len(samples), SAMPLES_PER_PIECE):
        part = copy(metric)
        part.samples = samples[begin : begin + SAMPLES_PER_PIECE]
        yield Piece(part, further=begin > 0)


def _without_comments(text: bytes) -> bytes:
    """Without the lines that tell a family's name, type and meaning, which come first."""
    while text.startswith(COMMENT):
        text = text.partition(b"\n")[2]
    return text
