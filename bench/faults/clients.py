"""Who asks? Clients in a closed loop, some of which leave, and the tally of how their requests ended."""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import httptools

from bench.faults.fates import Fate, fate
from router.bench.client import Asker, asker, request
from router.call import Api

MODEL = "sim-8b"
WORDS = ("river", "stone", "market", "garden", "window", "letter")

Happening = tuple[float, Callable[[], Awaitable[None]]]
"""What happens once this share of the requests was begun."""

Leaving = Callable[[Asker], Awaitable[object]]
"""Returns when the client is to leave."""


@dataclass
class Clients:
    """Clients of one router. `patience_s` is how long each waits for the end of its answer."""

    url: str
    patience_s: float
    fates: Counter[Fate] = field(default_factory=Counter)
    slowest_s: float = 0

    async def load(
        self,
        requests: int,
        *during: Happening,
        streams: int = 40,
        words: int = 40,
        leaving: Leaving | None = None,
        **body: object,
    ) -> None:
        """So many requests, each with a prompt of its own, by so many clients that ask again once answered."""
        numbers, waiting = iter(range(requests)), sorted(during, key=lambda happening: happening[0])

        async def keep_asking() -> None:
            for number in numbers:
                while waiting and number >= waiting[0][0] * requests:
                    await waiting.pop(0)[1]()
                await self.ask(a_body(f"{requests} {number}", words) | body, leaving)

        async with asyncio.TaskGroup() as group:
            for _ in range(min(streams, requests)):
                group.create_task(keep_asking())

    async def ask(self, body: dict[str, Any], leaving: Leaving | None = None) -> Fate:
        """One request on a connection of its own."""
        clock = asyncio.get_running_loop().time
        begin_s = clock()
        ended = await self._fate(body, leaving)
        self.fates[ended] += 1
        if ended is not Fate.LEFT:
            self.slowest_s = max(self.slowest_s, clock() - begin_s)
        return ended

    async def _fate(self, body: dict[str, Any], leaving: Leaving | None) -> Fate:
        try:
            async with asyncio.timeout(self.patience_s), asker(self.url) as one:
                one.send(request(Api.CHAT, body))
                if leaving is not None:
                    await leaving(one)
                    return Fate.LEFT
                return fate(await one.read_all(), body)
        except TimeoutError:
            return Fate.UNANSWERED
        except (OSError, httptools.HttpParserError):
            return Fate.CUT


def a_body(seed: str, words: int = 40) -> dict[str, Any]:
    """A streamed chat with a short answer; prompts of different seeds share no beginning."""
    text = f"{seed} " + " ".join(random.Random(seed).choices(WORDS, k=words))
    return {"model": MODEL, "messages": [{"role": "user", "content": text}], "stream": True, "max_tokens": 12}


def within(shortest_s: float, longest_s: float) -> Leaving:
    """Leave at a random moment, counted from when the request was sent; the moments are the same for every router."""
    rng = random.Random(0)
    return lambda _one: asyncio.sleep(rng.uniform(shortest_s, longest_s))


def after_events(count: int) -> Leaving:
    """Leave once so many events of the answer have come, or the answer is over."""

    async def leave(one: Asker) -> None:
        while one.reply.body.count(b"\n\n") < count and not one.reply.complete and await one.read():
            pass

    return leave
