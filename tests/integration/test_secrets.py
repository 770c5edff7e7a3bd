"""Nothing secret comes out: keys, tokens, prompts, hand-overs are marked, and looked for wherever the gateway speaks.

Looked at are the log in both forms at its most talkative, what operators can ask for, every error that clients get, the
settings as `check` prints them, and the representations of objects, which end up in tracebacks.
"""

import asyncio
import os
import re
import sys
import traceback
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from router.call import Api, Trace, understand
from router.telemetry.events import Journey, Observers, Stage
from tests.support.gateway import body, settings, site
from tests.support.scripted_engine import (
    DONE,
    LAST_CHUNK,
    Connection,
    Request,
    ScriptedEngine,
    answer,
    chunk,
    completion,
    error,
    event,
    handover,
    scripted_engine,
    stream,
    stream_head,
)
from tests.support.tree import ROOT

ENVIRON = {
    "PD_ROUTER_API_KEY": "canary-api-key",
    "ENGINE_KEY": "canary-engine-key",
    "OPS_TOKEN": "canary-ops-token",
    "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9",  # where nobody is, of which the log tells
    "OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer canary-collector-key",
    "OTEL_EXPORTER_OTLP_TIMEOUT": "1",
    "OTEL_BSP_SCHEDULE_DELAY": "100",
}
AUTHORIZATIONS = ("Bearer canary-api-key", "Bearer canary-guess", "Basic canary-basic", "canary-nothing")
HEADERS = {"cookie": "canary-cookie", "x-api-key": "canary-header", "x-session-id": "canary-session"}
PROMPT = "canary-prompt, once upon a time"
SAID = "canary-said"
"""What engines say beside answers: their errors may quote prompts of others, their hand-overs are claims on KV."""

URL = re.compile(r"http://127.0.0.1:\d+")
CANARY = re.compile(rb"canary-[a-z-]+", re.IGNORECASE)


async def prefill(connection: Connection, request: Request) -> None:
    """Hands over, or badly."""
    bad: dict[str, Any] = {"remote_port": SAID} if request.json.get("seed") == 1 else {}
    await connection.send(answer(handover(remote_request_id=SAID, padding=SAID, **bad)))


async def decode(connection: Connection, request: Request) -> None:
    """Answers well, or in one of many bad ways, by the request's seed."""
    garbage = chunk(b"data: {" + SAID.encode() + b"\n\n")
    ways = {
        2: answer(error(500, SAID), "500 Internal Server Error"),
        3: answer(error(401, SAID), "401 Unauthorized"),
        4: answer(SAID.encode(), "200 OK", content_type="text/html"),
        5: stream_head() + chunk(event("a")) + garbage,
        6: stream_head() + chunk(b'data: {"error": {"message": "' + SAID.encode() + b'"}}\n\n' + DONE) + LAST_CHUNK,
        7: stream_head(**{SAID: SAID}) + chunk(event("a")),
        8: answer(SAID.encode(), "400 Bad Request"),
        9: SAID.encode() * 100,
    }
    well = stream("hel", "lo") if request.json.get("stream") else answer(completion())
    way = ways.get(request.json.get("seed"), well)
    await connection.send(way)
    if way is not well:
        connection.fin()


@dataclass(frozen=True)
class Served:
    """A gateway that serves in a process of its own."""

    data: httpx.AsyncClient
    ops: httpx.AsyncClient
    engines: list[ScriptedEngine]
    log: Path


@asynccontextmanager
async def served(folder: Path, *flags: str) -> AsyncIterator[Served]:
    """A gateway over two engines, with everything secret that it can have."""
    async with scripted_engine(prefill) as first, scripted_engine(decode) as second:
        config, log = folder / "gateway.yaml", folder / "log"
        config.write_text(
            "listen: {host: 127.0.0.1, port: 0}\nops: {port: 0, token_env: OPS_TOKEN}\nrouting: {mode: disaggregated}\n"
            f"backends: [{{url: '{first.url}', role: prefill, key_env: ENGINE_KEY}}, "
            f"{{url: '{second.url}', role: decode, key_env: ENGINE_KEY}}]\n"
            "ejection: {failures: 1000}\ndrain: {drain_accept_s: 0}\npairs: {warm_up: false, failures: 1000}\n"
        )
        with log.open("wb") as stderr:
            command = (sys.executable, "-X", "dev", "-m", "router", "serve", "--config", str(config), *flags)
            process = await asyncio.create_subprocess_exec(*command, stderr=stderr, cwd=ROOT, env=os.environ | ENVIRON)
        try:
            async with asyncio.timeout(20):
                while len(urls := URL.findall(log.read_text().partition("serving")[2])) < 2:  # noqa: ASYNC110 - a file
                    await asyncio.sleep(0.02)
            data, ops = (httpx.AsyncClient(base_url=url, timeout=20, trust_env=False) for url in urls)
            async with data, ops:
                yield Served(data, ops, [first, second], log)
            process.terminate()
            assert await process.wait() == 0
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


