"""Which pool holds users back? One sentence for one glance, worked out from what every pool has and lacks."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum

from router.settings.engines import Role

NEARLY_FULL = 0.8

LONG_WAIT, TOO_LONG_WAIT = 0.2, 0.5
"""Shares of a first token's time that are spent in line."""


class Level(IntEnum):
    """How bad it is: users feel `SHORT`, and may soon feel `TIGHT`."""

    OK = 0
    TIGHT = 1
    SHORT = 2


@dataclass(frozen=True, slots=True)
class PoolNow:
    """A pool: engines that should serve, those that may be used, those that show no sign of work though they have some,
    requests in line for it, and engines' worth of work that it has (None: not known yet).

    Of late: which share of a first token's time was spent in line for it, and how many prompts others computed in its
    stead.
    """

    role: Role
    engines: int
    usable: int
    stuck: int
    waiting: int
    load_engines: float | None
    wait_share: float = 0.0
    missed: int = 0


@dataclass(frozen=True, slots=True)
class Verdict:
    """The pool that holds users back, if there is one, and why."""

    level: Level
    pool: Role | None
    why: str


def verdict(pools: Iterable[PoolNow]) -> Verdict:
    """The worst of what there is to say; of equals, where more requests wait, and decode before prefill."""
    pools = [pool for pool in pools if pool.engines or pool.waiting]
    answering = [pool for pool in pools if pool.role is not Role.PREFILL]
    if not any(pool.usable for pool in answering):
        return Verdict(Level.SHORT, Role.DECODE, "no engine that could answer can be used: requests get 503")
    found = [_Finding(level, pool, why) for pool in pools for level, why in _of(pool)]
    if not found:
        return Verdict(Level.OK, None, "nobody waits for an engine, and no pool is nearly full")
    worst = max(found, key=_Finding.weight)
    return Verdict(worst.level, worst.pool.role, "; ".join(one.why for one in found if one.pool is worst.pool))


@dataclass(frozen=True, slots=True)
class _Finding:
    level: Level
    pool: PoolNow
    why: str

    def weight(self) -> tuple[int, int, bool]:
        return self.level, self.pool.waiting, self.pool.role is not Role.PREFILL


def _of(pool: PoolNow) -> Iterator[tuple[Level, str]]:
    """What there is to say of a pool, the worst first."""
    if pool.waiting:
        yield Level.SHORT, f"{_count(pool.waiting, 'request')} in line for {_a(pool.role)} engine"
    if pool.wait_share > LONG_WAIT:
        level = Level.SHORT if pool.wait_share > TOO_LONG_WAIT else Level.TIGHT
        yield level, f"{round(100 * pool.wait_share)}% of the time to a first token is spent in line for it"
    if not pool.usable:
        instead = "decode computes prompts beside its streams" if pool.role is Role.PREFILL else "others answer"
        yield Level.SHORT, f"none of its engines can be used: {instead}"
    elif pool.usable < pool.engines:
        yield Level.TIGHT, f"{pool.engines - pool.usable} of {_count(pool.engines, 'engine')} out"
    if pool.stuck:
        yield Level.TIGHT, f"{_count(pool.stuck, 'engine')} without a sign of work"
    if pool.missed:
        yield Level.TIGHT, f"decode computed {_count(pool.missed, 'prompt')} in its stead of late"
    if pool.load_engines is not None and pool.usable:
        if pool.load_engines > pool.usable:
            yield Level.SHORT, "more to do than its engines can"
        elif pool.load_engines > NEARLY_FULL * pool.usable:
            yield Level.TIGHT, "nearly full"


def _a(role: Role) -> str:
    return f"{'an' if role is Role.AGGREGATED else 'a'} {role.value}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
