"""Every kind of fault in turn, under load, for as long as one likes: `make soak MINUTES=10`.

Whoever stays to the end has the right text; only who asked while something was broken may be told of an error instead.
At the end nothing is held, and nothing has grown: memory, files, tasks, series of metrics.
"""

import argparse
import asyncio
import random
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import cycle, islice
from statistics import median
from typing import Any

from router.call import Api
from router.sim.faults import Fault
from tests.support.client import Asker, Verdict, asker, judge, request
from tests.support.engine_process import EngineProcess, engine_process
from tests.support.fault_rows import NO_LIMIT
from tests.support.gateway_process import GatewayProcess, gateway_process
from tests.support.process_rows import some_body

CLIENTS = 40
LEASE_S = 6.0
PATIENCE_S = 60
TIMEOUTS = {"prefill_timeout_s": 4, "first_event_timeout_s": 4, "stream_idle_s": 4, "total_s": 30}
"""Of an engine that hangs a whole answer shows nothing before `total_s` is over."""

GROWTH_BYTES = 4 << 20
"""In the second half: an allocator keeps some of each peak, and troubles make peaks."""

LONG_S = 300
"""From here on memory must have stopped growing by the half; before, it is still being warmed up."""

SPARE_FILES, SPARE_TASKS = CLIENTS, CLIENTS
"""Each client's request may have a connection and a task more or less in the moment of the look."""

KINDS = 15
"""Of trouble, see `troubles`."""

WAYS = {"read": 80, "fin": 8, "reset": 8, "slow": 4}
"""What clients do, and how often of a hundred times."""

Trouble = Callable[[float], Awaitable[None]]
"""Something that is broken for so many seconds."""


@dataclass(frozen=True)
class Sample:
    """What the gateway takes at one time."""

    memory_bytes: int
    files: int
    tasks: int
    series: int


@dataclass
class Soak:
    """A running soak and its books. Times are those of `time.monotonic`."""

    gateway: GatewayProcess
    engines: Sequence[EngineProcess]
    every_s: float
    came: Counter[str] = field(default_factory=Counter)
    unexplained: list[str] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    broken_since: float | None = None
    """Since when something is broken; None while nothing is."""
    last_broken: float = 0.0
    enough: asyncio.Event = field(default_factory=asyncio.Event)
    """Nothing more is to be broken; clients go on, as an engine comes back by requests that succeed."""
    over: asyncio.Event = field(default_factory=asyncio.Event)

    async def keep_asking(self, seed: int) -> None:
        """One client, who asks one thing after the other."""
        rng = random.Random(seed)
        while not self.over.is_set():
            await self.ask(rng, f"{seed}.{self.came.total()}")

    async def ask(self, rng: random.Random, name: str) -> None:
        """One request, in one of the ways; what came of it is counted."""
        (way,) = rng.choices(list(WAYS), list(WAYS.values()))
        body = some_body(rng, name, max_tokens=rng.randint(2, 40), stream=rng.random() < 0.9)
        since = time.monotonic()
        try:
            async with asyncio.timeout(PATIENCE_S), asker(self.gateway.url) as client:
                client.send(request(Api.CHAT, body))
                outcome = await behave(client, way, rng, body)
        except (AssertionError, OSError, TimeoutError, EOFError) as error:
            self.came["lost"] += 1
            self.unexplained.append(f"{name} {way}: {error!r}")
            return
        self.came[outcome] += 1
        if outcome in (Verdict.REFUSED, Verdict.BROKEN_OFF) and not self.broken_at(since):
            self.unexplained.append(f"{name}: {outcome} {bytes(client.reply.body[-300:])!r}")

    def broken_at(self, since: float) -> bool:
        """Whether something was broken at any time from `since` on."""
        return self.broken_since is not None or self.last_broken >= since

    async def warm_up(self) -> None:
        """Each kind of trouble for a second: the first of a kind makes objects and series that stay."""
        self.broken_since = time.monotonic()
        for _, trouble in islice(troubles(self.engines, random.Random(7)), KINDS):
            await trouble(1.0)
        await self.all_up()
        self.last_broken, self.broken_since = time.monotonic(), None

    async def break_things(self) -> None:
        """One trouble after the other, each for a third of the time, until it is over."""
        for name, trouble in troubles(self.engines, random.Random(8)):
            if self.enough.is_set():
                return
            began = self.broken_since = time.monotonic()
            await trouble(self.every_s / 3)
            await self.all_up()
            self.last_broken, self.broken_since = time.monotonic(), None
            took_s = self.last_broken - began
            await self.look()
            print(f"{name:<24} {took_s:5.1f} s until all engines were up; {self.figures()}", flush=True)
            with suppress(TimeoutError):
                await asyncio.wait_for(self.enough.wait(), max(0.0, self.every_s - took_s))

    async def all_up(self) -> None:
        """Wait until the gateway uses every engine again."""
        for _ in range(1200):
            if await self.gateway.metric("backend_state", state="up") == len(self.engines):
                return
            await asyncio.sleep(0.1)
        raise AssertionError("engines stay away")

    async def look(self) -> None:
        """Take a sample: the middle of a few looks at what changes with each request."""
        looks = []
        for _ in range(5):
            page = await self.gateway.metrics()
            series = sum(not line.startswith("#") for line in page.splitlines())
            looks.append((self.gateway.memory_bytes(), self.gateway.files, await self.gateway.tasks(), series))
            await asyncio.sleep(0.1)
        self.samples.append(Sample(*(int(median(column)) for column in zip(*looks, strict=True))))

    def figures(self) -> str:
        """Where it stands."""
        now = self.samples[-1]
        counts = ", ".join(f"{count} {outcome}" for outcome, count in self.came.most_common())
        grown = f"{now.memory_bytes / 1e6:.1f} MB, {now.files} files, {now.tasks} tasks, {now.series} series"
        return f"{counts}; {grown}"


