"""How many engines should each pool of each model have? Looked at again and again; nothing is started or stopped here.

Models that the same engines serve, such as a model's other names and its adapters, have one pool: what is to do for any
of them is to do there, and each is told the same number.

Prefill and decode are told apart, as each has its own load, and together, as one waits for the other: while decode is
saturated, prefill neither grows, as more prompts would only wait for decode with their KV, nor shrinks, as what it has
to do is what decode lets through.

An engine counts once its model is known, which is when it has come up for the first time unless the settings name it.
So a gateway finds its pools smaller than they are where engines still load or are down; they count as they join.
"""

import asyncio
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from router.fleet.backend import Backend
from router.fleet.fleet import Fleet
from router.scaling.demand import Demand, decode_demand, prefill_demand
from router.scaling.newcomers import Newcomers
from router.scaling.steady import Desired, Limits, Reason, step
from router.scaling.watch import Look, Watch, summed
from router.scaling.work import PrefillWork
from router.settings.engines import Role
from router.settings.scaling import Autoscale
from router.supervision import LastResort
from router.telemetry.events import Clock

Waiting = Callable[[Role, str], int]
"""How many requests wait for a pool of a model."""


@dataclass(frozen=True, slots=True)
class Capacity:
    """What one engine can do: prefill tokens a second until it was measured, requests at once (0: any number)."""

    prefill_tokens_per_s: float
    requests: int


@dataclass(slots=True, eq=False)
class Pool:
    """One pool of some models: its work, how many engines that is worth, how many are wanted, and who came lately."""

    models: Sequence[str]
    watch: Watch
    desired: Desired
    newcomers: Newcomers
    demand: Demand | None = None


