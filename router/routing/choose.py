"""Where does a call go? Choosing is synchronous and touches no socket: a snapshot in, a route or a shortage out."""

import random
from collections.abc import Callable, Collection, Sequence

from router.call import Call
from router.fleet.backend import Backend
from router.fleet.fleet import Snapshot
from router.routing.disaggregation import Pools, Reason, decide
from router.routing.policies import policy
from router.routing.route import Route, Shortage
from router.settings import Mode, Role, Routing
from router.telemetry.events import RouteKind

Room = Callable[[Backend, int], bool]
Match = Callable[[Backend, Backend], bool]
Cold = Callable[[], Collection[tuple[str, str]]]


MISSED = (Reason.PREFILL_UNAVAILABLE, Reason.PREFILL_SATURATED)
"""The prompt should be computed by a prefill engine, and cannot be now."""


def same_group(prefill: Backend, decode: Backend) -> bool:
    """Engines hand over inside a group only; it is learnt from version and model, see `fleet.identity`."""
    return prefill.group == decode.group


class Chooser:
    """Applies the rule, then each pool's policy.

    `has_room` tells whether an engine may get one more request with so many prompt tokens, `pair_up` whether a prefill
    and a decode engine may hand over to each other, `cold` which of those, by id, have yet to meet: others are
    preferred.
    """

    def __init__(
        self,
        rules: Routing,
        has_room: Room,
        rng: random.Random,
        pair_up: Match = same_group,
        cold: Cold = frozenset,
    ) -> None:
        self._rules = rules
        self._has_room = has_room
        self._pair_up = pair_up
        self._cold = cold
        self._prefill_policy = policy(rules.prefill_policy, rng)
        self._decode_policy = policy(rules.decode_policy, rng)

    @property
    def mode(self) -> Mode:
        """`routing.mode`, as it is now."""
        return self._rules.mode

    @mode.setter
    def mode(self, mode: Mode) -> None:
        self._rules = self._rules.model_copy(update={"mode": mode})

    def choose(self, call: Call, snapshot: Snapshot, *, local: bool = False) -> Route | Shortage:
        """The route of `call` over the engines of `snapshot`, or the pool that is short.

        `local` forbids a hand-over: one has failed, and decode computing the prompt itself is always right.
        """
        decode = self._roomy(snapshot.decode, call)
        paired = [p for p in snapshot.prefill if any(self._pair_up(p, d) for d in decode)]
        prefill = self._warm_first(self._roomy(paired, call), decode)
        pools = Pools(bool(paired), bool(prefill), bool(decode), snapshot.inflight)
        remote, reason = (False, Reason.HANDOVER_FAILED) if local else decide(call, pools, self._rules)
        if remote:
            return self._disaggregated(call, prefill, decode, reason)
        if reason in MISSED and self._rules.on_prefill_unavailable == "fail":
            return _short_of_prefill(reason)
        return self._alone(call, decode, snapshot, reason)

    def _has_budget(self, backend: Backend, call: Call) -> bool:
        """Whether a decode engine may compute a prompt beside its streams that a prefill engine should have."""
        return backend.load.local_tokens + call.prompt_tokens <= self._rules.local_prefill_budget_tokens

    def _disaggregated(self, call: Call, prefill: Sequence[Backend], decode: Sequence[Backend], reason: str) -> Route:
        first = self._prefill_policy.pick(prefill, call)
        partners = [d for d in decode if self._pair_up(first, d)]
        second = self._decode_policy.pick(self._warm(first, partners) or partners, call)
        return Route(RouteKind.DISAGGREGATED, second, first, reason)

    def _warm_first(self, prefill: Sequence[Backend], decode: Sequence[Backend]) -> Sequence[Backend]:
        """Those that have met a partner, if there are any."""
        if not self._cold():
            return prefill
        return [p for p in prefill if any(self._pair_up(p, d) for d in self._warm(p, decode))] or prefill

    def _warm(self, prefill: Backend, decode: Sequence[Backend]) -> Sequence[Backend]:
        """Those of `decode` that have met a prefill engine."""
        cold = self._cold()
        return [d for d in decode if (prefill.id, d.id) not in cold] if cold else decode

    def _alone(self, call: Call, decode: Sequence[Backend], snapshot: Snapshot, reason: Reason) -> Route | Shortage:
        """One engine does both phases: an aggregated one if there is one with room, else a decode engine."""
        if aggregated := self._roomy(snapshot.aggregated, call):
            return Route(RouteKind.AGGREGATED, self._decode_policy.pick(aggregated, call), None, reason)
        able = [backend for backend in decode if backend.paired.decodes_alone]
        if able and self._is_bounded(snapshot, reason):
            able = [backend for backend in able if self._has_budget(backend, call)]
            if not able:
                return _short_of_prefill(reason)
        if able:
            return Route(RouteKind.LOCAL, self._decode_policy.pick(able, call), None, reason)
        saturated = bool(snapshot.decode or snapshot.aggregated)
        why = Reason.DECODE_SATURATED if saturated else Reason.DECODE_UNAVAILABLE
        return Shortage(Role.DECODE, saturated=saturated, reason=why)

    def _is_bounded(self, snapshot: Snapshot, reason: Reason) -> bool:
        """Whether decode only stands in for prefill engines; a fleet that has none computes all prompts that way."""
        stands_in = reason in MISSED or reason is Reason.HANDOVER_FAILED
        return stands_in and snapshot.prefill_known and self._rules.on_prefill_unavailable == "local_if_small"

    def _roomy(self, backends: Sequence[Backend], call: Call) -> list[Backend]:
        return [backend for backend in backends if self._has_room(backend, call.prompt_tokens)]


def _short_of_prefill(reason: Reason) -> Shortage:
    """Waiting helps where prefill engines are only full."""
    saturated = reason is Reason.PREFILL_SATURATED
    return Shortage(Role.PREFILL, saturated=saturated, reason=reason if saturated else Reason.PREFILL_UNAVAILABLE)
