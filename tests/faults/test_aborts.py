"""Clients that leave at any moment, in any way: what worked for them is stopped, what they held is given back."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace

import pytest

from router.sim.config import SimConfig
from tests.support.client import Asker, Verdict
from tests.support.fault_rows import Trial, p99, scaled, trial
from tests.support.fleet import FleetProcess, until

pytestmark = pytest.mark.timeout(120)

LEAVERS = 12
"""At once, beside the clients that stay."""

STAYING = 5
CLOSED_WITHIN_S = 0.2
STEPS = 3
"""Of the loop, each as late as it is busy, that are between a client's leaving and the end of a leg."""

LEASE_S = 2.0
"""KV that was not given back within this time ends with its lease, and is counted as leaked. One in a hundred may be:
an engine that finishes a prompt in the very step in which it hears that nobody waits keeps its KV. On a machine that is
busy with other things that happens more often, so that an ordinary run allows five."""

PREFILL = SimConfig(role="prefill", gpu="h200", time_scale=12, handshake_s=0, lease_s=LEASE_S)
"""A prompt takes 150 to 400 ms, beside others: longer than a leg that was given up stays open."""

DECODE = SimConfig(role="decode", decode_step_s=0.01, handshake_s=0, lease_s=LEASE_S)
SATURATED = replace(DECODE, max_num_seqs=2)

Stay = Callable[[Asker, int, random.Random], Awaitable[None]]


@dataclass
class Aborts:
    """Clients that leave. Their requests have numbers of their own, from `FIRST` on."""

    here: Trial
    left_at: dict[int, float] = field(default_factory=dict)

    FIRST = 1_000_000

    async def run(self, count: int, stay: Stay) -> None:
        """So many clients that leave when `stay` returns, one way after the other."""
        numbers = iter(range(self.FIRST, self.FIRST + count))

        async def keep_leaving(seed: int) -> None:
            rng = random.Random(seed)
            for number in numbers:
                await self._one(number, stay, rng)

        async with asyncio.TaskGroup() as group:
            for seed in range(LEAVERS):
                group.create_task(keep_leaving(seed))

    async def _one(self, number: int, stay: Stay, rng: random.Random) -> None:
        body = self.here.some_body(rng, number) | {"max_tokens": 200}
        async with self.here.leaving(body) as client:
            await stay(client, number, rng)
            self.left_at[number] = time.monotonic()
            await leave(client, number, rng)

    def closed_after_s(self, *pools: FleetProcess) -> list[float]:
        """How long after a client had left its engines were told, as far as they were not done by then."""
        closed = [(number, at) for fleet in pools for number, at in self.here.front(fleet).given_up_at.items()]
        return [at - self.left_at[number] for number, at in closed if number in self.left_at]


async def leave(client: Asker, number: int, rng: random.Random) -> None:
    """By FIN, by RST, or by FIN and then RST while the gateway deals with that."""
    if number % 3 == 1:
        client.reset()
    elif number % 3 == 2:
        client.writer.write_eof()
        await asyncio.sleep(rng.uniform(0, 0.02))
        client.reset()


async def while_prefill_works(client: Asker, _number: int, rng: random.Random) -> None:
    """For a part of the time that a prefill takes, or a little longer."""
    await asyncio.sleep(rng.uniform(0, 0.3))


async def for_some_tokens(client: Asker, _number: int, rng: random.Random) -> None:
    """Up to a fifth of the answer."""
    for _ in range(rng.randint(1, 40)):
        await client.read()


@asynccontextmanager
async def between_the_legs(here: Trial) -> AsyncIterator[Stay]:
    """What waits until prefill has answered; answers, and what decode is asked, are on their way for a while."""
    answered: dict[int, asyncio.Event] = {}
    rng = random.Random(1)
    for fleet in here.prefill:
        here.front(fleet).hold_answer_s = lambda: rng.uniform(0, 0.05)
        here.front(fleet).on_answer = lambda number: answered.setdefault(number, asyncio.Event()).set()
    for fleet in here.decode:
        here.front(fleet).hold_question_s = lambda: rng.uniform(0, 0.05)

    async def until_prefill_has_answered(_client: Asker, number: int, rng: random.Random) -> None:
        await answered.setdefault(number, asyncio.Event()).wait()
        await asyncio.sleep(rng.uniform(0, 0.1))

    yield until_prefill_has_answered