async def told_to_clients(gateway: Served) -> list[bytes]:
    """Everything that clients get who ask for what fails, and for what does not."""
    told = []
    for authorization in AUTHORIZATIONS:
        gateway.data.headers = httpx.Headers(HEADERS | {"authorization": authorization})
        for seed in range(12 if authorization == AUTHORIZATIONS[0] else 1):
            for streamed in (False, True):
                asked = body(prompt=PROMPT, stream=streamed, seed=seed, user=PROMPT, metadata={"session_id": PROMPT})
                told.append((await gateway.data.post("/v1/completions", json=asked)).content)
        refused: list[dict[str, Any]] = [
            {"prompt": [PROMPT, {}]},
            {"stream": PROMPT},
            {"kv_transfer_params": PROMPT},
            {"model": "unknown"},
        ]
        told += [(await gateway.data.post("/v1/completions", json=body() | bad)).content for bad in refused]
        told.append((await gateway.data.post("/v1/completions", content=b'{"prompt": "canary-broken')).content)
        told += [(await gateway.data.get(path)).content for path in ("/v1/models", "/health", "/metrics")]
    return told


async def told_to_operators(gateway: Served) -> list[bytes]:
    """Everything that they can ask for, with and without the token."""
    told = [(await gateway.ops.get(path)).content for path in ("/fleet", "/metrics", "/readyz", "/openapi.json")]
    engine = {"url": "http://127.0.0.1:9", "role": "decode", "key_env": "OPS_TOKEN"}
    for token in ("canary-ops-token", "canary-guess"):
        headers = {"authorization": f"Bearer {token}"}
        told.append((await gateway.ops.put("/routing", json={"mode": "auto"}, headers=headers)).content)
        told.append((await gateway.ops.post("/fleet/backends", json=engine, headers=headers)).content)
    return told


def canaries(*where: bytes | str) -> set[bytes]:
    """Every secret that is in there."""
    return {found for text in where for found in CANARY.findall(text.encode() if isinstance(text, str) else text)}


@pytest.mark.parametrize("flags", [("--log-format", form, "--log-level", "debug") for form in ("json", "pretty")])
async def test_no_secret_is_told_to_anybody_or_logged(flags: tuple[str, ...], tmp_path: Path) -> None:
    async with served(tmp_path, *flags) as gateway:
        clients = await told_to_clients(gateway)
        gateway.data.headers["authorization"] = AUTHORIZATIONS[0]
        await gateway.data.post("/v1/completions", json=body(model="canary-model"))
        operators = await told_to_operators(gateway)
        to_engines = [request.headers for engine in gateway.engines for request in engine.requests]
    assert b"upstream_error" in b"".join(clients)
    assert b"pd_router_requests_total" in b"".join(operators)
    log = gateway.log.read_text()
    assert log.count("bad_handoff") + log.count("engine_error") + log.count("invalid_api_key") > 3
    assert "export" in log.lower(), "the collector is away"
    assert canaries(*clients, *operators, log) == set()
    assert {headers["authorization"] for headers in to_engines} == {"Bearer canary-engine-key"}
    assert canaries(*(f"{name} {value}" for headers in to_engines for name, value in headers.items())) == {
        b"canary-engine-key"
    }


async def test_check_names_secrets_and_does_not_print_them(tmp_path: Path) -> None:
    config = tmp_path / "gateway.yaml"
    engine = "{{url: '{}', role: decode, key_env: {}}}"
    cases = (("http://d:1", "ENGINE_KEY", 0), ("http://u:canary-password@d:1", "ENGINE_KEY", 2), ("d:1", "canary-k", 2))
    for url, key_env, status in cases:
        config.write_text(f"ops: {{token_env: OPS_TOKEN}}\nbackends: [{engine.format(url, key_env)}]\n")
        for flags in ((), ("--json",)):
            command = (sys.executable, "-m", "router", "check", "--config", str(config), *flags)
            process = await asyncio.create_subprocess_exec(
                *command, stdin=DEVNULL, stdout=PIPE, stderr=PIPE, cwd=ROOT, env=os.environ | ENVIRON
            )
            printed = b"".join(await process.communicate())
            assert process.returncode == status
            assert b"key_env" in printed or b"credentials" in printed
            assert canaries(printed) == set()


class Spy:
    """An observer that keeps how things represent themselves."""

    def __init__(self) -> None:
        self.notes = {stage: partial(self.observe, stage) for stage in Stage}
        self.seen: list[str] = []

    def observe(self, stage: Stage, journey: Journey) -> None:
        """Part of `Observer`."""
        self.seen.append(repr((stage, journey)))
        if journey.error is not None:
            lines = traceback.format_exception(journey.error)
            self.seen += [*lines, repr(journey.error), str(journey.error.detail)]


async def test_no_secret_is_in_the_representation_of_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ENVIRON.items():
        monkeypatch.setenv(name, value)
    spy = Spy()
    async with scripted_engine(prefill) as first, scripted_engine(decode) as second:
        keyed = {"key_env": "ENGINE_KEY"}
        backends = [{"url": first.url, "role": "prefill"} | keyed, {"url": second.url, "role": "decode"} | keyed]
        async with site(settings(backends=backends, ops={"port": 0, "token_env": "OPS_TOKEN"})) as here:
            app = here.gateway.app
            gateway = app.data._gateway
            app.data._gateway = replace(gateway, observers=Observers(*gateway.observers.all, spy))
            for authorization in AUTHORIZATIONS:
                here.client.headers["authorization"] = authorization
                for seed in range(10):
                    await here.ask(prompt=PROMPT, seed=seed, stream=seed % 2 == 1)
            call = understand(Api.COMPLETIONS, body(prompt=PROMPT), Trace("id"))
            objects = [app, app.settings, app.data, app.data._limits, gateway, call, *app.fleet.backends]
            objects += [app.connections, app.line, app.permits, app.pairs, *gateway.observers.all]
            assert len(spy.seen) > 40
            assert canaries(*spy.seen, *map(repr, objects)) == set()
