"""Where does a call go? Choosing is synchronous and touches no socket: a snapshot in, a route or a shortage out.

The engine that answers is chosen first, as it may hold the prompt's beginning; then the rule decides whether the rest
is computed there or by a prefill engine, which is chosen last.
"""

import math
import random
from collections.abc import Callable, Collection, Sequence

from router.call import Call
from router.fleet.backend import Backend
from router.fleet.fleet import Snapshot
from router.fleet.links import SLOW_TIMES
from router.routing.disaggregation import Home, Pools, Reason, decide, is_novel
from router.routing.policies import policy
from router.routing.prefix.prefixes import Prefixes, prefixes_for
from router.routing.route import Route, Shortage
from router.routing.times import Times, quick, times
from router.settings import Mode, Role, Routing
from router.telemetry.events import RouteKind
from router.usage import Usage

Room = Callable[[Backend, int], bool]
Match = Callable[[Backend, Backend], bool]
Cold = Callable[[], Collection[tuple[str, str]]]


Judgement = tuple[bool, Reason, Sequence[Backend], Times | None]

NOVEL = (Reason.NOVEL_PROMPT, Reason.FASTER_REMOTE, Reason.TRIAL)

MISSED = (Reason.PREFILL_UNAVAILABLE, Reason.PREFILL_SATURATED)
"""The prompt should be computed by a prefill engine, and cannot be now."""


def same_group(prefill: Backend, decode: Backend) -> bool:
    """Engines hand over inside a group only; it is learnt from version and model, see `fleet.identity`."""
    return prefill.group == decode.group