@asynccontextmanager
async def saturated(here: Trial) -> AsyncIterator[None]:
    """Decode is full while the block lasts: what comes waits in the engines."""
    async with AsyncExitStack() as held:
        rng = random.Random(0)
        for number in range(8):
            body = here.some_body(rng, 2_000_000 + number) | {"max_tokens": 100_000}
            await held.enter_async_context(here.leaving(body))
        yield


async def judged(here: Trial, aborts: Aborts, count: int, stay: Stay, *, staying: int = STAYING) -> None:
    """Let them leave beside clients that stay, who do not notice."""
    await here.load(min(staying, 1))  # the first of all takes longer
    tasks = tasks_of_the_gateway()
    async with lag() as lags_s, here.loading(clients=staying, pause_s=0.1):
        await aborts.run(count, stay)
    assert (here.verdicts[Verdict.RIGHT], here.row.errors) == (len(here.replies), 0)
    assert (len(aborts.left_at), here.row.lost, here.row.wrong) == (count, 0, 0)
    closed = aborts.closed_after_s(*here.prefill, *here.decode)
    assert p99(closed) <= CLOSED_WITHIN_S + STEPS * max(lags_s)
    await until(lambda: tasks_of_the_gateway() <= tasks, "tasks to end", within_s=5)


@asynccontextmanager
async def lag() -> AsyncIterator[list[float]]:
    """By how much the loop of gateway, clients and fronts was late, again and again while the block lasts."""
    lags_s, loop = [0.0], asyncio.get_running_loop()

    async def look() -> None:
        while True:
            due = loop.time() + 0.01
            await asyncio.sleep(0.01)
            lags_s.append(loop.time() - due)

    async with asyncio.TaskGroup() as group:
        looking = group.create_task(look())
        yield lags_s
        looking.cancel()


def tasks_of_the_gateway() -> int:
    """How many there are beside those of the fronts, and one a probe."""
    names = [task.get_name() for task in asyncio.all_tasks()]
    return sum("front" not in name and not name.startswith("probe ") for name in names)


def aborts_row(
    id_: str, fault: str, decode: SimConfig = DECODE, *, leaks: int = 0
) -> AbstractAsyncContextManager[Trial]:
    return trial(
        id_,
        fault,
        prefill=[PREFILL] * 2,
        decode=[decode] * 2,
        fronts=True,
        leaks=leaks,
        engines={"kv_lease_s": LEASE_S},
    )


async def test_f11_clients_leave_in_prefill() -> None:
    async with aborts_row("F11", "clients leave in prefill, by FIN, RST, both", leaks=scaled(15, 10)) as here:
        await judged(here, Aborts(here), scaled(300, 1000), while_prefill_works)


async def test_f11_clients_leave_in_prefill_while_decode_is_saturated() -> None:
    async with (
        aborts_row("F11", "in prefill, while decode is saturated", SATURATED, leaks=scaled(15, 10)) as here,
        saturated(here),
    ):
        await judged(here, Aborts(here), scaled(300, 1000), while_prefill_works, staying=0)


async def test_f12_clients_leave_between_the_legs() -> None:
    async with (
        aborts_row("F12", "clients leave between the legs") as here,
        between_the_legs(here) as stay,
    ):
        await judged(here, Aborts(here), scaled(300, 1000), stay)


async def test_f12_clients_leave_between_the_legs_while_decode_is_saturated() -> None:
    async with (
        aborts_row("F12", "between the legs, while decode is saturated", SATURATED) as here,
        saturated(here),
        between_the_legs(here) as stay,
    ):
        await judged(here, Aborts(here), scaled(300, 1000), stay, staying=0)


async def test_f13_clients_leave_in_decode() -> None:
    async with aborts_row("F13", "clients leave in decode, by FIN, RST, both") as here:
        await judged(here, Aborts(here), scaled(300, 1000), for_some_tokens)
