"""How are simulated engines run as processes of their own, broken, and asked what they hold?"""

import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import httpx

from bench.compare.processes import await_free_port, running
from bench.compare.routers import ROOT, Place, url
from router.sim.faults import Fault

HARDWARE = ("--gpu", "h200", "--decode-step-s", "0.01")
"""Prompts take what they take on an H200; tokens come every 10 ms, which is slower, to spare this machine."""


@dataclass
class Engine:
    """One engine process. `seen` is what its books said last: those of a killed engine are gone."""

    url: str
    process: subprocess.Popen[bytes]
    seen: Counter[str] = field(default_factory=Counter)
    killed: bool = False

    async def books(self, client: httpx.AsyncClient) -> Counter[str]:
        """Totals of the engine and, while it lives, what it holds."""
        if not self.killed:
            ledger: dict[str, Any] = (await client.get(f"{self.url}/sim/ledger")).raise_for_status().json()
            self.seen = Counter(ledger["totals"])
            return self.seen + Counter(ledger["gauges"])
        return self.seen

    async def add(self, client: httpx.AsyncClient, *faults: Fault) -> None:
        """Let these happen."""
        body = [asdict(fault) for fault in faults]
        (await client.post(f"{self.url}/sim/faults", json=body)).raise_for_status()

    async def kill(self, client: httpx.AsyncClient) -> None:
        """SIGKILL: it is gone without a word, but for what its books said a moment before."""
        await self.books(client)
        self.killed = True
        self.process.kill()

    def freeze(self) -> None:
        """SIGSTOP: its connections stay open, and nothing is answered on them."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT: it goes on where it stopped."""
        self.process.send_signal(signal.SIGCONT)


@dataclass(frozen=True)
class Engines:
    """A fleet of engine processes."""

    prefill: Sequence[Engine]
    decode: Sequence[Engine]


@contextmanager
def engines(place: Place, more: Mapping[str, Sequence[str]], core: int | None) -> Iterator[Engines]:
    """Engines on the ports of a place; `more` are further flags by role."""
    with ExitStack() as held:

        def start(role: str, port: int) -> Engine:
            await_free_port(port)
            flags = ("--role", role, "--port", str(port), "--seed", str(port), *HARDWARE, *more.get(role, ()))
            command = (sys.executable, "-m", "router", "sim", *flags)
            process = held.enter_context(running(command, core, place.folder / f"{role}-{port}.log", ROOT))
            held.callback(process.kill)  # a frozen one does not hear SIGTERM
            return Engine(url(port), process)

        prefill = [start("prefill", port) for port in place.prefill_ports]
        yield Engines(prefill, [start("decode", port) for port in place.decode_ports])
