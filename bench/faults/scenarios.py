"""What goes wrong? One small script per scenario; ids as in docs/failures.md."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

import httpx

from bench.faults.clients import Clients, a_body, after_events, within
from bench.faults.engines import Engine, Engines
from router.sim.faults import Fault

REQUESTS = 300
LEASE_S = 30
"""How long vLLM holds KV for a pull unless it is told otherwise."""


@dataclass(frozen=True)
class Site:
    """What a script breaks, and who notices."""

    engines: Engines
    clients: Clients
    http: httpx.AsyncClient

    async def kill(self, engine: Engine) -> None:
        """SIGKILL an engine."""
        await engine.kill(self.http)

    async def add(self, engines: Sequence[Engine], *faults: Fault) -> None:
        """Let these happen on each of the engines."""
        for engine in engines:
            await engine.add(self.http, *faults)


@dataclass(frozen=True)
class Scenario:
    """A fault and what it is called; `flags` are further ones of the engines, by role."""

    id: str
    title: str
    script: Callable[[Site], Awaitable[None]]
    patience_s: float = 30
    flags: Mapping[str, Sequence[str]] = field(default_factory=dict)


async def prefill_killed(site: Site) -> None:
    """One of the prefill engines goes while all clients ask."""
    await site.clients.load(REQUESTS, (0.3, lambda: site.kill(site.engines.prefill[0])))


async def decode_killed_at_first(site: Site) -> None:
    """What the killed engine has, it has not begun to answer."""
    await site.add(site.engines.decode[:1], Fault("delay", delay_s=20))
    await site.clients.load(REQUESTS, (0.3, lambda: site.kill(site.engines.decode[0])))


async def decode_killed_in_stream(site: Site) -> None:
    """Half a second after some streams have begun, they are half way."""

    async def kill() -> None:
        await asyncio.sleep(0.5)
        await site.kill(site.engines.decode[0])

    await site.clients.load(REQUESTS // 2, (0.3, kill), max_tokens=100)


async def prefill_fails(site: Site) -> None:
    """Its health checks are good, its answers are not."""
    await site.add(site.engines.prefill[:1], Fault("status", status=500))
    await site.clients.load(REQUESTS)


async def bad_request(site: Site) -> None:
    """Every engine refuses it."""
    await site.clients.load(100, temperature="hot")


async def too_long(site: Site) -> None:
    """A prefill, which makes one token, takes it; decode does not."""
    await site.clients.load(100, max_tokens=1_000_000)


async def kv_not_loaded(site: Site) -> None:
    """As vLLM does by default: status 200, and an error event in the place of the first token."""
    await site.add(site.engines.decode, Fault("first_event_error", share=0.1))
    await site.clients.load(REQUESTS)


async def prefill_freezes(site: Site) -> None:
    """Prefill engines stop with finished prompts and thaw when the leases are over; decode is slow to pull then."""
    await site.add(site.engines.prefill, Fault("late_answer", count=10, delay_s=1))

    async def freeze() -> None:
        await asyncio.sleep(0.8)
        for engine in site.engines.prefill:
            engine.freeze()
        await asyncio.sleep(LEASE_S + 3)
        await site.add(site.engines.decode, Fault("delay", count=10, delay_s=2))
        for engine in site.engines.prefill:
            engine.thaw()
        await others_take_the_blocks(site)

    await late_hand_overs(site, freeze())


async def answers_are_late(site: Site) -> None:
    """Prefill's answers are on the way for longer than a lease, while its health checks are answered at once."""
    await site.add(site.engines.prefill, Fault("late_answer", count=10, delay_s=LEASE_S + 3))

    async def wait() -> None:
        await asyncio.sleep(LEASE_S + 0.5)
        await others_take_the_blocks(site)

    await late_hand_overs(site, wait())


async def late_hand_overs(site: Site, meanwhile: Awaitable[None]) -> None:
    """As many requests as hand-overs will be late; 150 others come meanwhile."""
    async with asyncio.TaskGroup() as group:
        for number in range(30):
            group.create_task(site.clients.ask(a_body(f"late {number}", words=150)))
        await meanwhile


async def others_take_the_blocks(site: Site) -> None:
    """So many prompts that every block of the small caches is used anew."""
    await site.clients.load(150, words=200, max_tokens=2)


