"""Real vLLM engines and a gateway in front of them, as processes; what the engines say they hold and have done."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families

ROOT = Path(__file__).parents[2]
ENGINES = [sys.executable, str(ROOT / "deploy" / "local" / "engines.py")]
SETTLING_S = 2.0
"""How long engines may take to free what nobody needs any more, and to publish what they counted."""

EVERY_PROMPT_IS_HANDED_OVER = {
    "ROUTING__RULE": "thresholds",  # what pays on one CPU is another question
    "ROUTING__MIN_NOVEL_TOKENS": "0",
    "ROUTING__MIN_CONCURRENCY": "0",
}


@dataclass(frozen=True)
class PromptTokens:
    """Where an engine had its prompt tokens from, summed over its life."""

    pulled: int
    cached: int
    computed: int

    @property
    def total(self) -> int:
        return self.pulled + self.cached + self.computed

    def __sub__(self, other: "PromptTokens") -> "PromptTokens":
        return PromptTokens(self.pulled - other.pulled, self.cached - other.cached, self.computed - other.computed)


@dataclass(frozen=True)
class Engine:
    """An engine, seen through its metrics."""

    url: str

    def prompt_tokens(self) -> PromptTokens:
        samples = self._samples("vllm:prompt_tokens_by_source_total", "source")
        return PromptTokens(
            *(int(samples.get(source, 0)) for source in ("external_kv_transfer", "local_cache_hit", "local_compute"))
        )

    def prompt_tokens_since(self, before: PromptTokens, expected: int) -> PromptTokens:
        """What was added to `before`, once it is as much as `expected`; engines publish with a later step."""
        until(lambda: (self.prompt_tokens() - before).total >= expected)
        return self.prompt_tokens() - before

    def at_rest(self) -> bool:
        """Whether it soon runs nothing and holds no KV."""
        return until(lambda: not (self.running or self.waiting or self.kv_usage))

    @property
    def kv_usage(self) -> float:
        """Share of its KV blocks that are in use."""
        return self._value("vllm:kv_cache_usage_perc")

    @property
    def expired(self) -> float:
        """Hand-overs whose KV nobody pulled or gave back before their lease ended."""
        return self._value("vllm:nixl_num_kv_expired_reqs_total")

    @property
    def running(self) -> float:
        return self._value("vllm:num_requests_running")

    @property
    def waiting(self) -> float:
        return self._value("vllm:num_requests_waiting")

    def _value(self, name: str) -> float:
        return sum(self._samples(name, "engine").values())

    def _samples(self, name: str, label: str) -> dict[str, float]:
        return samples(f"{self.url}/metrics", name, label)


@dataclass(frozen=True)
class Engines:
    """The engines of one run of the kit. `reference` answers plain requests."""

    prefill: Engine
    decode: Engine
    reference: Engine
    folder: Path

    def at_rest(self) -> bool:
        """Whether both ends of the hand-over soon run nothing and hold no KV."""
        return self.prefill.at_rest() and self.decode.at_rest()

    def restart(self, name: str) -> None:
        """Kill an engine, such as decode-0, and start it again on the same ports: for its peers it is a new one."""
        for command in ("kill", "start"):
            subprocess.run([*ENGINES, command, name, "--run-dir", str(self.folder)], check=True)


@dataclass(frozen=True)
class Pools:
    """Several engines of each role, in one run of the kit."""

    prefill: Sequence[Engine]
    decode: Sequence[Engine]
    folder: Path

    def signal(self, name: str, signal: str) -> None:
        """Send KILL, STOP or CONT to an engine, such as prefill-0."""
        subprocess.run([*ENGINES, "kill", name, signal, "--run-dir", str(self.folder)], check=True)

    def start(self, name: str) -> None:
        """Start an engine that was killed again, on its ports; returns when it is healthy."""
        subprocess.run([*ENGINES, "start", name, "--run-dir", str(self.folder)], check=True)

    def at_rest(self) -> bool:
        """Whether all engines soon run nothing and hold no KV."""
        return all(engine.at_rest() for engine in (*self.prefill, *self.decode))


@dataclass(frozen=True)
class Gateway:
    """A gateway process."""

    url: str
    ops_url: str

    def uses(self, engines: int) -> bool:
        """Whether it takes so many engines for usable."""
        return sum(self.count("backend_up", "pool").values()) >= engines

    def count(self, name: str, label: str) -> dict[str, float]:
        """A metric of its own, by one label."""
        return samples(f"{self.ops_url}/metrics", f"pd_router_{name}", label)


def samples(url: str, name: str, label: str) -> dict[str, float]:
    """The values of a metric by one label, summed over the others."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(httpx.get(url, timeout=30).text):
        for sample in family.samples:
            if sample.name == name:
                key = sample.labels.get(label, "")
                found[key] = found.get(key, 0) + sample.value
    return found


