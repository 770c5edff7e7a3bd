"""How does it look when it works? A simulated fleet and the gateway in one process, on loopback, ready to be asked."""

import asyncio
import json
import shlex
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx
from rich.console import Console
from rich.panel import Panel
from rich.table import Table

from router.app import Running, running
from router.settings.edge import Listen
from router.settings.engines import BackendSettings, Role
from router.settings.keys import clients_key
from router.settings.tree import Settings
from router.sim.config import SimConfig
from router.sim.fleet import SimFleet
from router.telemetry.logs import configure

DEFAULTS = {
    "listen": {"host": "127.0.0.1"},
    "routing": {"min_novel_tokens": 0, "min_concurrency": 0, "rule": "thresholds"},
    "drain": {"drain_accept_s": 0, "drain_timeout_s": 5},
    "pairs": {"warm_up": False},  # what is counted is what was asked
}
"""What the demo prefers to the defaults of the tree; flags, variables and files still win."""

ANSWER_TOKENS = 48


class NoAnswer(Exception):
    """The gateway answered with an error."""


@dataclass(frozen=True, slots=True)
class Shape:
    """How many simulated engines of which role, and as fast as which GPU."""

    prefill: int
    decode: int
    gpu: str


async def run(settings: Settings, shape: Shape, question: str | None = None) -> int:
    """Run fleet and gateway until SIGINT or SIGTERM, or until `question` is answered. Returns the exit code."""
    out = Console(highlight=False)
    log_lines = configure(settings.log if question is None else settings.log.model_copy(update={"level": "warning"}))
    base = SimConfig(gpu=shape.gpu)
    async with (
        SimFleet(prefill=shape.prefill, decode=shape.decode, base=base) as fleet,
        running(
            settings.model_copy(update={"backends": (*settings.backends, *_backends(fleet))}), log_lines
        ) as gateway,
    ):
        if question is not None:
            async with _client(gateway.data_url, settings) as client:
                return await _ask_and_show(out, client, base.model, question, fleet)
        _introduce(out, settings, fleet, gateway, base.model)
        await _signal()
        out.print("stopping")
    return 0


def _backends(fleet: SimFleet) -> list[BackendSettings]:
    return [BackendSettings(url=engine.url, role=Role(engine.config.role)) for engine in fleet.engines]


async def _signal() -> None:
    """Wait for SIGINT or SIGTERM."""
    received = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, received.set)
    await received.wait()


def _introduce(out: Console, settings: Settings, fleet: SimFleet, gateway: Running, model: str) -> None:
    table = Table("what", "where", box=None, header_style="bold", padding=(0, 3, 0, 0))
    for engine in fleet.engines:
        table.add_row(f"{engine.config.role} engine, simulated", engine.url)
    table.add_row("gateway (OpenAI API)", f"{gateway.data_url}/v1")
    table.add_row("operations: console, metrics, fleet", f"{gateway.ops_url}/")
    out.print(Panel(table, title="pd-router", expand=False))
    key = Key.of(settings.listen)
    out.print("[bold]Ask it with curl:[/]")
    out.print(_curl(gateway.data_url, model, key), soft_wrap=True, markup=False)
    out.print("\n[bold]or with the OpenAI SDK:[/]")
    out.print(_snippet(gateway.data_url, model, key), soft_wrap=True, markup=False)
    out.print(f"\n[dim]{_thresholds(settings)}\nCtrl-C ends it.[/]", soft_wrap=True)


def _thresholds(settings: Settings) -> str:
    routing = settings.routing
    if routing.min_novel_tokens or routing.min_concurrency:
        return (
            f"Prompts under {routing.min_novel_tokens} tokens, and all while fewer than {routing.min_concurrency} "
            "requests are in flight, stay on decode."
        )
    return (
        "routing.min_novel_tokens and routing.min_concurrency are 0 here, so that a lone short question is handed "
        "over too; `pd-router serve` keeps such questions on decode (512 and 10)."
    )


