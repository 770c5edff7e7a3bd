"""What would this fleet have done with these requests? The gateway's own routing, over simulated engines.

Choosing, policies, index, grants and leases are those that serve requests; only the engines are simulated, and time.
What the routing believes of the engines' caches and what they really hold are two things, as in life. Answers are not
in what engines hold here: the trace does not tell which blocks of a next turn come from them.
"""

import random
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from router.admission.grant import Grant
from router.admission.permits import Permits
from router.bench.replay.engines import DecodeEngine, PrefillEngine
from router.bench.replay.kv_cache import KvCache
from router.bench.replay.timeline import Timeline
from router.bench.replay.trace import MODEL, Request, as_call
from router.call import Call
from router.errors import Outcome
from router.fleet.backend import Backend
from router.fleet.fleet import Fleet
from router.routing.choose import Chooser
from router.routing.route import Route
from router.routing.sent import Sent
from router.settings.admission import Admission
from router.settings.engines import BackendSettings, Role
from router.settings.fleet import Probes
from router.settings.routing import Mode, PolicyName, Routing
from router.sim.config import SimConfig
from router.sim.latency import PROFILES

Progress = Callable[[int], None]


def no_progress(_: int) -> None:
    """Nobody looks."""


@dataclass(frozen=True, slots=True)
class Shape:
    """A fleet: how many engines, on which GPUs, each with how much KV cache."""

    prefill: int = 4
    decode: int = 4
    prefill_gpu: str = "h100"
    decode_gpu: str = "h200"
    prefill_cache_tokens: int = 400_000
    decode_cache_tokens: int = 800_000
    mode: Mode = "auto"


def rules_of(shape: Shape, policy: PolicyName) -> Routing:
    """The settings of a replay: defaults, for a fleet that has enough to do."""
    return Routing(prefill_policy=policy, decode_policy=policy, mode=shape.mode, min_concurrency=0)


@dataclass(slots=True)
class Record:
    """What came of a replay. `work_s` has for each engine of a pool what it did in each slice of time."""

    ttft_s: list[float] = field(default_factory=list)
    decision_us: list[float] = field(default_factory=list)
    prefilled: list[Request] = field(default_factory=list)
    prefill_reused_tokens: int = 0
    local_reused_tokens: int = 0
    decode_found_tokens: int = 0
    computed_tokens: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    work_s: dict[Role, list[Mapping[int, float]]] = field(default_factory=dict)

    @property
    def reused_tokens(self) -> int:
        """Prompt tokens that no engine had to compute."""
        return self.prefill_reused_tokens + self.local_reused_tokens


class Replay:
    """One fleet whose pools both have one policy, and what comes its way; `call_of` is how routing sees a request."""

    def __init__(
        self, shape: Shape, policy: PolicyName, seed: int = 1, call_of: Callable[[Request], Call] = as_call
    ) -> None:
        self.record = Record()
        self._call_of = call_of
        self._timeline = Timeline()
        self.prefill = {
            _backend(Role.PREFILL, number, shape.prefill_cache_tokens): _prefill_engine(self._timeline, shape)
            for number in range(shape.prefill)
        }
        self.decode = {
            _backend(Role.DECODE, number, shape.decode_cache_tokens): _decode_engine(self._timeline, shape)
            for number in range(shape.decode)
        }
        self.record.work_s = {
            Role.PREFILL: [engine.work_s for engine in self.prefill.values()],
            Role.DECODE: [engine.work_s for engine in self.decode.values()],
        }
        self.permits = Permits(Admission(prefill_permits=0, decode_permits=0))
        rules = rules_of(shape, policy)
        self.chooser = Chooser(rules, self.permits.with_room, random.Random(seed))
        self._fleet = Fleet([*self.prefill, *self.decode])

    def run(self, requests: Sequence[Request], progress: Progress = no_progress) -> Record:
        """Let all requests come at their times; `progress` hears how many have."""
        for number, request in enumerate(requests, 1):
            self._timeline.at(request.at_s, partial(self._arrive, request, partial(progress, number)))
        self._timeline.run()
        return self.record

    def _arrive(self, request: Request, arrived: Callable[[], None]) -> None:
        arrived()
        call = self._call_of(request)
        _Journey(self, request, call, self._choose(call)).begin()

    def _choose(self, call: Call) -> Route:
        snapshot = self._fleet.snapshot(MODEL)
        begin_ns = time.perf_counter_ns()
        route = self.chooser.choose(call, snapshot)
        self.record.decision_us.append((time.perf_counter_ns() - begin_ns) / 1000)
        assert isinstance(route, Route), f"engines without limits have room: {route}"
        self.record.reasons[route.reason] += 1
        return route


class _Journey:
    """One request on its route."""

    def __init__(self, replay: Replay, request: Request, call: Call, route: Route) -> None:
        self._record = replay.record
        self._request = request
        self._prefill = replay.prefill[route.prefill] if route.prefill else None
        self._decode = replay.decode[route.decode]
        self._grant = Grant(replay.permits, route.decode, route.prefill, call.prompt_tokens, route.cached_tokens)
        self._sent = Sent(replay.chooser.prefixes, call, route)

    def begin(self) -> None:
        if self._prefill is not None:
            self._record.prefilled.append(self._request)
            self._prefill.submit(self._request, self._prefilled)
        else:
            self._decode.submit(self._request, self._began, self._ended, local=True)

    def _prefilled(self, cached_tokens: int) -> None:
        self._record.prefill_reused_tokens += cached_tokens
        self._record.computed_tokens += self._request.input_tokens - cached_tokens
        self._grant.settle_prefill(Outcome.OK)
        self._sent.prefill_over(Outcome.OK)
        self._decode.submit(self._request, self._began, self._ended, local=False)

    def _began(self, at_s: float, cached_tokens: int) -> None:
        record = self._record
        record.decode_found_tokens += cached_tokens
        record.ttft_s.append(at_s - self._request.at_s)
        self._grant.answer_began()
        self._sent.answered(0)
        if self._prefill is not None:
            self._prefill.cache.release(self._request)
        else:
            record.local_reused_tokens += cached_tokens
            record.computed_tokens += self._request.input_tokens - cached_tokens

    def _ended(self) -> None:
        self._grant.settle(Outcome.OK)
        with self._sent:
            pass


def _backend(role: Role, number: int, cache_tokens: int) -> Backend:
    url = f"http://{role.value}-{number}:8000"
    backend = Backend(BackendSettings(url=url, role=role, models=(MODEL,)), Probes(), now=0.0)
    backend.standing.good_probe(0.0)
    backend.cache_tokens = cache_tokens
    return backend


def _prefill_engine(timeline: Timeline, shape: Shape) -> PrefillEngine:
    return PrefillEngine(timeline, PROFILES[shape.prefill_gpu], KvCache(shape.prefill_cache_tokens))


def _decode_engine(timeline: Timeline, shape: Shape) -> DecodeEngine:
    link_tokens_per_s = SimConfig.link_gb_per_s * 1e9 / SimConfig.kv_bytes_per_token
    return DecodeEngine(timeline, PROFILES[shape.decode_gpu], KvCache(shape.decode_cache_tokens), link_tokens_per_s)