def until(condition: Callable[[], bool], within_s: float = SETTLING_S) -> bool:
    """Whether a condition comes true in time."""
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


@contextmanager
def vllm_engines(model: str, folder: Path, *more: str, colocated: int = 0) -> Iterator[Engines]:
    """A prefill and a decode engine on free ports, installed when they are missing, ended on leaving.

    The reference is a colocated engine if there is one, else the prefill engine. `more` are options of the kit.
    """
    where = ["--run-dir", str(folder)]
    options = ["--model", model, "--base-port", "0", "--colocated", str(colocated), *more]
    try:
        up = subprocess.run([*ENGINES, "up", *where, *options], stdout=subprocess.PIPE, check=True)
        urls = json.loads(up.stdout)
        prefill, decode = Engine(urls["prefill"][0]), Engine(urls["decode"][0])
        yield Engines(prefill, decode, Engine(urls["colocated"][0]) if colocated else prefill, folder)
    finally:
        subprocess.run([*ENGINES, "down", *where], check=True)


@contextmanager
def vllm_pools(folder: Path, *, prefill: int, decode: int, lease_s: int) -> Iterator[Pools]:
    """Engines with the model tiny on free ports, ended on leaving."""
    where = ["--run-dir", str(folder)]
    options = ["--model", "tiny", "--base-port", "0", "--prefill", str(prefill), "--decode", str(decode)]
    try:
        argv = [*ENGINES, "up", *where, *options, "--lease-s", str(lease_s)]
        up = subprocess.run(argv, stdout=subprocess.PIPE, check=True)
        urls = json.loads(up.stdout)
        yield Pools([Engine(url) for url in urls["prefill"]], [Engine(url) for url in urls["decode"]], folder)
    finally:
        subprocess.run([*ENGINES, "down", *where], check=True)


@contextmanager
def gateway_process(
    prefill_urls: str | Sequence[str], decode_urls: str | Sequence[str], log: Path, **settings: str
) -> Iterator[Gateway]:
    """`pd-router serve` in front of engines, once all are in use; told to stop on leaving, and held to status 0."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PD_ROUTER_")}
    settings = {"DRAIN__DRAIN_ACCEPT_S": "0", "PAIRS__WARM_UP": "false", **EVERY_PROMPT_IS_HANDED_OVER, **settings}
    environ |= {f"PD_ROUTER_{name}": value for name, value in settings.items()}
    argv = [sys.executable, "-m", "router", "serve", "--host", "127.0.0.1", "--port", "0", "--ops-port", "0"]
    pools = {"--prefill": prefill_urls, "--decode": decode_urls}
    engines = [(flag, url) for flag, of in pools.items() for url in ([of] if isinstance(of, str) else of)]
    argv += [word for engine in engines for word in engine]
    with log.open("wb") as output:
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environ, cwd=ROOT)
    try:
        yield _ready(process, log, len(engines))
        process.terminate()
        assert process.wait(20) == 0, log.read_text()
    finally:
        process.kill()
        process.wait()


def _ready(process: "subprocess.Popen[bytes]", log: Path, engines: int) -> Gateway:
    """The gateway, once it is listening and takes all engines for usable."""
    serving = re.compile(r"data=(\S+) operations=(\S+)")
    assert until(lambda: bool(serving.search(log.read_text())) or process.poll() is not None, 30), log.read_text()
    addresses = serving.search(log.read_text())
    assert addresses, log.read_text()
    gateway = Gateway(addresses[1], addresses[2])
    assert until(lambda: gateway.uses(engines), 30), log.read_text()
    return gateway