@dataclass(frozen=True, slots=True)
class Key:
    """How a shell and Python come by the key for clients, which itself is not printed."""

    shell: str
    python: str

    @classmethod
    def of(cls, listen: Listen) -> "Key | None":
        """None where clients need none."""
        if clients_key(listen) is None:
            return None
        if listen.api_key_file is not None:
            return cls(f"$(cat {shlex.quote(listen.api_key_file)})", f"open({listen.api_key_file!r}).read().strip()")
        return cls(f"${listen.api_key_env}", f'os.environ["{listen.api_key_env}"]')


def _curl(url: str, model: str, key: Key | None) -> str:
    headers = "-H 'content-type: application/json'" + (f' -H "authorization: Bearer {key.shell}"' if key else "")
    body = json.dumps({"model": model, "stream": True, "messages": [{"role": "user", "content": "Why two pools?"}]})
    return f"curl -N {url}/v1/chat/completions {headers} -d '{body}'"


def _snippet(url: str, model: str, key: Key | None) -> str:
    given = key.python if key else '"none"'
    beginning = "import os\n\n" if given.startswith("os.") else ""
    return f"""\
{beginning}from openai import OpenAI

client = OpenAI(base_url="{url}/v1", api_key={given})
messages = [{{"role": "user", "content": "Why two pools?"}}]
for chunk in client.chat.completions.create(model="{model}", messages=messages, stream=True):
    print(chunk.choices[0].delta.content or "", end="", flush=True)"""


def _client(url: str, settings: Settings) -> httpx.AsyncClient:
    """One that has the key, if there is one."""
    key = clients_key(settings.listen)
    headers = {"authorization": f"Bearer {key.get_secret_value()}"} if key else {}
    return httpx.AsyncClient(base_url=url, headers=headers, trust_env=False, timeout=60)


async def _ask_and_show(out: Console, client: httpx.AsyncClient, model: str, question: str, fleet: SimFleet) -> int:
    out.print(f"[bold]{client.base_url}[/] {question}", soft_wrap=True)
    try:
        async for text in _ask(client, model, question):
            out.print(text, end="", soft_wrap=True, markup=False)
    except (NoAnswer, httpx.HTTPError) as error:
        out.print(f"no answer: {error!r}", soft_wrap=True, markup=False)
        return 1
    out.print(f"\n{_handover(fleet)}", soft_wrap=True)
    return 0


async def _ask(client: httpx.AsyncClient, model: str, question: str) -> AsyncIterator[str]:
    """The pieces of a streamed answer. Raises `NoAnswer` with what came instead."""
    body = {
        "model": model,
        "stream": True,
        "max_tokens": ANSWER_TOKENS,
        "messages": [{"role": "user", "content": question}],
    }
    async with client.stream("POST", "/v1/chat/completions", json=body) as answer:
        if answer.is_error:
            raise NoAnswer((await answer.aread()).decode())
        async for line in answer.aiter_lines():
            if line.startswith("data: {"):
                yield _text(json.loads(line.removeprefix("data: ")))


def _text(event: dict[str, Any]) -> str:
    if "error" in event:
        raise NoAnswer(event["error"]["message"])
    return "".join(choice["delta"].get("content") or "" for choice in event["choices"])


def _handover(fleet: SimFleet) -> str:
    """One line from the engines' own counters."""
    counters = [engine.core.counters for engine in fleet.decode]
    pulled = sum(c.external_kv_transfer_tokens for c in counters)
    computed = sum(c.local_compute_tokens for c in counters)
    size_bytes = sum(c.transfer_bytes.total for c in counters)
    handoffs = sum(engine.ledger.totals.issued for engine in fleet.prefill)
    return (
        f"hand-overs {handoffs}; decode engines: prompt tokens pulled {pulled}, "
        f"computed {computed}, moved {size_bytes / 1e6:.1f} MB"
    )
