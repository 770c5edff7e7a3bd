"""Simulated engines as processes of their own, which can be killed, started again at the same address, and frozen."""

import asyncio
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx
import orjson

from router.sim.faults import Fault
from tests.support.fleet import Member


@dataclass
class EngineProcess:
    """One engine by its command line."""

    member: Member
    flags: tuple[str, ...]
    client: httpx.AsyncClient
    process: Process

    async def kill(self) -> None:
        """SIGKILL: gone without a word."""
        self.process.kill()
        await self.process.wait()

    async def start_again(self) -> None:
        """At the same address, with another engine id."""
        port = urlsplit(self.member.url).port
        self.process, _ = await _started(*self.flags, "--port", str(port))

    def freeze(self) -> None:
        """SIGSTOP: its sockets are open, nothing answers."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        self.process.send_signal(signal.SIGCONT)

    async def add(self, fault: Fault) -> None:
        """Let this happen to its requests."""
        (await self.client.post(f"{self.member.url}/sim/faults", json=[asdict(fault)])).raise_for_status()

    async def clear(self) -> None:
        """Let nothing more happen."""
        (await self.client.delete(f"{self.member.url}/sim/faults")).raise_for_status()

    async def ledger(self) -> Any:
        """What it has handed out and holds since it was started."""
        return (await self.client.get(f"{self.member.url}/sim/ledger")).json()


@asynccontextmanager
async def engine_process(role: str, *flags: str) -> AsyncIterator[EngineProcess]:
    """An engine that runs while the block lasts."""
    process, url = await _started("--role", role, *flags)
    async with httpx.AsyncClient(timeout=30, trust_env=False) as client:
        engine = EngineProcess(Member(url, role), ("--role", role, *flags), client, process)
        try:
            yield engine
        finally:
            if engine.process.returncode is None:
                await engine.kill()


async def _started(*flags: str) -> tuple[Process, str]:
    process = await asyncio.create_subprocess_exec(*(sys.executable, "-m", "router", "sim"), *flags, stdout=PIPE)
    assert process.stdout is not None
    return process, orjson.loads(await process.stdout.readline())["url"]
