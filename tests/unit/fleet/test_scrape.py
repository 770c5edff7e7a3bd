import asyncio
from typing import Any

import httpx
import pytest
import respx

from router.errors import Outcome
from router.fleet.backend import Backend
from router.fleet.fleet import Fleet
from router.fleet.scrape import Scraper
from router.settings.fleet import Scrapes
from tests.support.asking import ask
from tests.support.builders import a_backend
from tests.support.virtual_time import virtual_time

PAGE = "vllm:generation_tokens_total 5\n"


def now() -> float:
    return asyncio.get_running_loop().time()


async def scraped(**answer: Any) -> Backend:
    backend = a_backend()
    with respx.mock(base_url=backend.url) as engine:
        engine.get("/metrics").mock(**answer)
        await Scraper(Fleet([backend]), ask, Scrapes(), now).scrape(backend)
    return backend


async def test_what_an_engine_counts_is_noted() -> None:
    backend = await scraped(return_value=httpx.Response(200, text=PAGE))
    assert backend.progress.gauges is not None
    assert backend.progress.gauges.tokens == 5
    assert backend.progress.last_at is not None


BUSY = "vllm:num_requests_running 1\nvllm:num_requests_waiting 1\n" + PAGE


@pytest.mark.parametrize(
    ("sent", "more", "proven"), [(2, 0, True), (1, 0, True), (3, 0, False), (1, 1, True), (2, 1, False)]
)
async def test_an_engine_that_has_all_that_was_sent_has_finished_nothing(sent: int, more: int, proven: bool) -> None:
    backend = a_backend()
    leases = [backend.lease(10) for _ in range(sent)]

    def answer(request: httpx.Request) -> httpx.Response:
        for _ in range(more):  # come and go while the engine answers
            backend.lease(10).settle(Outcome.OK)
        return httpx.Response(200, text=BUSY)

    with respx.mock(base_url=backend.url) as engine:
        engine.get("/metrics").mock(side_effect=answer)
        asked_at = now()
        await Scraper(Fleet([backend]), ask, Scrapes(), now).scrape(backend)
    assert (asked_at <= backend.unfinished.until(-1.0)) is proven
    assert backend.load.requests == len(leases)


THEIRS = """vllm:num_requests_running 5
vllm:num_requests_waiting 2
vllm:kv_cache_usage_perc 0.5
vllm:cache_config_info{block_size="16",num_gpu_blocks="1000"} 1
"""


@pytest.mark.parametrize(
    ("sent", "others"),
    [(0, (7, 8000)), (3, (4, 7000)), (6, (1, 5990)), (7, (0, 0)), (8, (0, 0))],
)
async def test_what_an_engine_has_beyond_our_requests_is_others(sent: int, others: tuple[int, int]) -> None:
    backend = a_backend()
    for tokens in (1000, 500, -500, 600, 400, 10, 0, 0)[:sent]:
        backend.lease(tokens)
    with respx.mock(base_url=backend.url) as engine:
        engine.get("/metrics").respond(text=THEIRS + PAGE)
        await Scraper(Fleet([backend]), ask, Scrapes(), now).scrape(backend)
    assert (backend.load.others_requests, backend.load.others_kv_tokens) == others


async def test_an_engine_that_comes_back_may_have_a_smaller_cache() -> None:
    backend, seen = a_backend(), []
    smaller = THEIRS.replace("1000", "250")
    with respx.mock(base_url=backend.url) as engine:
        for page in (PAGE, THEIRS + PAGE, smaller + PAGE, PAGE):
            engine.get("/metrics").respond(text=page)
            await Scraper(Fleet([backend]), ask, Scrapes(), now).scrape(backend)
            seen.append((backend.cache_tokens, backend.load.others_kv_tokens))
    assert seen == [(None, 0), (16_000, 8000), (4000, 2000), (4000, 0)]


@virtual_time
async def test_what_was_read_three_intervals_ago_is_not_known_any_more() -> None:
    backend = a_backend()
    with respx.mock(base_url=backend.url) as engine:
        page = engine.get("/metrics").respond(text=THEIRS + PAGE)
        reading = asyncio.get_running_loop().create_task(
            Scraper(Fleet([backend]), ask, Scrapes(interval_s=1.0), now).run()
        )
        await asyncio.sleep(2.5)
        page.mock(side_effect=httpx.ConnectError)
        await asyncio.sleep(2.0)
        assert (backend.load.others_requests, backend.load.others_kv_tokens) == (7, 8000)
        await asyncio.sleep(2.0)
        assert (backend.load.others_requests, backend.load.others_kv_tokens) == (0, 0)
        reading.cancel()
        await asyncio.wait([reading])


@pytest.mark.parametrize(
    "answer",
    [
        {"return_value": httpx.Response(404, text=PAGE)},
        {"return_value": httpx.Response(200, text="<html>")},
        {"side_effect": httpx.ConnectError},
        {"side_effect": httpx.RemoteProtocolError},
    ],
)
async def test_a_page_that_cannot_be_read_tells_nothing(answer: dict[str, Any]) -> None:
    assert (await scraped(**answer)).progress.gauges is None


@virtual_time
async def test_each_engine_is_read_once_an_interval_and_they_are_spread_over_it() -> None:
    backends = [a_backend(port=port) for port in (1, 2, 3, 4)]
    read: list[tuple[float, int]] = []

    async def answer(request: httpx.Request) -> httpx.Response:
        read.append((round(now() - began, 2), request.url.port or 0))
        if request.url.port == 2:
            await asyncio.sleep(100)
        return httpx.Response(200, text=PAGE)

    began = now()
    with respx.mock() as engines:
        engines.get(url__regex=".*/metrics").mock(side_effect=answer)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(Scraper(Fleet(backends), ask, Scrapes(timeout_s=1.9), now).run(), 3.1)
    by_port = {port: [at for at, of in read if of == port] for port in (1, 2, 3, 4)}
    assert by_port == {1: [0.25, 1.25, 2.25], 2: [0.5, 2.5], 3: [0.75, 1.75, 2.75], 4: [1, 2, 3]}


@virtual_time
async def test_one_odd_page_ends_no_reading(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    odd, other = a_backend(port=1), a_backend(port=2)
    monkeypatch.setattr(odd.unfinished, "note", lambda *_: 1 / 0)
    with respx.mock() as engines:
        engines.get(url__regex=".*/metrics").respond(text=PAGE)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(Scraper(Fleet([odd, other]), ask, Scrapes(interval_s=1.0), now).run(), 3.1)
        assert other.progress.read_at == pytest.approx(now() - 0.1)
    assert [record.message for record in caplog.records] == ["background work failed"], "the others are counted"


@virtual_time
async def test_a_fleet_without_engines_is_waited_for() -> None:
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(Scraper(Fleet([]), ask, Scrapes(), now).run(), 5)
