"""Is each engine well, and what is it? One loop per engine asks `/health`, now and then `/v1/models` and `/version`.

One that fell silent while its `/health` was good is asked for a token instead, until it answers.
"""

import asyncio
import json
import random
from collections.abc import Callable, Iterator
from typing import Any

from router.errors import EngineFault, OutOfFiles
from router.fleet.ask import SERVER_ERROR, Ask, Reply
from router.fleet.backend import Backend, ModelCard
from router.fleet.fleet import Fleet
from router.fleet.identity import identity
from router.fleet.standing import State
from router.settings.fleet import Probes
from router.supervision import LastResort
from router.telemetry.events import Clock

JITTER = 0.2
"""Share by which pauses vary, so that gateways do not probe in step."""

Notice = Callable[[Backend], None]


class Prober:
    """Probes every engine of a fleet until cancelled. `notice` hears of each engine whose state changed."""

    def __init__(
        self,
        fleet: Fleet,
        ask: Ask,
        rules: Probes,
        *,
        clock: Clock,
        notice: Notice,
        rng: random.Random,
    ) -> None:
        self._fleet = fleet
        self._ask = ask
        self._rules = rules
        self._clock = clock
        self._notice = notice
        self._rng = rng
        self._learnt_at: dict[Backend, float] = {}
        self._newcomers: asyncio.Queue[Backend] = asyncio.Queue()

    async def run(self) -> None:
        """Probe for ever, each engine as long as it is in the fleet."""
        async with asyncio.TaskGroup() as group:
            self._newcomers = asyncio.Queue()  # who came before is in the fleet
            for backend in self._fleet.backends:
                group.create_task(self._watch(backend, _last_resort(backend)), name=f"probe {backend.id}")
            while True:
                backend = await self._newcomers.get()
                group.create_task(self._meet(backend), name=f"probe {backend.id}")

    def follow(self, backend: Backend) -> None:
        """Probe an engine that has come into the fleet."""
        self._newcomers.put_nowait(backend)

    async def probe_all(self) -> None:
        """One round over all engines, so that a gateway opens its door with a known fleet."""
        async with asyncio.TaskGroup() as group:
            for backend in self._fleet.backends:
                group.create_task(self.probe(backend), name=f"first probe {backend.id}")

    async def probe(self, backend: Backend) -> None:
        """One look at one engine."""
        try:
            health = await self._ask(backend, "/health", self._rules.timeout_s)
            why = None if health.ok else f"/health answered {health.status}"
            if why is None and self._learning_due(backend):
                why = await self._learn(backend)
        except OutOfFiles as fault:  # it is the gateway that has no room, which says nothing of the engine
            if backend.standing.state is State.UNKNOWN:
                backend.standing.why = f"probe failed: {fault.reason}"
            return
        except EngineFault as fault:
            why = f"probe failed: {fault.reason}"
        if why is None:
            changed = backend.standing.good_probe(self._clock())
        else:
            changed = backend.standing.bad_probe(why, self._clock())
        if changed:
            self._notice(backend)

    async def knock(self, backend: Backend) -> None:
        """Ask an engine that fell silent for one token, and wait: only work proves that it works again."""
        one_token = json.dumps({"model": next(iter(backend.models), ""), "prompt": "1", "max_tokens": 1}).encode()
        try:
            reply = await self._ask(backend, "/v1/completions", self._rules.knock_timeout_s, one_token)
        except EngineFault:
            return
        if reply.status < SERVER_ERROR and backend.standing.woke(self._clock()):
            self._notice(backend)

    async def _meet(self, backend: Backend) -> None:
        last_resort = _last_resort(backend)
        with last_resort.turn():
            await self.probe(backend)
        await self._watch(backend, last_resort)

    async def _watch(self, backend: Backend, last_resort: LastResort) -> None:
        while backend in self._fleet.backends:
            up = backend.standing.state in (State.UP, State.TRIAL)
            pause_s = self._rules.interval_s if up else self._rules.down_interval_s
            await asyncio.sleep(pause_s * self._rng.uniform(1 - JITTER, 1 + JITTER))
            with last_resort.turn():
                if backend.standing.silent:
                    await self.knock(backend)
                await self.probe(backend)
        self._learnt_at.pop(backend, None)

    def _learning_due(self, backend: Backend) -> bool:
        """An engine that was away may have come back as another one."""
        asked_at = self._learnt_at.get(backend)
        back = backend.standing.faltered or not backend.standing.usable
        return asked_at is None or back or self._clock() - asked_at >= self._rules.models_interval_s

    async def _learn(self, backend: Backend) -> str | None:
        """Read `/v1/models` and `/version`, which not every engine has; returns what is wrong with them, or None."""
        timeout_s = self._rules.timeout_s
        models = await self._ask(backend, "/v1/models", timeout_s)
        version = await self._ask(backend, "/version", timeout_s)
        if not models.ok:
            return f"/v1/models answered {models.status}"
        if version.status >= SERVER_ERROR:
            return f"/version answered {version.status}"
        try:
            listing = json.loads(models.body)
            cards = {card.id: card for card in _cards(listing)}
        except (ValueError, RecursionError):
            return "/v1/models is not a list of models"
        named = backend.settings.models
        if missing := [name for name in named if name not in cards]:
            return f"does not serve {missing[0]}, which is configured for it"
        backend.models = {name: cards[name] for name in named or cards}
        backend.learn(identity(_json(version), listing))
        self._learnt_at[backend] = self._clock()
        return None


def _last_resort(backend: Backend) -> LastResort:
    return LastResort(f"probe of {backend.id}")


def _json(reply: Reply) -> object:
    """The content of a good answer; None of any other."""
    if not reply.ok:
        return None
    try:
        content: object = json.loads(reply.body)
    except (ValueError, RecursionError):
        return None
    return content


def _cards(listing: Any) -> Iterator[ModelCard]:  # noqa: ANN401 - any JSON
    """The models of an OpenAI list; `max_model_len` is vLLM's addition. Raises ValueError for anything else."""
    entries = listing.get("data") if isinstance(listing, dict) else None
    if not isinstance(entries, list):
        raise ValueError("no data")  # noqa: TRY004 - malformed input, not a programming error
    for entry in entries:
        if not isinstance(entry, dict) or not isinstance(entry.get("id"), str):
            raise ValueError("no id")  # noqa: TRY004
        length, created, owner = (entry.get(k) for k in ("max_model_len", "created", "owned_by"))
        yield ModelCard(
            id=entry["id"],
            max_model_len=length if isinstance(length, int) else None,
            created=created if isinstance(created, int) else 0,
            owned_by=owner if isinstance(owner, str) else "pd-router",
        )
