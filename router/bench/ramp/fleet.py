"""A fleet that does as the autoscaler wants, in virtual time: engines take a while to come, and finish before they go.

Loads, leases and what is observed of requests are the gateway's own; only the engines are simulated, and time.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count

from router.admission.grant import Grant
from router.admission.permits import Permits
from router.bench.replay.engines import DecodeEngine, PrefillEngine
from router.bench.replay.kv_cache import KvCache
from router.bench.replay.timeline import Timeline
from router.bench.replay.trace import MODEL, Request
from router.errors import Outcome
from router.fleet.backend import Backend
from router.fleet.fleet import Fleet
from router.settings.admission import Admission
from router.settings.engines import BackendSettings, Role
from router.settings.fleet import Probes
from router.sim.config import SimConfig
from router.sim.latency import PROFILES
from router.telemetry.events import Journey, Observer, Observers, RouteKind
from router.usage import Usage

Engine = PrefillEngine | DecodeEngine


@dataclass(frozen=True, slots=True)
class Shape:
    """On which GPUs the engines are, with how much KV cache, and how long one takes to come up."""

    gpus: Mapping[Role, str]
    cache_tokens: Mapping[Role, int]
    start_up_s: float = 120.0


class ElasticFleet:
    """`fleet` and its simulated engines; `observer` sees the journeys. `ttft_s` are the first tokens, by their time."""

    def __init__(self, timeline: Timeline, shape: Shape, observer: Observer) -> None:
        self.fleet = Fleet([])
        self.ttft_s: list[tuple[float, float]] = []
        self._timeline = timeline
        self._shape = shape
        self._observer = observer
        self._engines: dict[Backend, Engine] = {}
        self._wanted, self._coming = dict.fromkeys(Role, 0), dict.fromkeys(Role, 0)
        self._numbers = count(1)
        self._permits = Permits(Admission(prefill_permits=0, decode_permits=0))

    def replicas(self, role: Role) -> int:
        """How many engines of a pool there are."""
        return sum(backend.role is role for backend in self.fleet.backends)

    def scale(self, role: Role, replicas: int) -> None:
        """Start or end engines, so that there will be so many; the idlest go first."""
        self._wanted[role] = replicas
        for _ in range(replicas - self.replicas(role) - self._coming[role]):
            self._coming[role] += 1
            self._timeline.at(self._timeline.now_s + self._shape.start_up_s, lambda: self._came(role))
        pool = sorted((b for b in self.fleet.backends if b.role is role), key=lambda b: b.load.requests)
        leaving = pool[: max(0, len(pool) - replicas)]
        self.fleet.backends = tuple(b for b in self.fleet.backends if b not in leaving)

    def add(self, role: Role) -> None:
        """One more engine at once."""
        url = f"http://{role.value}-{next(self._numbers)}:8000"
        backend = Backend(BackendSettings(url=url, role=role, models=(MODEL,)), Probes(), now=self._timeline.now_s)
        backend.standing.good_probe(self._timeline.now_s)
        cache, profile = KvCache(self._shape.cache_tokens[role]), PROFILES[self._shape.gpus[role]]
        if role is Role.PREFILL:
            self._engines[backend] = PrefillEngine(self._timeline, profile, cache)
        else:
            link_tokens_per_s = SimConfig.link_gb_per_s * 1e9 / SimConfig.kv_bytes_per_token
            self._engines[backend] = DecodeEngine(self._timeline, profile, cache, link_tokens_per_s)
        self.fleet.backends = (*self.fleet.backends, backend)

    def scrape(self) -> None:
        """Let the decode engines tell of themselves."""
        for backend in self.fleet.backends:
            if isinstance(engine := self._engines[backend], DecodeEngine):
                backend.progress.note(engine.gauges(), self._timeline.now_s)

    def submit(self, request: Request) -> None:
        """One request, over the engines that have the least to do."""
        prefill, decode = (
            min((b for b in self.fleet.backends if b.role is role), key=lambda b: (b.load.tokens, b.load.ever))
            for role in (Role.PREFILL, Role.DECODE)
        )
        journey = Journey("ramp", "chat", self._timeline.now_s, lambda: self._timeline.now_s, Observers(self._observer))
        journey.model, journey.stream, journey.prompt_tokens = MODEL, True, request.input_tokens
        grant = Grant(self._permits, decode, prefill, request.input_tokens)
        journey.chosen(RouteKind.DISAGGREGATED, "novel_prompt", decode.id, prefill.id)
        prefills, decodes = self._engines[prefill], self._engines[decode]
        assert isinstance(prefills, PrefillEngine)
        assert isinstance(decodes, DecodeEngine)

        def prefilled(cached_tokens: int) -> None:
            grant.settle_prefill(Outcome.OK)
            journey.prefilled()
            journey.prefill_usage = Usage(request.input_tokens, 1, cached_tokens)
            decodes.submit(request, began, lambda: grant.settle(Outcome.OK), local=False)

        def began(at_s: float, _: int) -> None:
            prefills.cache.release(request)
            grant.answer_began()
            journey.committed()
            self.ttft_s.append((at_s, at_s - request.at_s))

        journey.prefill_sent()
        prefills.submit(request, prefilled)

    def _came(self, role: Role) -> None:
        self._coming[role] -= 1
        if self.replicas(role) < self._wanted[role]:
            self.add(role)