class Autoscaler:
    """Desired replicas by model and pool. `waiting` tells of the lines, `work` of what prefill did."""

    def __init__(
        self, fleet: Fleet, waiting: Waiting, work: PrefillWork, rules: Autoscale, capacity: Capacity, clock: Clock
    ) -> None:
        self._fleet = fleet
        self._waiting = waiting
        self._work = work
        self._rules = rules
        self._capacity = capacity
        self._clock = clock
        self._pools: dict[tuple[str, Role], Pool] = {}
        self._quiet: dict[str, tuple[int, float]] = {}
        """Drained engines without requests: how many they ever had, and since when."""

    async def run(self) -> None:
        """Look until cancelled."""
        last_resort = LastResort("autoscaler")
        while True:
            await asyncio.sleep(self._rules.interval_s)
            with last_resort.turn():
                self.look()

    def look(self) -> None:
        """See what there is to do now, and what is wanted for it."""
        now, backends = self._clock(), self._fleet.backends
        models = sorted({model for backend in backends for model in backend.models})
        self._work.keep(models, {backend.id for backend in backends})
        self._note_quiet(now)
        pools: dict[tuple[str, Role], Pool] = {}
        for role in (Role.AGGREGATED, Role.DECODE, Role.PREFILL):  # prefill knows of decode then
            for together in self._served_together(models, role):
                pool = self._pool(together, role, pools.values(), now)
                pools |= {(model, role): pool for model in together}
                self._pools |= pools
                self._look_at(pool, role, now)
        self._pools = pools

    def desired(self) -> Iterator[tuple[str, Role, int]]:
        """Model, pool, and how many engines it should have."""
        for (model, role), pool in self._pools.items():
            yield model, role, pool.desired.replicas

    def pools(self, role: Role) -> list[Pool]:
        """The pools of one kind, each once."""
        return list(dict.fromkeys(pool for (_, kind), pool in self._pools.items() if kind is role))

    def describe(self) -> dict[str, Any]:
        """The facts of `/autoscale`."""
        now = self._clock()
        models: dict[str, dict[str, Any]] = {}
        for (model, role), pool in sorted(self._pools.items()):
            models.setdefault(model, {})[role.value] = self._describe(model, role, pool, now)
        return {"models": models}

    def _served_together(self, models: Sequence[str], role: Role) -> Iterable[list[str]]:
        """Models by the engines that serve them; those of a pool that has lost all of its own stay together."""
        groups: dict[object, list[str]] = {}
        for model in models:
            serving = frozenset(b.id for b in self._fleet.backends if b.role is role and model in b.models)
            if serving or (model, role) in self._pools:
                groups.setdefault(serving or self._pools[model, role], []).append(model)
        return groups.values()

    def _pool(self, models: Sequence[str], role: Role, taken: Collection[Pool], now: float) -> Pool:
        """The largest of those of the models, unless others have it now. For other models its looks begin anew."""
        theirs = (self._pools[model, role] for model in models if (model, role) in self._pools)
        free = (pool for pool in theirs if pool not in taken)
        pool = max(free, key=lambda pool: pool.desired.replicas, default=None)
        if pool is None:
            watch = Watch(self._rules.window_s, self._capacity.prefill_tokens_per_s)
            found = len(self._engines(models[0], role))
            return Pool(models, watch, Desired(found, young_until=now + self._rules.scale_in_after_s), Newcomers(found))
        if pool.models != models:
            pool.models, pool.watch = models, Watch(self._rules.window_s, pool.watch.peak_tokens_per_s)
        return pool

    def _look_at(self, pool: Pool, role: Role, now: float) -> None:
        model = pool.models[0]
        engines = self._engines(model, role)
        serving = [backend for backend in self._fleet.backends if backend.role is role and model in backend.models]
        pool.watch.add(
            Look(
                at=now,
                requests=sum(backend.load.requests for backend in serving),
                tokens=sum(backend.load.tokens for backend in serving),
                waiting=sum(self._waiting(role, model) for model in pool.models),
                gauges={b.id: b.progress.gauges for b in engines if b.progress.gauges is not None},
                done=summed(self._work.of(model) for model in pool.models),
            )
        )
        pool.demand = self._demand(role, pool.watch)
        limits = Limits(self._rules.size(role), len(engines))
        if role is Role.PREFILL:
            lease_s = max((backend.settings.kv_lease_s for backend in engines), default=0.0)
            limits = replace(limits, lease_s=lease_s, held=any(map(self._decode_is_saturated, pool.models)))
        pool.desired = step(pool.desired, pool.demand, now, self._rules, limits)
        spared_s = self._rules.scale_in_after_s
        pool.newcomers = pool.newcomers.look(len(engines), pool.desired.replicas, now, spared_s)

    def _demand(self, role: Role, watch: Watch) -> Demand:
        if role is Role.PREFILL:
            return prefill_demand(watch.prefill_load(), self._rules)
        return decode_demand(watch.decode_load(self._capacity.requests), self._rules)

    def _decode_is_saturated(self, model: str) -> bool:
        """Whether decode has more to do than its engines can, or requests wait for it, and more engines may come."""
        pool = self._pools.get((model, Role.DECODE))
        if pool is None or pool.demand is None or pool.desired.reason is Reason.AT_MAX_REPLICAS:
            return False
        usable = sum(backend.standing.usable for backend in self._engines(model, Role.DECODE))
        return pool.watch.last.waiting > 0 or pool.demand.engines > usable

    def _engines(self, model: str, role: Role) -> list[Backend]:
        """Those of a pool that are to stay and whose model is known, whatever their state now."""
        return [b for b in self._fleet.backends if b.role is role and model in b.models and not b.standing.drained]

    # Which engines may go

    def _note_quiet(self, now: float) -> None:
        """Since when drained engines have had no request."""
        drained = {b.id: b.load for b in self._fleet.backends if b.standing.drained and not b.load.requests}
        before = self._quiet
        self._quiet = {
            engine: before[engine] if engine in before and before[engine][0] == load.ever else (load.ever, now)
            for engine, load in drained.items()
        }

    def _may_go(self, model: str, role: Role, now: float) -> list[str]:
        """Drained engines without requests, and without KV that is still to be pulled."""
        pool = (b for b in self._fleet.backends if b.role is role and model in b.models and b.id in self._quiet)
        lease_s = {b.id: b.settings.kv_lease_s if role is Role.PREFILL else 0.0 for b in pool}
        return [engine for engine, held_s in lease_s.items() if now - self._quiet[engine][1] >= held_s]

    def _to_drain(self, engines: Sequence[Backend], pool: Pool, now: float) -> list[str]:
        """The engines with the least to do, as many as are too many, once that is certain.

        For those that came unasked it is not yet: whoever started them did so for a reason that the load may show.
        """
        wanted = pool.desired.replicas
        if pool.desired.reason is Reason.KV_LEASE:
            wanted = pool.desired.surplus_most
        idlest = sorted(engines, key=lambda backend: (backend.standing.usable, backend.load.requests))
        spared = pool.newcomers.spared(now, self._rules.scale_in_after_s)
        return [backend.id for backend in idlest[: max(0, len(engines) - spared - wanted)]]

    def _describe(self, model: str, role: Role, pool: Pool, now: float) -> dict[str, Any]:
        engines, size, demand, desired = self._engines(model, role), self._rules.size(role), pool.demand, pool.desired
        told: dict[str, Any] = {
            "desired": desired.replicas,
            "engines": len(engines),
            "usable": sum(backend.standing.usable for backend in engines),
            "reason": desired.reason.value,
            "surplus_for_s": None if desired.surplus_since is None else round(now - desired.surplus_since, 1),
            "min_replicas": size.min_replicas,
            "max_replicas": size.max_replicas,
            "drain_next": self._to_drain(engines, pool, now),
            "may_go": self._may_go(model, role, now),
        }
        if demand is not None:
            worth = {signal.value: round(engines, 2) for signal, engines in demand.signals.items()}
            told |= {"load_engines": round(demand.engines, 2), "signal": demand.signal.value, "signals": worth}
        watch = pool.watch
        if role is Role.PREFILL:
            return told | {"peak_measured": watch.peak_measured, "load": _rounded(asdict(watch.prefill_load()))}
        return told | {"load": _rounded(asdict(watch.decode_load(self._capacity.requests)))}


def _rounded(facts: dict[str, Any]) -> dict[str, Any]:
    return {
        name: [round(v, 4) for v in value] if isinstance(value, tuple) else round(value, 1)
        for name, value in facts.items()
    }
