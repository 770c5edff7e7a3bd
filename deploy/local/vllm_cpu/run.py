"""Which engines run now, and what can be done to them?

A run is a folder with logs, state.json and the engines that were started from it; nothing else is ever signalled.
"""

import json
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from subprocess import Popen
from typing import Any

from vllm_cpu import install, models, plan, processes
from vllm_cpu.console import Failure, say, tail
from vllm_cpu.plan import KV_ROLES, Engine, Options
from vllm_cpu.processes import Leader, Part

Started = tuple[Engine, "Popen[bytes]"]


@dataclass
class Run:
    """The engines of one folder; kept in its state.json."""

    folder: Path
    options: Options = field(default_factory=Options)
    engines: list[Engine] = field(default_factory=list)
    leaders: dict[str, Leader] = field(default_factory=dict)

    @classmethod
    def load(cls, folder: Path) -> "Run":
        """The run of a folder; without engines when nothing was started there."""
        run = cls(folder.resolve())
        if run._file.exists():
            state = json.loads(run._file.read_text())
            run.options = Options(**_with_tuple(state["options"], "vllm_arguments"))
            run.engines = [Engine(**_with_tuple(engine, "argv")) for engine in state["engines"]]
            run.leaders = {name: Leader(**leader) for name, leader in state["leaders"].items()}
        return run

    @property
    def _file(self) -> Path:
        return self.folder / "state.json"

    def up(self, options: Options, timeout_s: float) -> None:
        """Installs what is missing, starts the engines and waits until all are healthy.

        Returns at once when the same engines run already. Raises `Failure`, having ended what it started.
        """
        if any(self.pids(engine) for engine in self.engines):
            if options == self.options and all(self.healthy(engine) for engine in self.engines):
                return
            raise Failure(f"other engines run already, or not all are well: engines.py down --run-dir {self.folder}")
        self.folder.mkdir(parents=True, exist_ok=True)
        slots = plan.slots(options)  # before what takes long: it finds most mistakes
        python = install.ensure()
        model = models.ensure(options.model, python)
        self.options, self.leaders = options, {}
        self.engines = [plan.engine(slot, options, python, model, self.folder) for slot in slots]
        for engine in self.engines:
            Path(engine.log).write_bytes(b"")
        say(f"starting {', '.join(engine.name for engine in self.engines)} with {options.model}, logs in {self.folder}")
        try:
            self._wait([self._spawn(engine) for engine in self.engines], timeout_s)
        except BaseException:
            self.down()
            raise

    def down(self) -> None:
        """Ends all engines and forgets them. Raises `Failure` if one cannot be ended."""
        if processes.stop(list(self.leaders.values())):
            raise Failure(f"some engines of {self.folder} cannot be ended")
        for engine in self.engines:
            (self.folder / f"{engine.name}.kv").unlink(missing_ok=True)
        self._file.unlink(missing_ok=True)

    def kill(self, name: str, number: signal.Signals, part: Part | None) -> None:
        """Signals one engine, or only its HTTP server or its engine process."""
        pids = [pid for pid in self.pids(self._named(name)) if part in (None, processes.part(pid))]
        if not pids:
            raise Failure(f"{name}: no such process is alive")
        processes.send(pids, number)

    def start(self, name: str, timeout_s: float) -> None:
        """Starts an engine again on the same ports, ending what is left of it, and waits until it is healthy."""
        engine = self._named(name)
        if processes.stop([self.leaders[name]], grace_s=0):
            raise Failure(f"{name}: what is left of it cannot be ended")
        self._wait([self._spawn(engine)], timeout_s)

    def pids(self, engine: Engine) -> list[int]:
        """The living processes of an engine."""
        leader = self.leaders.get(engine.name)
        return processes.members(leader) if leader else []

    def healthy(self, engine: Engine) -> bool:
        """Whether it lives and answers its health check within 2 s."""
        return bool(self.pids(engine)) and _answers(f"{engine.url}/health")

    def urls(self, role: str) -> list[str]:
        """The origins of the engines of a role."""
        return [engine.url for engine in self.engines if engine.role == role]

    def describe(self, look: bool = False) -> dict[str, Any]:
        """The run as JSON: URLs by role and a row per engine, with its health and memory when `look` is set."""
        rows = [
            {"name": engine.name, "role": engine.role, "url": engine.url, "log": engine.log}
            | (self._look_at(engine) if look else {})
            for engine in self.engines
        ]
        return {"model": self.options.model, **{role: self.urls(role) for role in KV_ROLES}, "engines": rows}

    def _look_at(self, engine: Engine) -> dict[str, Any]:
        pids = self.pids(engine)
        return {"healthy": self.healthy(engine), "pids": pids, "memory_mib": processes.memory_mib(pids)}

    def _named(self, name: str) -> Engine:
        for engine in self.engines:
            if engine.name == name:
                return engine
        known = ", ".join(engine.name for engine in self.engines) or "none"
        raise Failure(f"no engine {name} in {self.folder}; there are: {known}")

    def _spawn(self, engine: Engine) -> Started:
        leader, process = processes.spawn(engine.argv, plan.environment(engine), Path(engine.log))
        self.leaders[engine.name] = leader
        self._save()
        return engine, process

    def _save(self) -> None:
        state = {
            "options": asdict(self.options),
            "engines": [asdict(engine) for engine in self.engines],
            "leaders": {name: asdict(leader) for name, leader in self.leaders.items()},
        }
        new = self._file.with_suffix(".new")
        new.write_text(json.dumps(state, indent=1))
        new.replace(self._file)

    def _wait(self, started: Sequence[Started], timeout_s: float) -> None:
        begin, waiting = time.monotonic(), list(started)
        while waiting:
            for engine, process in list(waiting):
                _fail_if_ended(engine, process)
                if self.healthy(engine):
                    processes.unpin(self.leaders[engine.name])
                    waiting.remove((engine, process))
                    say(f"{engine.name} is ready at {engine.url} after {time.monotonic() - begin:.0f} s")
            if waiting and time.monotonic() - begin > timeout_s:
                names = ", ".join(engine.name for engine, _ in waiting)
                raise Failure(f"not healthy after {timeout_s:.0f} s: {names}; logs in {self.folder}")
            time.sleep(0.2 if waiting else 0)


def _fail_if_ended(engine: Engine, process: "Popen[bytes]") -> None:
    if process.poll() is not None:
        end = tail(Path(engine.log), 20)
        raise Failure(f"{engine.name} ended with status {process.returncode}; the end of {engine.log}:\n{end}")


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def _with_tuple(state: dict[str, Any], key: str) -> dict[str, Any]:
    return {**state, key: tuple(state[key])}
