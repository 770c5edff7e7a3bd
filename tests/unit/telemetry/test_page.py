import asyncio

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.exposition import choose_encoder

from router.telemetry.histogram import BulkHistogram
from router.telemetry.page import SAMPLES_PER_PIECE, page, pieces

OPENMETRICS = "application/openmetrics-text; version=1.0.0,text/plain;q=0.5"


def registry(series: int) -> CollectorRegistry:
    """A small family, and some with so many series."""
    made = CollectorRegistry()
    Gauge("ready", "One.", registry=made).set(1)
    gauge = Gauge("load", "Many.", ("backend",), registry=made)
    counter = Counter("requests", "Many, each with when it began.", ("backend",), registry=made)
    histogram = BulkHistogram("gap_seconds", "Many buckets.", ("model",), (0.01, 0.1), made)
    for number in range(series):
        gauge.labels(f"e{number}").set(number)
        counter.labels(f"e{number}").inc()
        histogram.observe((f"m{number}",), 0.05, f"{number:x}")
    return made


@pytest.mark.parametrize("accept", ["", OPENMETRICS], ids=["text", "openmetrics"])
@pytest.mark.parametrize("series", [0, 1, SAMPLES_PER_PIECE, 3 * SAMPLES_PER_PIECE + 1])
async def test_it_is_the_page_that_the_library_makes_at_once(accept: str, series: int) -> None:
    made = registry(series)
    encode, content_type = choose_encoder(accept)
    assert await page(made, accept) == (encode(made), content_type)


async def test_others_have_their_turn_in_between() -> None:
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    made = registry(10 * SAMPLES_PER_PIECE)
    counting = asyncio.get_running_loop().create_task(count())
    await page(made, "")
    counting.cancel()
    parts = [piece for metric in made.collect() for piece in pieces(metric)]
    assert turns >= len(parts) > 10


async def test_what_it_tells_is_of_one_moment() -> None:
    made = registry(1)
    gauge = Gauge("late", "Changes while the page is made.", registry=made)
    making = asyncio.get_running_loop().create_task(page(made, ""))
    await asyncio.sleep(0)
    gauge.set(7)
    text, _ = await making
    assert b"\nlate 0.0\n" in text
