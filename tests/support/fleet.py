"""A gateway in front of simulated engines, and whether both are quiet again when a test is over.

Engines run in the test's process, or all together in another (`fleet_process`) where load must not share a loop with
them. The gateway runs in the test's process, where everything it holds can be looked at, or as one of its own.
"""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Any

import httpx
import orjson

from router.app import Running
from router.assembly import Assembly
from router.settings.loading import load
from router.settings.tree import Settings
from router.sim.config import SimConfig
from router.sim.engine import SimEngine
from router.sim.faults import Fault
from tests.support.books import BOOKS, Entry, gateway, held_by

QUIET_WITHIN_S = 2.0
"""What nobody waits for is given back within this time."""

AT_ONCE = {
    "listen": {"host": "127.0.0.1", "port": 0},
    "ops": {"host": "127.0.0.1", "port": 0},
    "routing": {
        "min_novel_tokens": 0,
        "min_concurrency": 0,
        "rule": "thresholds",
        "prefill_policy": "least_loaded",  # that knows of no prompt that it has been sent before
        "decode_policy": "least_loaded",
    },
    "drain": {"drain_accept_s": 0, "drain_timeout_s": 1},
    "pairs": {"warm_up": False},
}
"""Every request that can be is handed over, engines get no other ones, and nothing waits at the end."""


@dataclass(frozen=True, slots=True)
class Member:
    """One engine: where it is and what it is for."""

    url: str
    role: str


class Site:
    """A gateway that runs in this process, its engines and a client."""

    def __init__(self, gateway: Running, members: Sequence[Member], client: httpx.AsyncClient) -> None:
        self.gateway = gateway
        self.members = members
        self.client = client
        self.engines: Sequence[SimEngine] = ()

    @property
    def app(self) -> Assembly:
        """What runs in the gateway."""
        return self.gateway.app

    @property
    def url(self) -> str:
        """Where clients connect."""
        return self.gateway.data_url

    async def ask(self, path: str, body: dict[str, Any]) -> httpx.Response:
        """Post to the gateway."""
        return await self.client.post(self.url + path, json=body)

    async def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples with these labels."""
        page = (await self.client.get(f"{self.gateway.ops_url}/metrics")).text
        return total(page, name, **labels)

    async def state_of(self, member: Member | SimEngine, state: str) -> None:
        """Wait until the gateway thinks so of an engine."""
        backend = next(b for b in self.app.fleet.backends if b.url == member.url)
        await until(lambda: backend.standing.state.value == state, f"{backend!r} to be {state}", within_s=5)

    async def busy(self, member: Member | SimEngine) -> None:
        """Wait until the gateway has a request on an engine."""
        backend = next(b for b in self.app.fleet.backends if b.url == member.url)
        await until(lambda: backend.load.requests > 0, f"a request on {backend!r}")

    async def quiet(self) -> None:
        """Wait until neither the gateway nor an engine of this process holds anything for a request."""
        engines = [engine for engine in self.engines if engine.running]

        def outstanding() -> list[dict[str, int]]:
            return [held for held in (self.held(), *(engine.ledger.outstanding() for engine in engines)) if held]

        await until(lambda: not outstanding(), outstanding)
        self.assert_audited()

    def assert_audited(self) -> None:
        """The gateway's own audit finds nothing, and never did."""
        assert list(Entry(self.app).faults()) == []

    def held(self) -> dict[str, int]:
        """What the gateway holds for requests, by name."""
        return held_by(self.app)


async def until(
    condition: Callable[[], bool], what: object = "the condition", *, within_s: float = QUIET_WITHIN_S
) -> None:
    """Look every few milliseconds whether `condition` holds; fails when it does not in time."""
    loop = asyncio.get_running_loop()
    by = loop.time() + within_s
    while not condition():
        assert loop.time() < by, f"waited {within_s:g} s in vain for {what() if callable(what) else what}"
        await asyncio.sleep(0.005)


def total(page: str, name: str, **labels: str) -> float:
    """The sum of a metric's samples with these labels on a page in Prometheus' text format."""
    wanted = [f'{key}="{value}"' for key, value in labels.items()]
    lines = [line for line in page.splitlines() if line.startswith((f"{name}{{", f"{name} "))]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if all(label in line for label in wanted))


