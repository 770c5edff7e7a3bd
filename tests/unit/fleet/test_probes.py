import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import httpx
import pytest
import respx

from router.errors import OutOfFiles
from router.fleet.ask import Reply
from router.fleet.backend import Backend, ModelCard
from router.fleet.fleet import Fleet
from router.fleet.probes import Prober
from router.fleet.standing import State
from router.settings.fleet import Probes
from tests.support.asking import ask
from tests.support.builders import MODEL, a_backend
from tests.support.virtual_time import virtual_time

RULES = Probes(interval_s=2, down_interval_s=0.5, timeout_s=1, down_after=3, up_after=2, models_interval_s=30)
CARD = {"id": MODEL, "object": "model", "created": 7, "owned_by": "vllm", "max_model_len": 4096}


class Clock:
    """Time that a test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def engine() -> Iterator[respx.MockRouter]:
    """An engine that is well, at the address of `a_backend()`; a test may change its answers."""
    with respx.mock(base_url="http://127.0.0.1:8000", assert_all_called=False) as engine:
        engine.get("/health", name="health").respond(200)
        engine.get("/v1/models", name="models").respond(200, json={"data": [CARD]})
        engine.get("/version", name="version").respond(200, json={"version": "0.32.0"})
        yield engine


@asynccontextmanager
async def prober(
    *backends: Backend, clock: Clock | None = None, noticed: list[str] | None = None
) -> AsyncIterator[Prober]:
    def notice(backend: Backend) -> None:
        if noticed is not None:
            noticed.append(backend.standing.state.value)

    rng = random.Random(1)
    yield Prober(Fleet(backends), ask, RULES, clock=clock or Clock(), notice=notice, rng=rng)


async def probed(backend: Backend, times: int = 1, clock: Clock | None = None) -> list[str]:
    """The states that were noticed over some probes."""
    noticed: list[str] = []
    async with prober(backend, clock=clock, noticed=noticed) as probing:
        for _ in range(times):
            await probing.probe(backend)
    return noticed


def fresh(**settings: Any) -> Backend:
    return a_backend(up=False, probes=RULES, **{"models": ()} | settings)


async def test_a_good_first_look_brings_an_engine_in_with_its_models(engine: respx.MockRouter) -> None:
    backend = fresh()
    assert await probed(backend) == ["up"]
    assert backend.models == {MODEL: ModelCard(MODEL, 4096, 7, "vllm")}


async def test_a_change_of_state_is_noticed_once(engine: respx.MockRouter) -> None:
    assert await probed(fresh(), times=5) == ["up"]


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ({"return_value": httpx.Response(503)}, "/health answered 503"),
        ({"return_value": httpx.Response(302)}, "/health answered 302"),
        ({"side_effect": httpx.ConnectError}, "probe failed: connect_failed"),
        ({"side_effect": httpx.ReadTimeout}, "probe failed: timeout"),
        ({"side_effect": httpx.RemoteProtocolError}, "probe failed: connection_lost"),
    ],
)
async def test_a_bad_health_is_why_an_engine_is_out(engine: respx.MockRouter, answer: dict[str, Any], why: str) -> None:
    engine["health"].mock(**answer)
    backend = fresh()
    assert await probed(backend) == ["down"]
    assert backend.standing.why == why


async def test_a_gateway_without_room_for_a_probe_does_not_take_engines_out(engine: respx.MockRouter) -> None:
    async def no_room(*_: object, **__: object) -> Reply:
        raise OutOfFiles("too many open files")

    backend, unknown = fresh(), fresh()
    async with prober(backend) as probing:
        await probing.probe(backend)
        probing._ask = no_room
        await probing.probe(unknown)
        for _ in range(RULES.down_after):
            await probing.probe(backend)
    assert backend.standing.state is State.UP
    assert (unknown.standing.state, unknown.standing.why) == (State.UNKNOWN, "probe failed: out_of_files")


@pytest.mark.parametrize(
    ("listing", "why"),
    [
        (httpx.Response(401), "/v1/models answered 401"),
        (httpx.Response(200, text="<html>"), "/v1/models is not a list of models"),
        (httpx.Response(200, json=[]), "/v1/models is not a list of models"),
        (httpx.Response(200, json={"data": {}}), "/v1/models is not a list of models"),
        (httpx.Response(200, json={"data": [{"id": 5}]}), "/v1/models is not a list of models"),
        (httpx.Response(200, json={"data": ["m"]}), "/v1/models is not a list of models"),
        (httpx.Response(200, content=b"\xff\xfe"), "/v1/models is not a list of models"),
        (httpx.Response(200, content=b"[" * 100_000), "/v1/models is not a list of models"),
    ],
)
async def test_an_engine_without_a_list_of_models_is_out(
    engine: respx.MockRouter, listing: httpx.Response, why: str
) -> None:
    engine["models"].mock(return_value=listing)
    backend = fresh()
    assert await probed(backend) == ["down"]
    assert backend.standing.why == why


async def test_facts_of_a_model_that_are_no_facts_are_left_out(engine: respx.MockRouter) -> None:
    card = {"id": "m", "max_model_len": "long", "created": None, "owned_by": 5}
    engine["models"].respond(200, json={"data": [card]})
    backend = fresh()
    await probed(backend)
    assert backend.models == {"m": ModelCard("m", None, 0, "pd-router")}


async def test_an_engine_must_serve_the_models_that_are_configured_for_it(engine: respx.MockRouter) -> None:
    backend = fresh(models=(MODEL, "other"))
    await probed(backend)
    assert (backend.standing.state, backend.standing.why) == (
        State.DOWN,
        "does not serve other, which is configured for it",
    )


async def test_an_engine_serves_no_other_model_than_those_configured_for_it(engine: respx.MockRouter) -> None:
    engine["models"].respond(200, json={"data": [CARD, {"id": "adapter"}]})
    backend = fresh(models=(MODEL,))
    await probed(backend)
    assert list(backend.models) == [MODEL]
    assert backend.models[MODEL].max_model_len == 4096


async def test_the_gateways_key_is_shown(engine: respx.MockRouter) -> None:
    await probed(fresh(key="k"))
    for name in ("health", "models", "version"):
        assert engine[name].calls.last.request.headers["authorization"] == "Bearer k"


async def test_models_are_asked_for_now_and_then(engine: respx.MockRouter) -> None:
    clock, backend = Clock(), fresh()
    async with prober(backend, clock=clock) as probing:
        for now, asked in ((100.0, 1), (102.0, 1), (129.9, 1), (130.0, 2), (132.0, 2)):
            clock.now = now
            await probing.probe(backend)
            assert engine["models"].call_count == asked


async def test_an_engine_that_was_away_is_asked_for_its_models_again(engine: respx.MockRouter) -> None:
    backend = fresh()
    async with prober(backend) as probing:
        await probing.probe(backend)
        engine["health"].respond(503)
        for _ in range(RULES.down_after):
            await probing.probe(backend)
        engine["health"].respond(200)
        engine["models"].respond(200, json={"data": [{"id": "adapter"}]})
        for _ in range(RULES.up_after):
            await probing.probe(backend)
    assert (backend.standing.state, list(backend.models)) == (State.UP, ["adapter"])


async def test_version_and_model_make_its_group(engine: respx.MockRouter) -> None:
    backend = fresh(key="k")
    await probed(backend)
    assert (backend.identity.version, backend.group) == ("0.32.0", f"0.32.0 {MODEL}")
    assert engine["version"].calls.last.request.headers["authorization"] == "Bearer k"


async def test_a_configured_group_wins(engine: respx.MockRouter) -> None:
    backend = fresh(group="blue")
    await probed(backend)
    assert (backend.identity.version, backend.group) == ("0.32.0", "blue")


@pytest.mark.parametrize("version", [httpx.Response(404), httpx.Response(200, text="<html>")])
async def test_an_engine_need_not_tell_its_version(engine: respx.MockRouter, version: httpx.Response) -> None:
    engine["version"].mock(return_value=version)
    backend = fresh()
    assert await probed(backend) == ["up"]
    assert backend.group == f"unknown {MODEL}"


async def test_an_engine_that_cannot_tell_its_version_now_is_not_taken_for_one_without(
    engine: respx.MockRouter,
) -> None:
    backend = fresh()
    await probed(backend)
    engine["version"].respond(503)
    await probed(backend)
    assert (backend.group, backend.standing.faltered) == (f"0.32.0 {MODEL}", True)
    assert backend.standing.state is State.UP


async def test_after_one_bad_probe_it_may_be_another_process(engine: respx.MockRouter) -> None:
    backend = fresh()
    async with prober(backend) as probing:
        await probing.probe(backend)
        engine["health"].mock(side_effect=httpx.ConnectError)
        await probing.probe(backend)
        engine["health"].mock(return_value=httpx.Response(200))
        engine["version"].respond(200, json={"version": "0.33.0"})
        await probing.probe(backend)
    assert (backend.standing.lives, backend.group) == (2, f"0.33.0 {MODEL}")


async def test_probes_give_an_engine_so_much_time(engine: respx.MockRouter) -> None:
    await probed(fresh())
    for route in ("health", "models", "version"):
        assert engine[route].calls.last.request.extensions["timeout"]["read"] == RULES.timeout_s


async def test_the_first_round_looks_at_every_engine() -> None:
    backends = [fresh(port=port) for port in (8000, 8001, 8002)]
    with respx.mock() as engines:
        engines.get(url__regex=r"http://127.0.0.1:800[01]/health").respond(200)
        engines.get(url__regex=r"http://127.0.0.1:800[01]/v1/models").respond(200, json={"data": [CARD]})
        engines.get(url__regex=r"http://127.0.0.1:800[01]/version").respond(404)
        engines.get("http://127.0.0.1:8002/health").mock(side_effect=httpx.ConnectError)
        async with prober(*backends) as probing:
            await probing.probe_all()
    assert [backend.standing.state for backend in backends] == [State.UP, State.UP, State.DOWN]


async def pauses(backend: Backend, span_s: float) -> list[float]:
    """Seconds between the probes of the loop, over some time."""
    loop = asyncio.get_running_loop()
    at: list[float] = [loop.time()]

    def seen(_: httpx.Request) -> httpx.Response:
        at.append(loop.time())
        return httpx.Response(200 if backend.standing.usable else 503)

    with respx.mock(base_url=backend.url, assert_all_called=False) as engine:
        engine.get("/health").mock(side_effect=seen)
        engine.get("/v1/models").respond(200, json={"data": [CARD]})
        engine.get("/version").respond(404)
        async with prober(backend) as probing:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(probing.run(), span_s)
    return [later - earlier for earlier, later in pairwise(at)]


@virtual_time
async def test_an_engine_that_is_up_is_probed_every_interval_with_some_jitter() -> None:
    gaps = await pauses(a_backend(probes=RULES, models=()), span_s=60)
    assert 24 <= len(gaps) <= 37
    assert all(1.6 <= gap <= 2.5 for gap in gaps)
    assert max(gaps) - min(gaps) > 0.2


@virtual_time
async def test_an_engine_that_is_down_is_probed_more_often_so_that_it_is_soon_back() -> None:
    gaps = await pauses(a_backend(probes=RULES, up=False), span_s=15)
    assert 24 <= len(gaps) <= 37
    assert all(0.4 <= gap <= 0.65 for gap in gaps)


@virtual_time
async def test_a_probe_that_nobody_foresaw_to_fail_is_followed_by_others(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    probes: list[str] = []

    async def probe(backend: Backend) -> None:
        probes.append(backend.id)
        raise ZeroDivisionError

    one, other = a_backend(port=1, probes=RULES), a_backend(port=2, probes=RULES)
    async with prober(one, other) as probing:
        monkeypatch.setattr(probing, "probe", probe)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(probing.run(), 20)
    assert min(probes.count(one.id), probes.count(other.id)) >= 8
    told = [record.facts["work"] for record in caplog.records]  # type: ignore[attr-defined]
    assert sorted(told) == [f"probe of {backend.id}" for backend in (one, other)], "each once"


@virtual_time
async def test_a_newcomer_whose_probes_fail_by_a_mistake_is_told_of_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    probes = 0

    async def handle(_: httpx.AsyncBaseTransport, request: httpx.Request) -> None:
        nonlocal probes
        probes += 1
        raise IndexError

    newcomer = fresh()
    async with prober() as probing, asyncio.TaskGroup() as group:
        monkeypatch.setattr(httpx.AsyncHTTPTransport, "handle_async_request", handle)
        running = group.create_task(probing.run())
        await asyncio.sleep(1)
        probing._fleet.backends = (newcomer,)
        probing.follow(newcomer)
        await asyncio.sleep(30)
        running.cancel()
    assert probes > 10
    assert [record.message for record in caplog.records] == ["background work failed"]


def silent() -> Backend:
    backend = a_backend(probes=RULES)
    for _ in range(2):
        backend.standing.failed("timeout", 0.0, can_be_spared=True, silent=True)
    return backend


@pytest.mark.parametrize(
    ("answer", "state"),
    [
        ({"return_value": httpx.Response(200, json={})}, State.TRIAL),
        ({"return_value": httpx.Response(400)}, State.TRIAL),
        ({"return_value": httpx.Response(500)}, State.EJECTED),
        ({"side_effect": httpx.ReadTimeout}, State.EJECTED),
    ],
)
async def test_a_silent_engine_is_asked_for_a_token(
    engine: respx.MockRouter, answer: dict[str, Any], state: State
) -> None:
    asked = engine.post("/v1/completions").mock(**answer)
    backend, noticed = silent(), list[str]()
    async with prober(backend, noticed=noticed) as probing:
        await probing.knock(backend)
    assert asked.calls.last.request.content == b'{"model": "sim-8b", "prompt": "1", "max_tokens": 1}'
    assert asked.calls.last.request.extensions["timeout"]["read"] == RULES.knock_timeout_s
    assert (backend.standing.state, noticed) == (state, ["trial"] if state is State.TRIAL else [])


@virtual_time
async def test_only_a_silent_engine_is_asked_and_until_it_answers() -> None:
    backend = silent()
    with respx.mock(base_url=backend.url, assert_all_called=False) as engine:
        engine.get("/health").respond(200)
        engine.get("/v1/models").respond(200, json={"data": [CARD]})
        engine.get("/version").respond(404)
        asked = engine.post("/v1/completions").mock(side_effect=[httpx.ReadTimeout, httpx.Response(200)])
        async with prober(backend) as probing:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(probing.run(), 30)
    assert (asked.call_count, backend.standing.state) == (2, State.TRIAL)
