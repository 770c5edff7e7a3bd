from collections.abc import AsyncIterator

import httpx
import pytest

from router.app import running
from router.edge.request_ids import RequestIds
from router.fleet.backend import ModelCard
from router.settings.tree import Settings

ENGINE = "http://127.0.0.1:9"


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    """A client of a gateway whose only engine is away, and was found to serve a model with a slash in its name."""
    settings = Settings.model_validate(
        {
            "listen": {"host": "127.0.0.1", "port": 0},
            "ops": {"port": 0},
            "backends": [{"url": ENGINE, "role": "aggregated", "models": ["org/model"]}],
            "probes": {"interval_s": 3600, "down_interval_s": 3600},
            "drain": {"drain_accept_s": 0, "drain_timeout_s": 1},
        }
    )
    async with running(settings) as gateway, httpx.AsyncClient(base_url=gateway.data_url) as opened:
        gateway.app.fleet.backends[0].models = {"org/model": ModelCard("org/model", 4096, 7, "org")}
        yield opened


def test_ids_are_unique_over_gateways_and_requests() -> None:
    first, second = RequestIds(), RequestIds()
    assert len({ids.new() for ids in (first, second) for _ in range(100)}) == 200


async def test_health_says_yes_and_no_more(client: httpx.AsyncClient) -> None:
    answer = await client.get("/health")
    assert (answer.status_code, answer.content) == (200, b"")


async def test_models_are_listed_with_their_context_length(client: httpx.AsyncClient) -> None:
    card = {"id": "org/model", "object": "model", "created": 7, "owned_by": "org", "max_model_len": 4096}
    assert (await client.get("/v1/models")).json() == {"object": "list", "data": [card]}
    assert (await client.get("/v1/models/org/model")).json() == card


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/models/nope", 404, "model_not_found"),
        ("GET", "/v1/chat/completions", 405, "method_not_allowed"),
        ("PUT", "/v1/completions", 405, "method_not_allowed"),
        ("POST", "/health", 405, "method_not_allowed"),
        ("GET", "/metrics", 404, "not_found"),
        ("GET", "/fleet", 404, "not_found"),
        ("POST", "/tokenize", 404, "not_found"),
        ("POST", "/v1/load_lora_adapter", 404, "not_found"),
        ("GET", "/openapi.json", 404, "not_found"),
        ("POST", "/v1/completions/", 404, "not_found"),
    ],
)
async def test_what_is_not_served_says_so_in_the_shape_of_errors(
    client: httpx.AsyncClient, method: str, path: str, status: int, code: str
) -> None:
    answer = await client.request(method, path)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


@pytest.mark.parametrize("path", ["/health", "/v1/models", "/v1/completions", "/nothing/here"])
async def test_every_answer_carries_an_id_of_the_gateways_own(client: httpx.AsyncClient, path: str) -> None:
    answers = [await client.get(path, headers={"x-request-id": "mine"}) for _ in range(2)]
    ids = {answer.headers["x-request-id"] for answer in answers}
    assert len(ids) == 2
    assert "mine" not in ids


async def test_models_need_the_key_and_health_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PD_ROUTER_API_KEY", "right")
    settings = {"listen": {"host": "127.0.0.1", "port": 0}, "ops": {"port": 0}, "drain": {"drain_accept_s": 0}}
    async with running(Settings.model_validate(settings)) as gateway:
        async with httpx.AsyncClient(base_url=gateway.data_url) as opened:
            for path in ("/v1/models", "/v1/models/x"):
                refused = await opened.get(path, headers={"authorization": "Bearer wrong"})
                assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")
                assert refused.headers["www-authenticate"] == "Bearer"
            allowed = await opened.get("/v1/models", headers={"authorization": "Bearer right"})
            assert (allowed.status_code, (await opened.get("/health")).status_code) == (200, 200)
            refused = await opened.post("/v1/completions", json={"model": "x", "prompt": "y"})
            assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")
        counted = {"model": "other", "api": "completions", "route": "none", "outcome": "client_error"}
        assert gateway.app.registry.get_sample_value("pd_router_requests_total", counted) == 1
        assert gateway.app.registry.get_sample_value("pd_router_key_required") == 1
