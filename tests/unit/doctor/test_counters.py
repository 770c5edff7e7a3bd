import httpx
import pytest
import respx

from router.doctor.counters import Counters, PromptTokens, read
from tests.support.asking import ask
from tests.support.builders import a_backend

PAGE = """\
# TYPE vllm:prompt_tokens_by_source counter
vllm:prompt_tokens_by_source_total{engine="0",source="local_compute"} 10.0
vllm:prompt_tokens_by_source_total{engine="1",source="local_compute"} 5.0
vllm:prompt_tokens_by_source_total{engine="0",source="local_cache_hit"} 3.0
vllm:prompt_tokens_by_source_total{engine="0",source="external_kv_transfer"} 40.0
vllm:prompt_tokens_by_source_total{engine="0",source="of_the_future"} 99.0
"""
NIXL = """\
# TYPE vllm:nixl_num_failed_transfers counter
vllm:nixl_num_failed_transfers_total{engine="0"} 2.0
"""


async def page(answer: httpx.Response | Exception, key: str | None = None) -> tuple[Counters | None, httpx.Request]:
    """What is read, and the request for it."""
    with respx.mock as engine:
        route = engine.get("http://127.0.0.1:8000/metrics").mock(side_effect=[answer])
        return await read(ask, a_backend(key=key), timeout_s=1), route.calls.last.request


async def test_tokens_by_source_over_all_ranks() -> None:
    counters, _ = await page(httpx.Response(200, text=PAGE + NIXL))
    assert counters == Counters(PromptTokens(pulled=40, cached=3, computed=15, failed_transfers=2), has_connector=True)
    assert counters.tokens.total == 58


async def test_an_engine_without_a_connector_counts_no_transfers() -> None:
    counters, _ = await page(httpx.Response(200, text=PAGE))
    assert counters == Counters(PromptTokens(pulled=40, cached=3, computed=15), has_connector=False)


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(404),
        httpx.Response(200, text="python_info 1\n"),
        httpx.Response(200, text="<html> no metrics"),
        httpx.ReadTimeout("slow"),
    ],
)
async def test_an_engine_need_not_count(answer: httpx.Response | Exception) -> None:
    assert (await page(answer))[0] is None


async def test_the_gateways_key_is_shown() -> None:
    _, request = await page(httpx.Response(200, text=PAGE), key="k")
    assert request.headers["authorization"] == "Bearer k"


def test_what_was_counted_meanwhile() -> None:
    assert PromptTokens(5, 4, 3, 2) - PromptTokens(1, 1, 1, 1) == PromptTokens(4, 3, 2, 1)
