"""How many engines should there be, given how many there should have been? One pure step that does not flap.

A pool grows when its engines are loaded beyond `scale_out_above`, and shrinks when fewer would be loaded below
`scale_in_below`; between the two it stays as it is. It grows at once, at most to twice its size, and then waits until
what it asked for can have come. It shrinks only after a surplus that lasted, and only to what was needed meanwhile.
Engines that join a young pool raise what is wanted: they were there before it was, and only now are known to be.
"""

import math
from dataclasses import dataclass, replace
from enum import StrEnum

from router.scaling.demand import Demand
from router.settings.scaling import Autoscale, PoolSize


class Reason(StrEnum):
    """Why a pool is asked to be as large as it is."""

    GROWS = "grows"
    SHRINKS = "shrinks"
    FITS = "fits"
    COOLING_DOWN = "cooling_down"
    PASSING_SURPLUS = "passing_surplus"
    KV_LEASE = "kv_lease"
    DECODE_SATURATED = "decode_saturated"
    AT_MAX_REPLICAS = "at_max_replicas"
    AT_MIN_REPLICAS = "at_min_replicas"


@dataclass(frozen=True, slots=True)
class Desired:
    """`replicas` wanted and why; since when (monotonic seconds) there is a surplus, and the most needed since then.

    Until `young_until` (monotonic seconds) nobody knows yet how many engines the pool has.
    """

    replicas: int
    reason: Reason = Reason.FITS
    grown_at: float = -math.inf
    surplus_since: float | None = None
    surplus_most: int = 0
    young_until: float = -math.inf


@dataclass(frozen=True, slots=True)
class Limits:
    """What holds for a pool beside the settings of all.

    `engines` are there and to stay. `lease_s` is how long an engine that leaves may still hold KV that is to be pulled.
    `held`: what the pool has to do is not its own load now.
    """

    size: PoolSize
    engines: int = 0
    lease_s: float = 0.0
    held: bool = False


def step(before: Desired, demand: Demand, now: float, rules: Autoscale, limits: Limits) -> Desired:
    """What is wanted now."""
    size = limits.size
    least = _within(size, math.ceil(demand.engines / rules.scale_out_above))
    most = _within(size, math.ceil(demand.engines / rules.scale_in_below))
    desired = _with_joined(replace(before, replicas=_within(size, before.replicas)), now, limits)
    if least > desired.replicas:
        return _short(desired, least, now, rules, limits)
    if most < desired.replicas:
        return _surplus(desired, most, now, rules, limits)
    return replace(desired, reason=_fits(desired.replicas, demand, rules, size), surplus_since=None)


def _with_joined(desired: Desired, now: float, limits: Limits) -> Desired:
    """A pool is young for as long as a surplus must last, so that none of its shrinkings is undone here."""
    engines = _within(limits.size, limits.engines)
    if now >= desired.young_until or engines <= desired.replicas:
        return desired
    return replace(desired, replicas=engines, surplus_since=None)  # a surplus counts once it lasts with them


def _short(desired: Desired, least: int, now: float, rules: Autoscale, limits: Limits) -> Desired:
    desired = replace(desired, surplus_since=None)
    if limits.held:
        return replace(desired, reason=Reason.DECODE_SATURATED)
    if now < desired.grown_at + rules.scale_out_pause_s:
        return replace(desired, reason=Reason.COOLING_DOWN)
    return replace(desired, replicas=min(least, 2 * desired.replicas), reason=Reason.GROWS, grown_at=now)


def _surplus(desired: Desired, most: int, now: float, rules: Autoscale, limits: Limits) -> Desired:
    if limits.held:
        return replace(desired, reason=Reason.DECODE_SATURATED, surplus_since=None)
    if desired.surplus_since is None:
        return replace(desired, reason=Reason.PASSING_SURPLUS, surplus_since=now, surplus_most=most)
    needed = max(desired.surplus_most, most)
    lasted_s = now - desired.surplus_since
    if lasted_s < rules.scale_in_after_s:
        return replace(desired, reason=Reason.PASSING_SURPLUS, surplus_most=needed)
    if lasted_s < rules.scale_in_after_s + limits.lease_s:
        return replace(desired, reason=Reason.KV_LEASE, surplus_most=needed)
    return replace(desired, replicas=needed, reason=Reason.SHRINKS, surplus_since=None)


def _fits(replicas: int, demand: Demand, rules: Autoscale, size: PoolSize) -> Reason:
    if replicas == size.max_replicas and demand.engines > replicas * rules.scale_out_above:
        return Reason.AT_MAX_REPLICAS
    if replicas == size.min_replicas and demand.engines <= (replicas - 1) * rules.scale_in_below:
        return Reason.AT_MIN_REPLICAS
    return Reason.FITS


def _within(size: PoolSize, replicas: int) -> int:
    return min(max(replicas, size.min_replicas), size.max_replicas)
