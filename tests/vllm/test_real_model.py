"""Does a model that speaks English answer sensibly over two engines, from the first command on?"""

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest
from openai import OpenAI

from tests.support.openai_sdk import Kind, Question, ask, random_prompt, sdk
from tests.support.vllm_fleet import ROOT, Engines, gateway_process, vllm_engines

pytestmark = pytest.mark.timeout(120, func_only=True)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engines]:
    """A pair with SmolLM2; its prefill engine is the reference."""
    with vllm_engines("smollm2", tmp_path_factory.mktemp("smollm2")) as started:
        yield started


@pytest.fixture(scope="module")
def smollm2(pair: Engines) -> Iterator[OpenAI]:
    """The OpenAI SDK on a gateway in front of the pair."""
    gateway = gateway_process(pair.prefill.url, pair.decode.url, pair.folder / "gateway.log")
    with gateway as started, sdk(started.url) as opened:
        yield opened


@pytest.mark.parametrize(
    ("kind", "stream", "words"),
    [("chat", True, 12), ("completions", False, 200), ("completions", True, 450), ("chat", False, 900)],
)
def test_greedy_text_is_equal_and_decode_computes_no_prompt_token(
    pair: Engines, smollm2: OpenAI, kind: Kind, stream: bool, words: int
) -> None:
    question = Question(kind, f"Write a story with these words: {random_prompt(words, f'{kind}-{words}')}.", 40)
    before = pair.decode.prompt_tokens()
    answer = ask(smollm2, "smollm2", question, stream=stream)
    decode = pair.decode.prompt_tokens_since(before, answer.prompt_tokens)
    assert decode.computed == 0
    assert decode.pulled + decode.cached == answer.prompt_tokens
    assert pair.at_rest()
    with sdk(pair.reference.url) as plain:
        assert answer == ask(plain, "smollm2", question)


def test_it_knows_the_capital_of_france(smollm2: OpenAI) -> None:
    assert "Paris" in ask(smollm2, "smollm2", Question("chat", "What is the capital of France?")).text


def test_the_demo_asks_and_shows_the_hand_over() -> None:
    demo = [sys.executable, str(ROOT / "deploy" / "local" / "demo.py"), "--once", *_free_ports()]
    environ = os.environ | {"PD_ROUTER_API_KEY": "s3cret"}  # as in the shell of who serves with one
    run = subprocess.run(demo, capture_output=True, text=True, check=False, env=environ)
    assert run.returncode == 0, run.stderr
    assert "Paris" in run.stdout
    counted = re.search(r"(\d+) of (\d+) prompt tokens pulled over NIXL, 0 computed on decode, [\d.]+ MB", run.stdout)
    assert counted, run.stdout
    assert int(counted[1]) == int(counted[2]) > 0


def test_the_demo_names_a_taken_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        demo = [sys.executable, str(ROOT / "deploy" / "local" / "demo.py"), "--once", "--port", str(port)]
        run = subprocess.run(demo, capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert run.stderr == f"engines: port {port} is taken: choose another --port\n"


def _free_ports() -> list[str]:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        return ["--port", str(one.getsockname()[1]), "--ops-port", str(other.getsockname()[1])]
