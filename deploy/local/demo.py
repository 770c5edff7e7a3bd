#!/usr/bin/env python3
"""How does it look on real engines? vLLM prefill and decode on the CPU, the gateway in front, one question.

The question is asked through the OpenAI SDK. How many prompt tokens went over NIXL is read from the engines themselves.
"""

import argparse
import os
import signal
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from openai import OpenAI, OpenAIError
from vllm_cpu import counters, processes
from vllm_cpu.check import PUBLISHING_S
from vllm_cpu.console import Failure, end_on_signal, say, tail
from vllm_cpu.install import home
from vllm_cpu.plan import Options
from vllm_cpu.run import Run

MODEL = "smollm2"
QUESTION = "What is the capital of France, and what is it known for?"
ANSWER_TOKENS = 96
HOST = "127.0.0.1"
GATEWAY_START_S = 30

# A lone short question would otherwise stay on decode: here it shall be handed over.
GATEWAY_SETTINGS = {
    "PD_ROUTER_ROUTING__RULE": "thresholds",
    "PD_ROUTER_ROUTING__MIN_NOVEL_TOKENS": "0",
    "PD_ROUTER_ROUTING__MIN_CONCURRENCY": "0",
    "PD_ROUTER_DRAIN__DRAIN_ACCEPT_S": "0",
    "PD_ROUTER_PAIRS__WARM_UP": "false",  # what is counted is what was asked
}


@dataclass(frozen=True)
class Listeners:
    """The gateway's ports: the OpenAI API, operations."""

    port: int
    ops_port: int


@contextmanager
def reserved(ports: Listeners) -> Iterator[None]:
    """Holds the gateway's ports while the engines start. Raises `Failure` when one is taken."""
    with ExitStack() as held:
        for flag, port in (("--port", ports.port), ("--ops-port", ports.ops_port)):
            holder = held.enter_context(socket.socket())
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                holder.bind((HOST, port))
                holder.listen()
            except OSError:
                raise Failure(f"port {port} is taken: choose another {flag}") from None
        yield


@contextmanager
def engines(ports: Listeners) -> Iterator[Run]:
    """A prefill and a decode engine on free ports, ended on leaving, in a folder of this gateway's port."""
    with reserved(ports):
        run = Run.load(home() / f"demo-{ports.port}")
        run.down()  # what a demo that was killed may have left
        run.up(Options(model=MODEL, base_port=0, kv_load_failure_policy="recompute"), timeout_s=300)
    try:
        yield run
    finally:
        say("ending the engines")
        run.down()


@contextmanager
def gateway(ports: Listeners, run: Run) -> Iterator[str]:
    """The gateway in front of the engines, as its own command; gives the base URL of its OpenAI API."""
    argv = [sys.executable, "-m", "router", "serve", "--host", HOST, "--port", str(ports.port)]
    argv += ["--ops-host", HOST, "--ops-port", str(ports.ops_port)]
    argv += ["--prefill", run.urls("prefill")[0], "--decode", run.urls("decode")[0]]
    log = run.folder / "gateway.log"
    log.write_bytes(b"")
    leader, process = processes.spawn(argv, {**os.environ, **GATEWAY_SETTINGS}, log)
    try:
        deadline = time.monotonic() + GATEWAY_START_S
        while not ready(f"http://{HOST}:{ports.ops_port}/readyz"):
            if process.poll() is not None or time.monotonic() > deadline:
                raise Failure(f"the gateway does not get ready; the end of {log}:\n{tail(log, 15)}")
            time.sleep(0.1)
        yield f"http://{HOST}:{ports.port}/v1"
    finally:
        processes.stop([leader])
        process.wait()


def ready(url: str) -> bool:
    """Whether the gateway says that it has engines to use."""
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def ask(base_url: str, question: str) -> int:
    """Streams the answer to the terminal; returns the length of the prompt in tokens."""
    key = os.environ.get("PD_ROUTER_API_KEY") or "none"  # the gateway has it from there, too
    client = OpenAI(base_url=base_url, api_key=key, max_retries=0)
    stream = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": question}],
        temperature=0,
        max_tokens=ANSWER_TOKENS,
        stream=True,
        stream_options={"include_usage": True},
    )
    print(f"\n> {question}\n")
    prompt_tokens = 0
    for chunk in stream:
        prompt_tokens = chunk.usage.prompt_tokens if chunk.usage else prompt_tokens
        print(*(choice.delta.content or "" for choice in chunk.choices), sep="", end="", flush=True)
    print("\n")
    return prompt_tokens


def show_handover(decode: str, before: counters.Counters, prompt_tokens: int) -> bool:
    """Prints what the decode engine counted, and returns whether all of the prompt came from the prefill engine."""
    deadline = time.monotonic() + PUBLISHING_S
    while (grown := counters.read(decode) - before).prompt_tokens < prompt_tokens and time.monotonic() < deadline:
        time.sleep(0.1)
    print(
        f"engine counters: {grown.pulled_tokens} of {prompt_tokens} prompt tokens pulled over NIXL, "
        f"{grown.computed_tokens} computed on decode, {grown.pulled_bytes / 1e6:.1f} MB moved",
        flush=True,
    )
    return grown.pulled_tokens + grown.cached_tokens == prompt_tokens > 0 and grown.computed_tokens == 0


def demo(ports: Listeners, question: str, once: bool) -> int:
    """Starts everything, asks, and stays until a signal unless `once`. Status 0 when the prompt was handed over."""
    with engines(ports) as run, gateway(ports, run) as base_url:
        decode = run.urls("decode")[0]
        before = counters.read(decode)
        handed_over = show_handover(decode, before, ask(base_url, question))
        if not once:
            print(f"\nThe gateway stays at {base_url}, operations at http://{HOST}:{ports.ops_port}. Ctrl-C ends all.")
            signal.pause()
    return 0 if handed_over else 1


def main() -> int:
    """Runs the demo; status 1 with a message when something is in the way."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("question", nargs="?", default=QUESTION)
    parser.add_argument("--port", type=int, default=8000, help="of the gateway (%(default)s)")
    parser.add_argument("--ops-port", type=int, default=8001, help="of its operations listener (%(default)s)")
    parser.add_argument("--once", action="store_true", default=not sys.stdin.isatty(), help="end after the answer")
    arguments = parser.parse_args()
    end_on_signal()
    try:
        return demo(Listeners(arguments.port, arguments.ops_port), arguments.question, arguments.once)
    except (Failure, OpenAIError) as failure:
        say(str(failure))
        return 1


if __name__ == "__main__":
    sys.exit(main())
