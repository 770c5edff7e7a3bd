"""Clients of all sorts, until the process is ended: `python -m tests.observability.load URL`."""

import asyncio
import random
import sys
from contextlib import suppress
from typing import Any

import httpx

MODEL = "sim-8b"
CLIENTS = 24
SHORT_WORDS, LONG_WORDS, TOO_LONG_WORDS = 20, 1500, 2600
"""The last are too long for decode to compute them in prefill's stead."""

TOPICS, NEVER_TWICE = 20, 1 << 60
CROWD = 80
"""Connections at once, more than one address may have."""


def body(rng: random.Random) -> dict[str, Any]:
    """Four in ten prompts are long enough to be handed over, and half of those are new; one in 50 requests is wrong."""
    words = rng.choice((SHORT_WORDS, SHORT_WORDS, SHORT_WORDS, LONG_WORDS, TOO_LONG_WORDS))
    topic = rng.randrange(TOPICS if rng.random() < 0.5 else NEVER_TWICE)
    text = f"{topic}: " + " ".join(random.Random(topic).choices("abcdefgh", k=words))
    asked = {"model": MODEL, "prompt": text, "max_tokens": 20, "ignore_eos": True, "stream": rng.random() < 0.8}
    return asked | ({"temperature": "hot"} if rng.random() < 0.02 else {})


async def client(http: httpx.AsyncClient, url: str, number: int) -> None:
    """Asks again and again; leaves one in twelve answers at an early moment."""
    rng = random.Random(number)
    while True:
        patience_s = rng.uniform(0.01, 0.2) if rng.random() < 0.08 else 30
        with suppress(TimeoutError, httpx.HTTPError):
            async with asyncio.timeout(patience_s):
                answer = await http.post(f"{url}/v1/completions", json=body(rng))
                await asyncio.sleep(0.2 if answer.is_error else 0)


async def nuisance(url: str) -> None:
    """Now and then a crowd of connections, and bytes that are no request."""
    host, port = url.removeprefix("http://").split(":")
    while True:
        opened = await asyncio.gather(*(asyncio.open_connection(host, int(port)) for _ in range(CROWD)))
        opened[0][1].write(b"HELLO\r\n\r\n")
        await asyncio.sleep(0.5)
        for _, writer in opened:
            writer.close()
        await asyncio.sleep(3)


async def main(url: str) -> None:
    """All of them."""
    limits = httpx.Limits(max_keepalive_connections=CLIENTS)
    async with httpx.AsyncClient(timeout=60, trust_env=False, limits=limits) as http, asyncio.TaskGroup() as group:
        group.create_task(nuisance(url))
        for number in range(CLIENTS):
            group.create_task(client(http, url, number))


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        asyncio.run(main(sys.argv[1]))