async def leave_in_prefill(site: Site) -> None:
    """A prompt of 4,000 tokens takes 0.1 s and more, as they come all at once."""
    await site.clients.load(60, streams=20, words=2500, leaving=within(0.05, 0.05))


async def leave_about_the_hand_over(site: Site) -> None:
    """Prefill answers 80 ms after it has made the KV, decode takes a request up 80 ms after it has come."""
    await site.add(site.engines.prefill, Fault("late_answer", delay_s=0.08))
    await site.add(site.engines.decode, Fault("delay", delay_s=0.08))
    await site.clients.load(REQUESTS, streams=20, leaving=within(0, 0.3))


async def leave_before_a_slow_decode(site: Site) -> None:
    """Prefill has answered within some 50 ms; when decode takes the request up, the client has been gone for long."""
    await site.add(site.engines.decode, Fault("delay", delay_s=0.8))
    await site.clients.load(60, streams=20, leaving=within(0.3, 0.3))


async def leave_in_decode(site: Site) -> None:
    """An answer would take 20 s."""
    await site.clients.load(60, streams=20, leaving=after_events(4), max_tokens=2000)


async def no_prefill(site: Site) -> None:
    """All prefill engines are killed; clients ask 3 s later."""
    for engine in site.engines.prefill:
        await site.kill(engine)
    await asyncio.sleep(3)
    await site.clients.load(100)


async def no_decode(site: Site) -> None:
    """All decode engines are killed; clients ask 3 s later."""
    for engine in site.engines.decode:
        await site.kill(engine)
    await asyncio.sleep(3)
    await site.clients.load(100)


async def decode_freezes(site: Site) -> None:
    """One decode engine is stopped under load, and goes on when all requests have ended."""
    frozen = site.engines.decode[0]

    async def freeze() -> None:
        frozen.freeze()

    await site.clients.load(80, (0.5, freeze), max_tokens=50)
    frozen.thaw()


async def empty_answers(site: Site) -> None:
    """Some answers of decode are a status 200 and nothing else."""
    await site.add(site.engines.decode, Fault("empty_200", share=0.1))
    await site.clients.load(REQUESTS)


async def streams_without_end(site: Site) -> None:
    """Some streams of decode end well after 5 tokens, without their last events."""
    await site.add(site.engines.decode, Fault("truncate", share=0.1, tokens=5))
    await site.clients.load(REQUESTS)


SMALL_CACHE = {"prefill": ("--kv-blocks", "256")}

SCENARIOS = {
    scenario.id: scenario
    for scenario in (
        Scenario("F01", "1 of 3 prefill engines killed under load", prefill_killed),
        Scenario("F02", "1 of 3 decode engines killed before its first events", decode_killed_at_first),
        Scenario("F03", "1 of 3 decode engines killed in mid-stream", decode_killed_in_stream),
        Scenario("F04", "1 of 3 prefill engines answers 500", prefill_fails),
        Scenario("F05", "a bad request, 100 times", bad_request),
        Scenario("F05b", "more tokens asked for than fit, 100 times", too_long),
        Scenario("F07", "1 of 3 decode engines frozen under load", decode_freezes, patience_s=45),
        Scenario("F08", "decode cannot load the KV, 10 %", kv_not_loaded),
        Scenario("F10", "prefill frozen for longer than a lease", prefill_freezes, patience_s=90, flags=SMALL_CACHE),
        Scenario("F10b", "prefill's answers late by a lease", answers_are_late, patience_s=90, flags=SMALL_CACHE),
        Scenario("F11", "clients leave in prefill", leave_in_prefill),
        Scenario("F12", "clients leave at random about the hand-over", leave_about_the_hand_over),
        Scenario("F12b", "clients leave before a decode that is 0.5 s late", leave_before_a_slow_decode),
        Scenario("F13", "clients leave in decode", leave_in_decode),
        Scenario("F14", "all prefill engines killed", no_prefill),
        Scenario("F15", "all decode engines killed", no_decode),
        Scenario("F31", "decode answers 200 with nothing, 10 %", empty_answers),
        Scenario("F31b", "decode's streams stop without an end, 10 %", streams_without_end),
    )
}
