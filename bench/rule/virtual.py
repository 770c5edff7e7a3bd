"""The same requests in virtual time: engines as `router.sim` has them, and the gateway's own choosing and learning.

A run takes a part of a second and comes out the same each time, so that many can be looked at. There are no sockets, no
clients and no retries: what a leg takes beside its engines' work is `LEG_S`.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

from bench.rule.rig import DECODE_STEP_S, MODEL, Ask, Run, Told
from router.admission.grant import Grant
from router.admission.permits import Permits
from router.bench.replay.timeline import Timeline
from router.call import Api, Call, Trace
from router.errors import Outcome
from router.fleet.backend import Backend
from router.fleet.fleet import Fleet
from router.routing.choose import Chooser
from router.routing.route import Route
from router.routing.timed import Timed
from router.settings.admission import Admission
from router.settings.engines import BackendSettings, Role
from router.settings.fleet import Probes
from router.settings.routing import Routing
from router.sim.config import SimConfig
from router.sim.latency import H200, PrefillChunk

LEG_S = 0.003
"""Sockets, parsing and the gateway's own work."""

Then = Callable[[], None]


@dataclass(slots=True)
class _Sequence:
    """A prompt with `missing` tokens to compute, `left` tokens to answer; `token` hears of each."""

    missing: int
    left: int
    token: Then
    computed: int = 0


class Engine:
    """Continuous batching: each step gives every stream a token, and spends the rest of its budget on prompts."""

    def __init__(self, timeline: Timeline, gb_per_s: float) -> None:
        self.gb_per_s = gb_per_s
        self.link_free_s = 0.0
        self._timeline = timeline
        self._running: list[_Sequence] = []
        self._stepping = False

    def add(self, missing: int, answer_tokens: int, token: Then) -> None:
        """A request; `token` is called as often as it has tokens to answer."""
        self._running.append(_Sequence(missing, answer_tokens, token))
        if not self._stepping:
            self._plan()

    def pull(self, source: "Engine", tokens: int, arrived: Then) -> None:
        """Move KV from another engine, after all that either end of the link moves already."""
        now_s, size_gb = self._timeline.now_s, tokens * SimConfig.kv_bytes_per_token / 1e9
        for end in (self, source):
            end.link_free_s = max(end.link_free_s, now_s) + size_gb / end.gb_per_s
        self._timeline.at(max(self.link_free_s, source.link_free_s), arrived)

    def _plan(self) -> None:
        streams = [one for one in self._running if not one.missing]
        budget = SimConfig.max_num_batched_tokens - len(streams)
        prompts: list[tuple[_Sequence, int]] = []
        for one in self._running:
            if one.missing and budget > 0:
                prompts.append((one, min(one.missing, budget)))
                budget -= prompts[-1][1]
        self._stepping = bool(streams or prompts)
        if self._stepping:
            took_s = H200.chunks_s([PrefillChunk(tokens, one.computed) for one, tokens in prompts])
            took_s += DECODE_STEP_S if streams else 0.0
            self._timeline.at(self._timeline.now_s + took_s, lambda: self._step(streams, prompts))

    def _step(self, streams: Sequence[_Sequence], prompts: Sequence[tuple[_Sequence, int]]) -> None:
        for one, tokens in prompts:
            one.missing -= tokens
            one.computed += tokens
        for one in (*(one for one, _ in prompts if not one.missing), *streams):
            one.left -= 1
            one.token()
        self._running = [one for one in self._running if one.left > 0]
        self._plan()


def run(engines: Sequence[tuple[str, float]], routing: Mapping[str, Any], asks: Iterable[Ask], seed: int = 1) -> Run:
    """What `bench.rule.rig.run` does, at once. `seed` is for what routing leaves to chance."""
    journeys = World(engines, routing, seed).run(asks)
    reasons = Counter(journey.route.reason for journey in journeys)
    return Run([journey.told for journey in journeys], dict(reasons))


