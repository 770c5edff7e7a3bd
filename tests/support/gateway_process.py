"""The gateway as a process of its own, which can be killed, limited and watched from outside."""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import orjson

from router.settings.tree import effective
from tests.support.fleet import Member, settings_for, total

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class GatewayProcess:
    """A gateway that serves, and what can be seen of it without its help."""

    process: Process
    url: str
    ops_url: str
    client: httpx.AsyncClient
    log: Path

    async def ended(self, within_s: float = 20) -> int:
        """Wait until it is gone; its exit status."""
        return await asyncio.wait_for(self.process.wait(), within_s)

    def terminate(self) -> None:
        """SIGTERM: stop in good order."""
        self.process.send_signal(signal.SIGTERM)

    async def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples with these labels."""
        return total(await self.metrics(), f"pd_router_{name}", **labels)

    async def metrics(self) -> str:
        """All metrics, as text."""
        return (await self.client.get(f"{self.ops_url}/metrics")).text

    async def held(self) -> dict[str, float]:
        """What it holds for requests, by name; empty when it is quiet. Idle connections do not count."""
        page = await self.metrics()
        held = {
            "requests": total(page, "pd_router_inflight_requests"),
            "tokens": total(page, "pd_router_inflight_tokens"),
            "permits": total(page, "pd_router_permits", state="taken"),
            "clients": total(page, "pd_router_connections"),
            "violations": total(page, "pd_router_invariant_violations_total"),
        }
        return {name: count for name, count in held.items() if count}

    async def busy_with(self, requests: int) -> None:
        """Wait until so many requests are with decode engines."""
        for _ in range(1000):
            if await self.metric("inflight_requests", pool="decode") >= requests:
                return
            await asyncio.sleep(0.02)
        raise AssertionError(f"it never had {requests} requests with decode engines")

    async def quiet(self, within_s: float = 5) -> dict[str, float]:
        """What it still holds once it holds nothing, or when the time is over."""
        for _ in range(round(within_s / 0.05)):
            if not (held := await self.held()):
                break
            await asyncio.sleep(0.05)
        return held

    async def tasks(self) -> int:
        """How many tasks a watched one has."""
        told = self.log.with_name("tasks")
        told.unlink(missing_ok=True)
        self.process.send_signal(signal.SIGUSR1)
        for _ in range(1000):
            if told.exists():
                return int(told.read_text())
            await asyncio.sleep(0.01)
        raise AssertionError("it does not tell its tasks")

    @property
    def files(self) -> int:
        """How many files it has open."""
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    def memory_bytes(self, which: str = "VmRSS") -> int:
        """Its memory now, or at its highest (`VmHWM`)."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split(f"{which}:")[1].split()[0]) << 10


@asynccontextmanager
async def gateway_process(
    members: Iterable[Member],
    *,
    fd: int | None = None,
    max_files: int | None = None,
    watched: bool = False,
    **sections: Any,
) -> AsyncIterator[GatewayProcess]:
    """A gateway over engines that run, gone by the end of the block.

    `sections` are settings by section. It inherits the listening socket `fd`, and may open `max_files` files.
    One that is `watched` can tell its tasks.
    """
    listen = {"host": "127.0.0.1", "port": 0, "fd": fd}
    settings = settings_for(members, **{"process": {"loop": "uvloop"}} | sections | {"listen": listen})
    with TemporaryDirectory() as folder:
        config, log = write(Path(folder, "gateway.yaml"), effective(settings)), Path(folder, "log")
        environ = {name: value for name, value in os.environ.items() if not name.startswith("PD_ROUTER_")}
        program = "tests.support.watched_gateway" if watched else "router"
        limit = f"ulimit -n {max_files}; " if max_files else ""
        process = await asyncio.create_subprocess_exec(
            *(
                "sh",
                "-c",
                f'{limit}exec "$@" 2>{log}',
                "sh",
                sys.executable,
                "-m",
                program,
            ),
            *("serve", "--config", str(config), "--log-format", "json"),
            cwd=ROOT,
            env=environ | {"WATCHED_TASKS": str(log.with_name("tasks"))},
            pass_fds=[] if fd is None else [fd],
        )
        try:
            at = await _serving(process, log)
            async with httpx.AsyncClient(timeout=30, trust_env=False) as client:
                yield GatewayProcess(process, at["data"], at["operations"], client, log)
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()


async def _serving(process: Process, log: Path) -> Any:
    """Where a gateway listens, once it does."""
    for _ in range(2000):
        if told := lines_of(log, "serving"):
            return told[0]
        assert process.returncode is None, lines_of(log)
        await asyncio.sleep(0.01)
    raise AssertionError("it does not serve")


def write(file: Path, text: str) -> Path:
    """A file with a text in it."""
    file.write_text(text)
    return file


def lines_of(log: Path, message: str = "") -> list[Any]:
    """The lines of a log, or those with a message."""
    whole = log.read_bytes().rpartition(b"\n")[0].splitlines() if log.exists() else []
    lines = [orjson.loads(line) if line.startswith(b"{") else {"message": line.decode()} for line in whole]
    return [line for line in lines if message in ("", line["message"])]
