"""A fleet, a gateway under load and Prometheus, each a process of its own on loopback; nothing outlives the block."""

import contextlib
import itertools
import math
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx
import yaml

from router.sim.faults import Fault
from tests.support.expressions import RULES
from tests.support.tree import ROOT

SCRAPE_S = 1

TIMES_FASTER = 60
"""How much shorter the test's copy of the rules waits: minutes become seconds."""

SETTINGS: Mapping[str, Any] = {
    "routing": {
        "min_novel_tokens": 256,
        "min_concurrency": 0,
        "local_prefill_budget_tokens": 1024,
        "rule": "thresholds",
        "mode_share": 0.95,
    },
    "admission": {"prefill_permits": 3, "prefill_permit_tokens": 1024, "decode_permits": 10},
    "timeouts": {"prefill_timeout_s": 3, "first_event_timeout_s": 5},
    "edge": {"max_connections_per_address": 64},
    "pairs": {"quarantine_s": 3},
    "ejection": {"first_s": 2, "slow_start_s": 5},
}
"""Little room, so that there are lines to see; short timeouts, as all times here are short."""


@dataclass
class Engine:
    """A simulated engine with an address that it keeps when it is started again."""

    role: str
    port: int
    side_channel_port: int
    log: Path
    process: subprocess.Popen[bytes] | None = None

    @property
    def id(self) -> str:
        """Its name in metrics and in `/fleet`."""
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://{self.id}"

    @property
    def kv_events(self) -> str:
        """Where it tells what is in its KV cache."""
        return f"ipc://{self.log.with_suffix('.kv')}"

    def start(self) -> None:
        """Start it, whether or not it ran before."""
        options = {"role": self.role, "port": self.port, "side-channel-port": self.side_channel_port, "gpu": "h100"}
        options |= {"lease-s": 3, "kv-load-failure-policy": "fail", "kv-events": self.kv_events}
        flags = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        flags.append("--enable-prompt-tokens-details")
        self.process = start([sys.executable, "-m", "router", "sim", *flags], self.log)

    def kill(self) -> None:
        """End it without a word."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def add(self, *faults: Fault) -> None:
        """Let these happen to it."""
        httpx.post(f"{self.url}/sim/faults", json=[asdict(fault) for fault in faults]).raise_for_status()


@dataclass
class Stack:
    """All that runs, and what can be asked of it."""

    engines: Sequence[Engine]
    data_url: str
    ops_url: str
    prometheus_url: str
    folder: Path
    began: float = field(default_factory=time.time)
    _gateway: subprocess.Popen[bytes] | None = None
    _load: subprocess.Popen[bytes] | None = None

    def of_role(self, role: str) -> Sequence[Engine]:
        """The engines of a pool."""
        return [engine for engine in self.engines if engine.role == role]

    def fleet(self, engine: Engine) -> Any:
        """What `/fleet` says of an engine."""
        pools = httpx.get(f"{self.ops_url}/fleet").json()["pools"]
        return next(one for one in pools[engine.role] if one["id"] == engine.id)

    def well(self) -> bool:
        """Whether every engine is used as much as the others; faults that have not happened yet are taken back."""
        for engine in self.engines:
            httpx.delete(f"{engine.url}/sim/faults")
        told = [self.fleet(engine) for engine in self.engines]
        return all(one["state"] == "up" and one["share"] == 1 for one in told)

    def prometheus(self, path: str, **parameters: Any) -> Any:
        """An answer of Prometheus' API. Fails with what Prometheus says of a bad expression."""
        answer = httpx.get(f"{self.prometheus_url}/api/v1/{path}", params=parameters, timeout=30).json()
        assert answer["status"] == "success", answer
        return answer["data"]

    def values(self, expr: str) -> list[float]:
        """Every value that an expression had since the start; those that are no number are left out."""
        found = self.prometheus("query_range", query=expr, start=self.began, end=time.time(), step="1s")["result"]
        values = [float(value) for series in found for _, value in series["values"]]
        return [value for value in values if value == value]  # NaN is not

    def now(self, expr: str) -> float:
        """The one value that an expression has; no number when it has none."""
        found = self.prometheus("query", query=expr)["result"]
        return float(found[0]["value"][1]) if found else math.nan

    def operate(self, engine: Engine, action: str) -> None:
        """Drain an engine, or enable it."""
        httpx.post(f"{self.ops_url}/fleet/backends/{engine.id}/{action}").raise_for_status()

    @property
    def listed(self) -> Path:
        """The file that tells the gateway where its engines are."""
        return self.folder / "backends.yaml"

    def signal_gateway(self, number: signal.Signals) -> None:
        """Stop the gateway's process, or let it go on."""
        assert self._gateway is not None
        self._gateway.send_signal(number)

    def start_gateway(self) -> None:
        """Start it, with what `folder` has for it."""
        self._gateway = start(_gateway(self), self.folder / "gateway.log")

    def start_load(self) -> None:
        """Let the clients come."""
        command = [sys.executable, "-m", "tests.observability.load", self.data_url]
        self._load = start(command, self.folder / "load.log")

    def end_load(self) -> None:
        """Let them go."""
        assert self._load is not None
        end(self._load)

    def end(self) -> None:
        """End what was started."""
        for process in (self._load, self._gateway):
            if process is not None:
                process.send_signal(signal.SIGCONT)
                end(process)

    def firing(self) -> set[tuple[str, str]]:
        """The alerts that fire now: name, and engine or pool if they are about one."""
        alerts = [alert for alert in self.prometheus("alerts")["alerts"] if alert["state"] == "firing"]
        labels = [alert["labels"] for alert in alerts]
        return {(one["alertname"], one.get("backend") or one.get("pool") or "") for one in labels}