class World:
    """A fleet of engines, role and GB/s of each, and a gateway before it."""

    def __init__(self, engines: Sequence[tuple[str, float]], routing: Mapping[str, Any], seed: int = 1) -> None:
        self.timeline = Timeline()
        self.engines = {
            _backend(role, number): Engine(self.timeline, gb_per_s) for number, (role, gb_per_s) in enumerate(engines)
        }
        self.permits = Permits(Admission(prefill_permits=0, decode_permits=0))
        self.chooser = Chooser(Routing(**routing), self.permits.with_room, random.Random(seed))
        self.journeys: list[Journey] = []
        self._fleet = Fleet(list(self.engines))

    def run(self, asks: Iterable[Ask]) -> list["Journey"]:
        """All requests, in the order in which they came, and what became of them."""
        for ask in asks:
            self.timeline.at(ask.at_s, partial(self._arrive, ask))
        self.timeline.run()
        return self.journeys

    def _arrive(self, ask: Ask) -> None:
        call = _call(ask, len(self.journeys))
        route = self.chooser.choose(call, self._fleet.snapshot(MODEL, at=self.timeline.now_s))
        assert isinstance(route, Route), f"there is room for all: {route}"
        self.journeys.append(Journey(self, ask, call, route))


class Journey:
    """One request on its `route`; what came of it is known at its end."""

    def __init__(self, world: World, ask: Ask, call: Call, route: Route) -> None:
        self._ask, self.route = ask, route
        self._token_at_s: list[float] = []
        self._clock = world.timeline
        self._decode = world.engines[route.decode]
        self._timed = Timed(call, route, self._clock.now_s)
        self._grant = Grant(world.permits, route.decode, route.prefill, call.prompt_tokens, route.cached_tokens)
        if route.prefill is None:
            self._after(LEG_S, lambda: self._decode.add(ask.prompt_tokens, ask.answer_tokens, self._token))
        else:
            prefill = world.engines[route.prefill]
            self._after(LEG_S, lambda: prefill.add(ask.prompt_tokens, 1, lambda: self._prefilled(prefill)))

    @property
    def told(self) -> Told:
        """What came of it."""
        times_s = self._token_at_s
        return Told(self._ask, times_s[0] - self._ask.at_s, [b - a for a, b in pairwise(times_s)])

    @property
    def handed_over(self) -> bool:
        """Whether another engine computed its prompt."""
        return self.route.prefill is not None

    def _after(self, seconds: float, then: Then) -> None:
        self._clock.at(self._clock.now_s + seconds, then)

    def _prefilled(self, prefill: Engine) -> None:
        self._grant.settle_prefill(Outcome.OK)
        self._timed.prefill_over(Outcome.OK, self._clock.now_s)
        self._after(LEG_S, lambda: self._decode.pull(prefill, self._ask.prompt_tokens, self._arrived))

    def _arrived(self) -> None:
        self._decode.add(0, self._ask.answer_tokens, self._token)

    def _token(self) -> None:
        self._token_at_s.append(self._clock.now_s)
        if len(self._token_at_s) == 1:
            self._grant.answer_began()
            self._timed.answer_began(self._clock.now_s, handed_over=self.handed_over)
        if len(self._token_at_s) == self._ask.answer_tokens:
            self._timed.ended(self._ask.answer_tokens, self._clock.now_s)
            self._timed.__exit__(None, None, None)
            self._grant.settle(Outcome.OK)


def _backend(role: str, number: int) -> Backend:
    url = f"http://{role}-{number}:8000"
    backend = Backend(BackendSettings(url=url, role=Role(role), models=(MODEL,)), Probes(), now=0.0)
    backend.standing.good_probe(0.0)
    return backend


def _call(ask: Ask, number: int) -> Call:
    """As routing sees it; nobody holds anything of it."""
    return Call(
        trace=Trace(f"r-{number}"),
        api=Api.CHAT,
        model=MODEL,
        stream=True,
        include_usage=False,
        max_tokens=ask.answer_tokens,
        prompt_tokens=ask.prompt_tokens,
        undisaggregatable=None,
        fields={},
        wire={},
        blocks=None,
    )