async def behave(client: Asker, way: str, rng: random.Random, body: dict[str, Any]) -> str:
    """Read to the end, slowly or not, or leave."""
    if way in ("fin", "reset"):
        try:
            async with asyncio.timeout(rng.uniform(0, 0.3)):
                await client.read_all()
        except TimeoutError:
            pass
        if way == "reset":
            client.reset()
        return "left"
    while way == "slow" and not client.reply.complete and await client.read(100):  # noqa: ASYNC110 - so slow are they
        await asyncio.sleep(0.002)
    return judge(await client.read_all(), body).value


def troubles(engines: Sequence[EngineProcess], rng: random.Random) -> Iterator[tuple[str, Trouble]]:
    """What goes wrong, without end; on an engine by chance."""

    async def killed(engine: EngineProcess, for_s: float) -> None:
        await engine.kill()
        await asyncio.sleep(for_s)
        await engine.start_again()

    async def frozen(engine: EngineProcess, for_s: float) -> None:
        engine.freeze()
        await asyncio.sleep(for_s)
        engine.thaw()

    async def faulty(fault: Fault, engine: EngineProcess, for_s: float) -> None:
        await engine.add(fault)
        await asyncio.sleep(for_s)
        await engine.clear()

    decode = [Fault("first_event_error", share=0.3), Fault("mid_stream_error", share=0.3), Fault("truncate", share=0.3)]
    prefill = [Fault("malformed_params", share=0.5), Fault("missing_params", share=0.5)]
    either = [Fault("status", status=500, share=0.5), Fault("reset", share=0.3), Fault("hang", share=0.1)]
    kinds: list[tuple[str, str, Callable[..., Awaitable[None]]]] = [
        *((role, "killed", killed) for role in ("prefill", "decode")),
        *((role, "frozen", frozen) for role in ("prefill", "decode")),
        *(("decode", fault.kind, partial(faulty, fault)) for fault in (*decode, *either)),
        *(("prefill", fault.kind, partial(faulty, fault)) for fault in (*prefill, *either)),
    ]
    rng.shuffle(kinds)
    assert len(kinds) == KINDS
    for role, name, trouble in cycle(kinds):
        engine = rng.choice([engine for engine in engines if engine.member.role == role])
        yield f"{role} {name}", partial(trouble, engine)