def engine(role: str, **settings: Any) -> SimEngine:
    """An engine that takes no time unless `settings` say otherwise."""
    fields: dict[str, Any] = {"role": role, "time_scale": 0.0} | settings
    return SimEngine(SimConfig(**fields))


@asynccontextmanager
async def site(*engines: SimEngine, quiet: bool = True, **sections: Any) -> AsyncIterator[Site]:
    """Engines and a gateway in this process; with `quiet`, both hold nothing within 2 s of the block's end.

    `sections` are settings by section, over those of `AT_ONCE`; `environ` is what variables they find.
    """
    async with AsyncExitStack() as held:
        for one in engines:
            await one.start()
            held.push_async_callback(one.stop)
            BOOKS.ledgers.append(one.ledger)
        members = [Member(one.url, one.config.role) for one in engines]
        here = await held.enter_async_context(gateway_over(members, **sections))
        here.engines = engines
        yield here
        if quiet:
            await here.quiet()


@asynccontextmanager
async def gateway_over(members: Sequence[Member], **sections: Any) -> AsyncIterator[Site]:
    """A gateway in this process over engines that run."""
    settings = settings_for(members, **sections)
    async with gateway(settings) as started, httpx.AsyncClient(timeout=30, trust_env=False) as client:
        yield Site(started, members, client)
        started.stop_now()


def settings_for(members: Iterable[Member], **sections: Any) -> Settings:
    """Settings of a gateway over `members`. A section `engines` adds to the settings of each of them."""
    more, environ = sections.pop("engines", {}), sections.pop("environ", {})
    merged = {name: AT_ONCE.get(name, {}) | sections.get(name, {}) for name in AT_ONCE.keys() | sections.keys()}
    return load(flags=merged | {"backends": [asdict(member) | more for member in members]}, environ=environ)


# Engines in a process of their own


@dataclass(frozen=True, slots=True)
class FleetProcess:
    """Engines that run in another process, and what can be asked of them over HTTP."""

    members: Sequence[Member]
    client: httpx.AsyncClient
    process: asyncio.subprocess.Process

    def kill(self) -> None:
        """SIGKILL: the engines are gone without a word."""
        self.process.kill()

    def freeze(self) -> None:
        """SIGSTOP: the engines do nothing; the system still takes connections for them."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT: the engines go on where they stopped."""
        self.process.send_signal(signal.SIGCONT)

    async def ledgers(self) -> list[dict[str, Any]]:
        """What every engine has handed out and holds, in the order of `members`."""
        return [(await self.client.get(f"{member.url}/sim/ledger")).json() for member in self.members]

    async def add(self, role: str, *faults: Fault) -> None:
        """Let these happen to every engine of a role."""
        for member in self.members:
            if member.role == role:
                answer = await self.client.post(f"{member.url}/sim/faults", json=[asdict(fault) for fault in faults])
                answer.raise_for_status()


@asynccontextmanager
async def fleet_process(*configs: SimConfig, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[FleetProcess]:
    """Engines in one process, which ends with the block, or with this process; one alone may have a port of choice."""
    settings = orjson.dumps([asdict(config) for config in configs]).decode()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.support.fleet", settings, host, str(port)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        told = orjson.loads(await process.stdout.readline())
        async with httpx.AsyncClient(timeout=30, trust_env=False) as client:
            fleet = FleetProcess([Member(**member) for member in told], client, process)
            yield fleet
            if process.returncode is None:
                BOOKS.engines += await fleet.ledgers()
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGCONT)
        await process.communicate(b"")  # the end of its standard input


async def _serve(configs: list[SimConfig], host: str, port: int) -> None:
    """Run engines until standard input ends."""
    engines = [SimEngine(config) for config in configs]
    for one in engines:
        await one.start(host, port)
    sys.stdout.write(orjson.dumps([{"url": one.url, "role": one.config.role} for one in engines]).decode() + "\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.read)
    await asyncio.gather(*(one.stop() for one in engines))


if __name__ == "__main__":
    asyncio.run(_serve([SimConfig(**fields) for fields in orjson.loads(sys.argv[1])], sys.argv[2], int(sys.argv[3])))
