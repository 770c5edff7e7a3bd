"""Where does a call go? Choosing is synchronous and touches no socket: a snapshot in, a route or a shortage out.

The engine that answers is chosen first, as it may hold the prompt's beginning; then the rule decides whether the rest
is computed there or by a prefill engine, which is chosen last.
"""

import math
import random
from collections.abc import Callable, Collection, Sequence
from copy import copy
from typing import get_args

from router.call import Call
from router.fleet.backend import Backend
from router.fleet.fleet import Snapshot
from router.fleet.links import SLOW_TIMES
from router.fleet.pairs import Pairs
from router.routing.disaggregation import MISSED, WEIGHED, Home, Pools, Reason, decide, goes_by_times, is_novel
from router.routing.explanation import Explanation, Rule, Witness, unmoved
from router.routing.modes import Modes
from router.routing.policies import policy
from router.routing.prefix.prefixes import Prefixes, prefixes_for
from router.routing.route import Route, Shortage
from router.routing.times import Times, quick, times
from router.routing.trials import to_try
from router.settings.engines import Role
from router.settings.routing import Mode, Routing
from router.telemetry.events import Clock, RouteKind
from router.usage import Usage

Room = Callable[[Sequence[Backend], int], Sequence[Backend]]
Partners = Callable[[Backend, Sequence[Backend]], list[Backend]]
Cold = Callable[[], Collection[tuple[str, str]]]


Judgement = tuple[bool, Reason, Sequence[Backend], Times | None]

NOVEL = (Reason.NOVEL_PROMPT, Reason.FASTER_REMOTE, Reason.TRIAL)


def in_group(decode: Backend, prefill: Sequence[Backend]) -> list[Backend]:
    """Engines hand over inside a group only; it is learnt from version and model, see `fleet.identity`."""
    group = decode.group
    return [engine for engine in prefill if engine.group == group]


def partners_of(pairs: Pairs, clock: Clock) -> Partners:
    """Which prefill engines may hand over to a decode engine: those of its group that are not left alone with it."""

    def partners(decode: Backend, prefill: Sequence[Backend]) -> list[Backend]:
        same = in_group(decode, prefill)
        if not pairs.any_left_alone:
            return same
        return [engine for engine in same if pairs.usable(engine.id, decode.id, clock())]

    return partners