def until(condition: Callable[[], object], what: str, within_s: float) -> float:
    """Wait for something, for how long is returned; fails when it does not come in time."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < within_s, f"waited {within_s:g} s in vain for {what}"
        time.sleep(0.1)
    return time.monotonic() - began


def start(command: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    """A process whose output is appended to a log."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PD_ROUTER_")}
    with log.open("ab") as output:
        return subprocess.Popen(
            command, cwd=ROOT, env=environ, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process, if need be the hard way."""
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, below those that the system hands out to whoever asks for any."""
    candidates = random.sample(range(20_000, 32_000), 20 * count)
    return list(itertools.islice(filter(_is_free, candidates), count))


def _is_free(port: int) -> bool:
    with socket.socket() as one, contextlib.suppress(OSError):
        one.bind(("127.0.0.1", port))
        return True
    return False


def faster_rules(folder: Path) -> None:
    """A copy of the rules in which all that is waited for is shorter."""
    for path in RULES.glob("*.yml"):
        text = re.sub(r"(?<=for: )\w+|(?<=\[)\w+(?=\])", _faster, path.read_text(encoding="utf-8"))
        (folder / path.name).write_text(text, encoding="utf-8")


def _faster(duration: re.Match[str]) -> str:
    number, unit = int(duration[0][:-1]), {"s": 1, "m": 60, "h": 3600, "d": 86400}[duration[0][-1]]
    return f"{number * unit * 1000 // TIMES_FASTER}ms"


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Stack]:
    """2 prefill and 2 decode engines, a gateway, a load and Prometheus; logs and data are in `folder`."""
    names = ("prefill-0", "prefill-1", "decode-0", "decode-1")
    data, ops, prometheus, *ports = free_ports(3 + 2 * len(names))
    pairs = zip(ports[::2], ports[1::2], strict=True)
    engines = [
        Engine(name.split("-")[0], port, side_channel, folder / f"{name}.log")
        for name, (port, side_channel) in zip(names, pairs, strict=True)
    ]
    stack = Stack(engines, _url(data), _url(ops), _url(prometheus), folder)
    with contextlib.ExitStack() as held:
        for engine in engines:
            engine.start()
            held.callback(engine.kill)
        held.callback(stack.end)
        stack.start_gateway()
        held.callback(end, start(_prometheus(stack), folder / "prometheus.log"))
        until(lambda: _answers(f"{stack.ops_url}/readyz"), "the gateway", 20)
        until(lambda: _answers(f"{stack.prometheus_url}/-/ready"), "Prometheus", 20)
        stack.start_load()
        yield stack


def _gateway(stack: Stack) -> Sequence[str]:
    backends = [
        {"url": engine.url, "role": engine.role, "kv_lease_s": 3, "kv_events": {"endpoint": engine.kv_events}}
        for engine in stack.engines
    ]
    listeners = {
        name: {"host": "127.0.0.1", "port": int(url.rsplit(":", 1)[1])}
        for name, url in (("listen", stack.data_url), ("ops", stack.ops_url))
    }
    drain = {"drain_accept_s": 0, "drain_timeout_s": 1}
    path = stack.folder / "gateway.yaml"
    stack.listed.write_text(yaml.safe_dump(backends))
    discovery = {"file": {"path": str(stack.listed)}}
    path.write_text(yaml.safe_dump({**SETTINGS, **listeners, "drain": drain, "discovery": discovery}))
    return [sys.executable, "-m", "router", "serve", "--config", str(path)]


def _prometheus(stack: Stack) -> Sequence[str]:
    binary = shutil.which("prometheus", path=f"{ROOT / 'build/prometheus/usr/bin'}:{os.environ['PATH']}")
    assert binary, "there is no prometheus; make test-observability gets it"
    folder = stack.folder
    rules = folder / "rules"
    rules.mkdir()
    faster_rules(rules)
    config = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
    every = f"{SCRAPE_S * 1000:g}ms"
    config["global"] = {"scrape_interval": every, "scrape_timeout": every, "evaluation_interval": every}
    config["scrape_configs"][0]["static_configs"] = [{"targets": [stack.ops_url.removeprefix("http://")]}]
    path = folder / "prometheus.yml"
    path.write_text(yaml.safe_dump(config))
    address = stack.prometheus_url.removeprefix("http://")
    flags = {"config.file": path, "storage.tsdb.path": folder / "tsdb", "web.listen-address": address}
    return [binary, *(f"--{name}={value}" for name, value in flags.items())]


def _url(port: int) -> str:
    return f"http://127.0.0.1:{port}"


def _answers(url: str) -> bool:
    try:
        return httpx.get(url).is_success
    except httpx.TransportError:
        return False