class Chooser:
    """Applies each pool's policy, and the rule in between.

    `has_room` tells whether an engine may get one more request with so many prompt tokens, `pair_up` whether a prefill
    and a decode engine may hand over to each other, `cold` which of those, by id, have yet to meet: others are
    preferred. `prefixes` knows what engines hold; made here when a policy needs it, else None.
    """

    def __init__(
        self,
        rules: Routing,
        has_room: Room,
        rng: random.Random,
        pair_up: Match = same_group,
        cold: Cold = frozenset,
        prefixes: Prefixes | None = None,
    ) -> None:
        self._rules = rules
        self._has_room = has_room
        self._pair_up = pair_up
        self._cold = cold
        self.prefixes = prefixes or prefixes_for(rules)
        self._prefill_policy = policy(rules.prefill_policy, rules, rng, self.prefixes)
        self._decode_policy = policy(rules.decode_policy, rules, rng, self.prefixes)

    @property
    def mode(self) -> Mode:
        """`routing.mode`, as it is now."""
        return self._rules.mode

    @mode.setter
    def mode(self, mode: Mode) -> None:
        self._rules = self._rules.model_copy(update={"mode": mode})

    def measure(self, call: Call) -> None:
        """Estimate how long a prompt is by what is known of its model."""
        if self.prefixes is not None:
            call.prompt_tokens = self.prefixes.sizes.tokens(call)

    def learn(self, call: Call, usage: Usage | None) -> None:
        """An engine has told how long a prompt was."""
        if self.prefixes is not None and usage is not None:
            self.prefixes.sizes.learn(call, usage.prompt_tokens)

    def forget(self, engine: Backend) -> None:
        """An engine has started anew, or is gone: it holds nothing of what was sent there."""
        if self.prefixes is not None:
            self.prefixes.index.drop(engine)

    def choose(self, call: Call, snapshot: Snapshot, *, local: bool = False) -> Route | Shortage:
        """The route of `call` over the engines of `snapshot`, or the pool that is short.

        `local` forbids a hand-over: one has failed, and decode computing the prompt itself is always right.
        """
        decode = self._roomy(snapshot.decode, call)
        home = self._decode_policy.pick(self._acquainted(decode, snapshot), call) if decode else None
        if local:
            return self._alone(call, home, decode, snapshot, Reason.HANDOVER_FAILED)
        remote, reason, partners, learnt = self._judge(call, home, snapshot)
        if reason in MISSED and (paired := self._with_roomy_partner(decode, snapshot, call)):
            home = self._decode_policy.pick(paired, call)
            remote, reason, partners, learnt = self._judge(call, home, snapshot)
        if reason is Reason.SLOW_HANDOVER and learnt and (linked := _with_a_faster_link(decode, home, learnt)):
            other = self._decode_policy.pick(linked, call)
            there = self._judge(call, other, snapshot)
            if _is_better(there, learnt, self._rules):
                home, (remote, reason, partners, _) = other, there
        if reason in NOVEL and (holder := self._aggregated_holder(call, snapshot)):
            return self._route(RouteKind.AGGREGATED, call, holder, None, Reason.CONTINUATION)
        if remote and home is not None:
            prefill = self._prefill_policy.pick(self._warm(partners, home), call)
            return self._route(RouteKind.DISAGGREGATED, call, home, prefill, reason)
        if reason in MISSED and self._rules.on_prefill_unavailable == "fail":
            return _short_of_prefill(reason)
        return self._alone(call, home, decode, snapshot, reason)

    def _judge(self, call: Call, home: Backend | None, snapshot: Snapshot) -> Judgement:
        """What the rule says if `home` answers, and the prefill engines with room that should hand over to it."""
        pair_up = self._pair_up
        partners = [] if home is None else [p for p in snapshot.prefill if pair_up(p, home)]
        roomy = self._roomy(partners, call)
        able: Sequence[Backend] = roomy
        learnt = None
        if home is not None and home.links and self._rules.rule == "learnt":
            held = self.prefixes.held(call) if self.prefixes else {}
            able = quick(roomy, home, snapshot.at)
            learnt = times(call, home, able or partners, held, self._rules, snapshot.at)
        pools = Pools(bool(partners), bool(roomy), home is not None, snapshot.inflight)
        return *decide(call, self._facts(call, home), pools, self._rules, learnt), able, learnt

    def _acquainted(self, decode: Sequence[Backend], snapshot: Snapshot) -> Sequence[Backend]:
        """Those that have met a prefill engine, if there are any."""
        cold = self._cold()
        if not cold:
            return decode
        met = [d for d in decode if any(self._pair_up(p, d) and (p.id, d.id) not in cold for p in snapshot.prefill)]
        return met or decode

    def _warm(self, prefill: Sequence[Backend], home: Backend) -> Sequence[Backend]:
        """Those that have met the engine that answers, if there are any."""
        cold = self._cold()
        return [p for p in prefill if (p.id, home.id) not in cold] or prefill if cold else prefill

    def _facts(self, call: Call, home: Backend | None) -> Home:
        if home is None:
            return Home()
        return Home(self._cached_tokens(call, home), home.load.local_tokens, home.paired.decodes_alone)

    def _cached_tokens(self, call: Call, engine: Backend | None) -> int:
        return self.prefixes.cached_tokens(call, engine) if self.prefixes and engine else 0

    def _with_roomy_partner(self, decode: Sequence[Backend], snapshot: Snapshot, call: Call) -> list[Backend]:
        prefill = self._roomy(snapshot.prefill, call)
        return [d for d in decode if any(self._pair_up(p, d) for p in prefill)]

    def _aggregated_holder(self, call: Call, snapshot: Snapshot) -> Backend | None:
        """The aggregated engine on which a prompt that is new to decode is no news, if there is one."""
        aggregated = self._roomy(snapshot.aggregated, call) if self.prefixes and self._rules.mode == "auto" else ()
        if not aggregated:
            return None
        best = self._decode_policy.pick(aggregated, call)
        return best if not is_novel(call, self._cached_tokens(call, best), self._rules) else None

    def _route(self, kind: RouteKind, call: Call, decode: Backend, prefill: Backend | None, reason: str) -> Route:
        cached = self._cached_tokens
        return Route(kind, decode, prefill, reason, cached(call, decode), cached(call, prefill))

    def _alone(
        self, call: Call, home: Backend | None, decode: Sequence[Backend], snapshot: Snapshot, reason: Reason
    ) -> Route | Shortage:
        """One engine does both phases: the decode engine that holds the prompt's beginning; else an aggregated one if
        there is one with room, else a decode engine.
        """
        aggregated = () if reason is Reason.CONTINUATION else self._roomy(snapshot.aggregated, call)
        if aggregated:
            return self._route(RouteKind.AGGREGATED, call, self._decode_policy.pick(aggregated, call), None, reason)
        able = [backend for backend in decode if backend.paired.decodes_alone]
        if able and self._is_bounded(snapshot, reason):
            able = [backend for backend in able if self._has_budget(backend, call)]
            if not able:
                return _short_of_prefill(reason)
        if able:
            chosen = home if home in able else self._decode_policy.pick(able, call)
            return self._route(RouteKind.LOCAL, call, chosen, None, reason)
        saturated = bool(snapshot.decode or snapshot.aggregated)
        why = Reason.DECODE_SATURATED if saturated else Reason.DECODE_UNAVAILABLE
        return Shortage(Role.DECODE, saturated=saturated, reason=why)

    def _has_budget(self, backend: Backend, call: Call) -> bool:
        """Whether a decode engine may compute a prompt beside its streams that a prefill engine should have."""
        novel = call.prompt_tokens - self._cached_tokens(call, backend)
        return backend.load.local_tokens + novel <= self._rules.local_prefill_budget_tokens

    def _is_bounded(self, snapshot: Snapshot, reason: Reason) -> bool:
        """Whether decode only stands in for prefill engines; a fleet that has none computes all prompts that way."""
        stands_in = reason in MISSED or reason is Reason.HANDOVER_FAILED
        return stands_in and snapshot.prefill_known and self._rules.on_prefill_unavailable == "local_if_small"

    def _roomy(self, backends: Sequence[Backend], call: Call) -> list[Backend]:
        return [backend for backend in backends if self._has_room(backend, call.prompt_tokens)]


def _with_a_faster_link(decode: Sequence[Backend], home: Backend | None, here: Times) -> list[Backend]:
    """Engines to which KV comes far faster than it would to `home`."""
    limit_s = (here.link_s or math.inf) / SLOW_TIMES
    return [d for d in decode if d is not home and d.links.best_s is not None and d.links.best_s < limit_s]


def _is_better(there: Judgement, here: Times, rules: Routing) -> bool:
    """Whether a hand-over to another engine beats computing the prompt on this one."""
    remote, _, _, learnt = there
    if not remote or learnt is None or learnt.remote_s is None:
        return False
    return learnt.remote_s < here.cost_of_staying_s(rules.stall_weight)


def _short_of_prefill(reason: Reason) -> Shortage:
    """Waiting helps where prefill engines are only full."""
    saturated = reason is Reason.PREFILL_SATURATED
    return Shortage(Role.PREFILL, saturated=saturated, reason=reason if saturated else Reason.PREFILL_UNAVAILABLE)