class Chooser:
    """Applies each pool's policy, and the rule in between.

    `with_room` tells which engines of a pool may get one more request with so many prompt tokens, `partners` which of
    some prefill engines may hand over to a decode engine, `cold` which of those, by id, have yet to meet: others are
    preferred. `prefixes` knows what engines hold; made here when a policy needs it, else None.
    """

    def __init__(
        self,
        rules: Routing,
        with_room: Room,
        rng: random.Random,
        partners: Partners = in_group,
        cold: Cold = frozenset,
        prefixes: Prefixes | None = None,
    ) -> None:
        self._rules = rules
        self._rules_by_mode = {mode: rules.model_copy(update={"mode": mode}) for mode in get_args(Mode)}
        self.modes = Modes.configured(rules)
        """May be changed at any time."""
        self._rule: Rule = decide
        self._with_room = with_room
        self._rng = rng
        self._partners = partners
        self._cold = cold
        self.prefixes = prefixes or prefixes_for(rules)
        self._prefill_policy = policy(rules.prefill_policy, rules, rng, self.prefixes)
        self._decode_policy = policy(rules.decode_policy, rules, rng, self.prefixes)

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
            self.prefixes.forget(engine)

    def choose(self, call: Call, snapshot: Snapshot, *, local: bool = False) -> Route | Shortage:
        """The route of `call` over the engines of `snapshot`, or the pool that is short.

        `local` forbids a hand-over: one has failed, and decode computing the prompt itself is always right.
        """
        outcome = self._decide(call, snapshot, local=local)
        if isinstance(outcome, Route):
            self._decode_policy.took(call, outcome.decode)
            if outcome.prefill is not None:
                self._prefill_policy.took(call, outcome.prefill)
        return outcome

    def explain(self, call: Call, snapshot: Snapshot, mode: Mode | None = None) -> Explanation:
        """What `choose` would say now, and by what; in some `mode`, else in the call's. Changes nothing."""
        witness, aside = Witness(), copy(self)
        vars(aside).update(
            modes=Modes(mode) if mode else self.modes,
            _rule=witness.rule(self._rule),
            _prefill_policy=witness.policy(self._rules.prefill_policy, self._prefill_policy),
            _decode_policy=witness.policy(self._rules.decode_policy, self._decode_policy),
        )
        with unmoved(self._rng):
            outcome = aside.choose(call, snapshot)
        return Explanation(outcome, aside.rules_of(call), witness.judgements, witness.picks)

    def rules_of(self, call: Call) -> Routing:
        """The settings by which a call is routed now, its mode among them."""
        return self._rules_by_mode[self.modes.of(call.trace.request_id)]

    def _decide(self, call: Call, snapshot: Snapshot, *, local: bool) -> Route | Shortage:
        decode = self._roomy(snapshot.decode, call)
        home = self._decode_policy.pick(self._acquainted(decode, snapshot), call) if decode else None
        if local:
            return self._alone(call, home, decode, snapshot, Reason.HANDOVER_FAILED)
        remote, reason, partners, learnt = self._judge(call, home, snapshot)
        if reason in MISSED and (paired := self._with_roomy_partner(decode, snapshot, call)):
            home = self._decode_policy.pick(paired, call)
            remote, reason, partners, learnt = self._judge(call, home, snapshot)
        passed_over = None
        if reason is Reason.SLOW_HANDOVER and learnt and (linked := _with_a_faster_link(decode, home, learnt)):
            other = self._decode_policy.pick(linked, call)
            there = self._judge(call, other, snapshot)
            if _is_better(there, learnt, self._rules):
                passed_over, home, (remote, reason, partners, _) = home, other, there
        if reason in NOVEL and (holder := self._aggregated_holder(call, snapshot)):
            return self._route(RouteKind.AGGREGATED, call, holder, None, Reason.CONTINUATION)
        if remote and home is not None:
            prefill = self._prefill_policy.pick(self._warm(partners, home), call)
            return self._route(RouteKind.DISAGGREGATED, call, home, prefill, reason, passed_over)
        if reason in MISSED and self._rules.on_prefill_unavailable == "fail":
            return _short_of_prefill(reason)
        return self._alone(call, home, decode, snapshot, reason)

    def _judge(self, call: Call, home: Backend | None, snapshot: Snapshot) -> Judgement:
        """What the rule says if `home` answers, and the prefill engines with room that should hand over to it."""
        partners = self._partners(home, snapshot.prefill) if home is not None else []
        roomy = self._roomy(partners, call)
        facts, pools = self._facts(call, home), Pools(bool(partners), bool(roomy), home is not None, snapshot.inflight)
        if home is None or not home.links or self._rules.rule != "learnt":
            return *self._rule(call, facts, pools, self.rules_of(call), None), roomy, None
        able, learnt = quick(roomy, home, snapshot.at), None
        if goes_by_times(call, facts, self._rules):
            held = self.prefixes.held(call) if self.prefixes else {}
            learnt = times(call, home, able or partners, held, self._rules, snapshot.at)
        remote, reason = self._rule(call, facts, pools, self.rules_of(call), learnt)
        if call.stream and (remote or reason in WEIGHED):  # of a complete answer the hand-over cannot be timed
            novel = max(0, call.prompt_tokens - facts.cached_tokens)
            tried = to_try(roomy, home, novel, self._rules, snapshot.at, reason)
            if tried is not None:
                return True, Reason.TRIAL, [tried], learnt
        return remote, reason, able, learnt

    def _acquainted(self, decode: Sequence[Backend], snapshot: Snapshot) -> Sequence[Backend]:
        """Those that have met a prefill engine, if there are any."""
        cold = self._cold()
        if not cold:
            return decode
        met = [d for d in decode if any((p.id, d.id) not in cold for p in self._partners(d, snapshot.prefill))]
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
        return [d for d in decode if self._partners(d, prefill)]

    def _aggregated_holder(self, call: Call, snapshot: Snapshot) -> Backend | None:
        """The aggregated engine on which a prompt that is new to decode is no news, if there is one."""
        if not snapshot.aggregated or self.prefixes is None or self.rules_of(call).mode != "auto":
            return None
        aggregated = self._roomy(snapshot.aggregated, call)
        if not aggregated:
            return None
        best = self._decode_policy.pick(aggregated, call)
        return best if not is_novel(call, self._cached_tokens(call, best), self._rules) else None

    def _route(
        self,
        kind: RouteKind,
        call: Call,
        decode: Backend,
        prefill: Backend | None,
        reason: Reason,
        passed_over: Backend | None = None,
    ) -> Route:
        cached = self._cached_tokens
        return Route(kind, decode, prefill, reason, cached(call, decode), cached(call, prefill), passed_over)

    def _alone(
        self, call: Call, home: Backend | None, decode: Sequence[Backend], snapshot: Snapshot, reason: Reason
    ) -> Route | Shortage:
        """One engine does both phases: the decode engine that holds the prompt's beginning; else an aggregated one if
        there is one with room, else a decode engine.
        """
        passed_over = home if reason in WEIGHED else None
        aggregated = () if reason is Reason.CONTINUATION else self._roomy(snapshot.aggregated, call)
        if aggregated:
            best = self._decode_policy.pick(aggregated, call)
            return self._route(RouteKind.AGGREGATED, call, best, None, reason, passed_over)
        bounded = self._is_bounded(snapshot, reason)
        if home is not None and home.paired.decodes_alone and (not bounded or self._has_budget(home, call)):
            return self._route(RouteKind.LOCAL, call, home, None, reason, passed_over)
        able = [backend for backend in decode if backend.paired.decodes_alone]
        if able and bounded:
            able = [backend for backend in able if self._has_budget(backend, call)]
            if not able:
                return _short_of_prefill(reason)
        if able:
            return self._route(RouteKind.LOCAL, call, self._decode_policy.pick(able, call), None, reason, passed_over)
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

    def _roomy(self, backends: Sequence[Backend], call: Call) -> Sequence[Backend]:
        return self._with_room(backends, call.prompt_tokens)


def _with_a_faster_link(decode: Sequence[Backend], home: Backend | None, here: Times) -> list[Backend]:
    """Engines to which KV comes far faster than to `home`, where that is known; else all that have a known link."""
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