@asynccontextmanager
async def a_fleet() -> AsyncIterator[list[EngineProcess]]:
    """Two prefill and three decode engines."""
    flags = ("--lease-s", str(LEASE_S), "--decode-step-s", "0.01")
    async with AsyncExitStack() as held:
        roles = ("prefill", "prefill", "decode", "decode", "decode")
        yield [await held.enter_async_context(engine_process(role, *flags)) for role in roles]


async def soak(for_s: float, every_s: float) -> list[str]:
    """Run, print, and return what is wrong."""
    settings: dict[str, Any] = {"timeouts": TIMEOUTS, "admission": NO_LIMIT, "engines": {"kv_lease_s": LEASE_S}}
    async with a_fleet() as engines, gateway_process([e.member for e in engines], watched=True, **settings) as gateway:
        here = Soak(gateway, engines, every_s)
        async with asyncio.TaskGroup() as group:
            for seed in range(CLIENTS):
                group.create_task(here.keep_asking(seed))
            if for_s >= LONG_S:
                await here.warm_up()
            began = time.monotonic()
            breaking = group.create_task(here.break_things())
            await asyncio.sleep(for_s / 10)
            await here.look()
            early = here.samples[-1]
            await asyncio.sleep(for_s * 0.4)
            await here.look()
            half = here.samples[-1]
            await asyncio.sleep(for_s / 2)
            here.enough.set()
            await breaking
            await here.look()
            late = here.samples[-1]
            here.over.set()
        return await verdict(here, (early, half, late), time.monotonic() - began)


async def verdict(here: Soak, samples: tuple[Sample, Sample, Sample], took_s: float) -> list[str]:
    """The final table, and what is wrong. The samples are those at a tenth, at the half and at the end.

    Late pulls are shown only: an engine that thaws serves what it was asked for before its leases ended.
    """
    early, half, late = samples
    held = await here.gateway.quiet(within_s=10)
    await asyncio.sleep(LEASE_S + 1)
    ledgers = [await engine.ledger() for engine in here.engines]
    kept = [name for ledger in ledgers for name in ledger["outstanding"]]
    wrong = Counter[str]()
    for ledger in ledgers:
        wrong.update({name: ledger["totals"][name] for name in ("wrong_texts", "pulled_again", "pulled_late")})
    print(f"\n{here.came.total()} requests in {took_s:.0f} s")
    for outcome, count in here.came.most_common():
        print(f"  {outcome:<12} {count:>8}")
    for name in ("memory_bytes", "files", "tasks", "series"):
        at = [f"{getattr(sample, name):,}" for sample in samples]
        print(f"  {name:<12} {at[0]} at a tenth, {at[1]} at the half, {at[2]} at the end")
    print(f"  unexplained  {len(here.unexplained)}; held at the end: {held}, by engines: {kept}; {dict(wrong)}")
    for line in here.unexplained[:10]:
        print(f"    {line}")
    checks = {
        "outcomes that nothing explains": not here.unexplained,
        "the gateway holds something": not held,
        "engines hold something": not kept,
        "hand-overs used wrongly": not wrong["wrong_texts"] + wrong["pulled_again"],
        "memory grew": took_s < LONG_S or late.memory_bytes <= half.memory_bytes + GROWTH_BYTES,
        "files grew": late.files <= early.files + SPARE_FILES,
        "tasks grew": late.tasks <= early.tasks + SPARE_TASKS,
        "series grew": took_s < LONG_S or late.series <= 1.1 * half.series,
    }
    return [fault for fault, right in checks.items() if not right]


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10, help="how long (default: 10)")
    parser.add_argument("--every-s", type=float, default=30, help="from one fault to the next (default: 30)")
    args = parser.parse_args()
    wrong = asyncio.run(soak(args.minutes * 60, args.every_s))
    print("all is well" if not wrong else f"WRONG: {', '.join(wrong)}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
