"""What does one run measure? A router on one core; fleet and load, which check what it does, on another."""

import contextlib
import json
import subprocess
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.compare.loads import Load
from bench.compare.processes import await_free_port, cpu_s, machine_cpu_s, running
from bench.compare.routers import Place, Router, url

START_TIMEOUT_S = 90
FULL_CORE = 0.9
"""Share of their core from which on load and fleet may have limited a run."""


class RigError(Exception):
    """A run that could not be made."""


@dataclass(frozen=True, slots=True)
class Run:
    """One router under one load. `result` is what the harness printed; `faults` says why it must not be read."""

    router: str
    load: str
    round: int
    result: dict[str, Any]
    fleet: dict[str, int]
    fleet_cpu_cores: float
    other_cpu_cores: float
    faults: list[str]

    def figure(self, name: str) -> float:
        """A figure of the result by dotted path, such as `ttft.p99_ms`."""
        value: Any = self.result
        for key in name.split("."):
            value = value[key]
        return float(value)

    @property
    def load_limited(self) -> bool:
        """Whether the load's core was full."""
        return bool(self.fleet_cpu_cores + self.result["load_cpu_cores"] > FULL_CORE)


@dataclass(frozen=True, slots=True)
class Rig:
    """Cores and ports of a comparison, and the harness."""

    harness: Path
    place: Place
    gateway_core: int = 0
    load_core: int = 1

    @contextlib.contextmanager
    def fleet(self, token_interval_ms: float, free: bool = False) -> Iterator[int]:
        """Mock engines; yields their process."""
        ports = {"-prefill": self.place.prefill_ports, "-decode": self.place.decode_ports}
        for port in (*self.place.prefill_ports, *self.place.decode_ports):
            await_free_port(port)
        flags = [word for flag, list_ in ports.items() for word in (flag, ",".join(map(str, list_)))]
        command = [str(self.harness), "fleet", *flags, "-token-interval", f"{token_interval_ms}ms"]
        with running([*command, *(["-free"] if free else [])], self.load_core, self._log("fleet")) as process:
            _await(lambda: self.stats() is not None)
            yield process.pid

    @contextlib.contextmanager
    def router(self, router: Router) -> Iterator[int]:
        """A router that has given a right answer; yields its process."""
        await_free_port(self.place.port)
        log = self._log(router.name)
        with running(router.command, self.gateway_core, log, router.cwd) as process:
            self._await_answer(router, process, log)
            yield process.pid

    def _await_answer(self, router: Router, process: subprocess.Popen[bytes], log: Path) -> None:
        end = time.monotonic() + START_TIMEOUT_S
        fault = "it did not start"
        while time.monotonic() < end and process.poll() is None:
            fault = self.load("-requests", "4", "-streams", "1", "-tokens", "1")["first_error"]
            if not fault:
                return
            time.sleep(0.3)
        raise RigError(f"{router.name} gave no right answer: {fault}; its log is {log}")

    def load(self, *flags: str) -> dict[str, Any]:
        """One run of the harness against the router."""
        command = [str(self.harness), "load", "-url", url(self.place.port), *flags]
        pinned = ["taskset", "--cpu-list", str(self.load_core), *command]
        done = subprocess.run(pinned, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RigError(done.stderr.strip())
        return dict(json.loads(done.stdout))

    def stats(self) -> dict[str, int]:
        """The counters of all engines, summed. Raises `OSError` while there is none."""
        total: Counter[str] = Counter()
        for port in (*self.place.prefill_ports, *self.place.decode_ports):
            with urllib.request.urlopen(f"{url(port)}/stats", timeout=5) as answer:
                total.update({name: n for name, n in json.load(answer).items() if isinstance(n, int)})
        return dict(total)

    def measure(self, router: Router, load: Load, number: int, warm_s: float, measured_s: float) -> Run:
        """Start a router, load it, stop it. The load's own fleet must be running."""
        with self.fleet(load.token_interval_ms) as fleet_pid, self.router(router) as pid:
            cpu, machine, begin, before = cpu_s(fleet_pid), machine_cpu_s(), time.monotonic(), self.stats()
            result = self.load(
                *("-streams", str(load.streams), "-tokens", str(load.tokens), "-prompt-bytes", str(load.prompt_bytes)),
                *("-warm-seconds", str(warm_s), "-seconds", str(measured_s), "-pid", str(pid)),
            )
            elapsed_s = time.monotonic() - begin
            fleet_cores = (cpu_s(fleet_pid) - cpu) / elapsed_s
            used = result["cpu_cores"] + result["load_cpu_cores"] + fleet_cores
            other = max(0.0, (machine_cpu_s() - machine) / elapsed_s - used)
            after = self.stats()
        fleet = {name: after[name] - before[name] for name in after}
        faults = _faults(result, fleet, after["running"], router.hands_over)
        return Run(router.name, load.name, number, result, fleet, fleet_cores, other, faults)

    def _log(self, name: str) -> Path:
        return self.place.folder / f"{name}.log"


def _faults(result: dict[str, Any], fleet: dict[str, int], still_running: int, hands_over: bool) -> list[str]:
    """Why the figures of a run must not be read."""
    wrong = {
        "errors": result["errors"],
        "unfinished": result["unfinished"],
        "bad prefill legs": fleet["bad_prefill"],
        "bad hand-overs": fleet["bad_handoff"],
        "requests without hand-over": fleet["direct"] if hands_over else 0,
        "requests left on engines": still_running,
        "no request": int(not result["requests"]),
    }
    faults = [f"{n} {what}" for what, n in wrong.items() if n]
    return [*faults, result["first_error"]] if result["first_error"] else faults


def _await(ready: Callable[[], object], timeout_s: float = 10) -> None:
    """Return once `ready()` is true; meanwhile it may raise `OSError`."""
    end = time.monotonic() + timeout_s
    while True:
        try:
            if ready():
                return
        except OSError:
            if time.monotonic() > end:
                raise
        time.sleep(0.05)
