"""What does the autoscaler make of a day? Load that rises, stays and falls, and what is wanted for it, look by look."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from router.bench.ramp.fleet import ElasticFleet, Shape
from router.bench.replay.timeline import Timeline
from router.bench.replay.trace import Request
from router.scaling.autoscaler import Autoscaler, Capacity
from router.scaling.work import PrefillWork
from router.settings.engines import Role
from router.settings.routing import Routing
from router.settings.scaling import Autoscale

POOLS = (Role.PREFILL, Role.DECODE)

FIRST_BLOCK = 1
"""Prompts share nothing: each has blocks of its own."""


@dataclass(frozen=True, slots=True)
class Day:
    """Requests a second over time, from `low` to `high` and back, in stretches of `stretch_s`: low, rising, high,
    falling, low. Lengths are drawn around their means, in tokens."""

    low: float = 0.5
    high: float = 8.0
    stretch_s: float = 1500.0
    input_tokens: float = 4000.0
    output_tokens: float = 600.0
    seed: int = 1

    @property
    def length_s(self) -> float:
        """All stretches."""
        return 5 * self.stretch_s

    def rate(self, at_s: float) -> float:
        """Requests a second at a time."""
        stretch, into = divmod(at_s / self.stretch_s, 1)
        share = {1: into, 2: 1.0, 3: 1 - into}.get(int(stretch), 0.0)
        return self.low + share * (self.high - self.low)

    def requests(self) -> Iterator[Request]:
        """Those of the day, as they come at random."""
        rng, at_s, block = random.Random(self.seed), 0.0, FIRST_BLOCK
        while (at_s := at_s + rng.expovariate(self.rate(at_s))) < self.length_s:
            input_tokens = max(64, int(rng.lognormvariate(0, 0.6) * self.input_tokens / 1.2))
            output_tokens = max(8, int(rng.lognormvariate(0, 0.6) * self.output_tokens / 1.2))
            blocks = -(-input_tokens // 512)
            yield Request(at_s, input_tokens, output_tokens, tuple(range(block, block + blocks)))
            block += blocks


SHAPE = Shape(
    gpus={Role.PREFILL: "a100", Role.DECODE: "a100"}, cache_tokens={Role.PREFILL: 400_000, Role.DECODE: 200_000}
)


@dataclass(slots=True)
class Point:
    """One look: when, and by pool how many engines were there, how many were wanted, how many engines' worth of work
    there was."""

    at_s: float
    engines: dict[Role, int]
    desired: dict[Role, int]
    load: dict[Role, float]


@dataclass(slots=True)
class Record:
    """What came of a day."""

    points: list[Point] = field(default_factory=list)
    ttft_s: list[tuple[float, float]] = field(default_factory=list)

    def changes(self, role: Role) -> list[int]:
        """By how many engines what was wanted changed, each time that it did."""
        wanted = [point.desired[role] for point in self.points]
        return [after - before for before, after in pairwise(wanted) if after != before]

    def turns(self, role: Role) -> int:
        """How often growth was followed by a shrinking, or the other way round: 1 for a rise and a fall."""
        signs = [change > 0 for change in self.changes(role)]
        return sum(before != after for before, after in pairwise(signs))


def run(day: Day, rules: Autoscale, shape: Shape = SHAPE, routing: Routing | None = None) -> Record:
    """Let the day pass over a fleet of one engine a pool, that is scaled as the autoscaler wants."""
    timeline, work = Timeline(), PrefillWork()
    elastic = ElasticFleet(timeline, shape, work)
    for role in POOLS:
        elastic.add(role)
    peak = (routing or Routing()).prefill_tokens_per_s
    autoscaler = Autoscaler(
        elastic.fleet, lambda _role, _model: 0, work, rules, Capacity(peak, 0), lambda: timeline.now_s
    )
    record = Record(ttft_s=elastic.ttft_s)

    def look() -> None:
        elastic.scrape()
        autoscaler.look()
        pools = {role: pool for role in POOLS for pool in autoscaler.pools(role)}
        desired = {role: pool.desired.replicas for role, pool in pools.items()}
        loads = {role: pool.demand.engines for role, pool in pools.items() if pool.demand is not None}
        for role in POOLS:
            elastic.scale(role, desired[role])
        there = {role: elastic.replicas(role) for role in POOLS}
        record.points.append(Point(timeline.now_s, there, desired, loads))
        if timeline.now_s + rules.interval_s < day.length_s:
            timeline.at(timeline.now_s + rules.interval_s, look)

    timeline.at(rules.interval_s, look)
    _arrive(day.requests(), timeline, elastic)
    timeline.run()
    return record


def _arrive(requests: Iterator[Request], timeline: Timeline, elastic: ElasticFleet) -> None:
    """Each request plans the next one, so that few are planned at any time."""

    def come(request: Request) -> None:
        elastic.submit(request)
        plan()

    def plan() -> None:
        if (request := next(requests, None)) is not None:
            timeline.at(request.at_s, lambda: come(request))

    plan()


def percentile(values: Sequence[float], share: float) -> float:
    """By the nearest rank; no number of none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")
