"""The engines and the gateway that most acceptance tests share: the model tiny, started once."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from openai import OpenAI

from tests.support.openai_sdk import Question, ask, sdk
from tests.support.vllm_fleet import Engine, Engines, Gateway, gateway_process, vllm_engines


@pytest.fixture(scope="session")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engines]:
    """A pair and a colocated reference with the model tiny."""
    with vllm_engines("tiny", tmp_path_factory.mktemp("engines"), colocated=1) as started:
        for engine in (started.prefill, started.decode):
            _compile(engine)
        yield started


def _compile(engine: Engine) -> None:
    """With nothing cached an engine compiles some seconds for its first log-probabilities, while hand-overs age."""
    body = {"model": "tiny", "prompt": "1", "max_tokens": 1, "logprobs": 3}
    httpx.post(f"{engine.url}/v1/completions", json=body, timeout=120).raise_for_status()


@pytest.fixture(scope="session")
def gateway(engines: Engines, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """The gateway in front of the pair, which has handed over once: a pair's first time is another story."""
    log: Path = tmp_path_factory.mktemp("gateway") / "gateway.log"
    with gateway_process(engines.prefill.url, engines.decode.url, log) as started:
        with sdk(started.url) as client:
            ask(client, "tiny", Question("chat", "Hello"))
        yield started


@pytest.fixture
def client(gateway: Gateway) -> Iterator[OpenAI]:
    """The OpenAI SDK on the gateway."""
    with sdk(gateway.url) as opened:
        yield opened


@pytest.fixture
def plain(engines: Engines) -> Iterator[OpenAI]:
    """The OpenAI SDK on the reference engine."""
    with sdk(engines.reference.url) as opened:
        yield opened
