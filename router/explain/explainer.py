"""The whole story of a decision that is not carried out, as a tree: what came out, and everything it came from."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from math import isfinite
from typing import Any

from router.admission.line import Line
from router.admission.permits import Permits
from router.call import Call
from router.fleet.backend import Backend
from router.fleet.fleet import Fleet
from router.fleet.pairs import Pairs
from router.routing.choose import Chooser
from router.routing.explanation import Explanation, Pick
from router.routing.route import Route, Shortage
from router.settings.engines import Role
from router.settings.routing import Mode
from router.telemetry.events import Clock

Tree = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Explainer:
    """Asks the routing about a call, and the rooms around it what the routing goes by. Changes nothing."""

    fleet: Fleet
    chooser: Chooser
    permits: Permits
    line: Line
    pairs: Pairs
    clock: Clock

    def explain(self, call: Call, mode: Mode | None = None) -> Tree:
        """What would become of a call now, and why; in some `mode`, else in the one that it has.

        Raises `UnknownModel`.
        """
        explained = self.chooser.explain(call, self.fleet.snapshot(call.model, at=self.clock()).of_known_model(), mode)
        return {
            "outcome": self._outcome(call, explained.outcome),
            "request": self._request(call),
            "mode": {"of_this_request": explained.rules.mode} | asdict(self.chooser.modes),
            "rules": explained.rules.model_dump(exclude={"mode", "mode_share", "mode_otherwise"}),
            "judgements": list(_judgements(explained)),
            "picks": [_pick(pick) for pick in explained.picks],
            "engines": [self._engine(engine, call) for engine in self.fleet.backends if call.model in engine.models],
            "pairs": self._pairs(),
        }

    def _outcome(self, call: Call, outcome: Route | Shortage) -> Tree:
        """Sent, or made to wait, or refused."""
        if isinstance(outcome, Shortage):
            told = {"route": None, "reason": outcome.reason, "waits_for": outcome.pool if outcome.saturated else None}
            return {"would": "wait" if outcome.saturated else "be refused"} | told
        others = self.line.before(call.model, outcome.draws_on)
        return {
            "would": "wait" if others else "be sent",
            "route": outcome.kind.value,
            "reason": str(outcome.reason),
            "prefill": outcome.prefill.id if outcome.prefill else None,
            "decode": outcome.decode.id,
            "prefill_cached_tokens": outcome.prefill_cached_tokens,
            "decode_cached_tokens": outcome.decode_cached_tokens,
            "waits_for": others,
        }

    def _request(self, call: Call) -> Tree:
        blocks = call.blocks
        return {
            "api": call.api.label,
            "model": call.model,
            "stream": call.stream,
            "max_tokens": call.max_tokens,
            "session": call.session,
            "undisaggregatable": call.undisaggregatable,
            "prompt_bytes": call.prompt_bytes,
            "prompt_tokens": call.prompt_tokens,
            "blocks": len(blocks.hashes) if blocks else None,
            "tokens_per_block": round(blocks.tokens_each, 1) if blocks else None,
        }

    def _engine(self, engine: Backend, call: Call) -> Tree:
        prefixes, standing, load = self.chooser.prefixes, engine.standing, engine.load
        return {
            "id": engine.id,
            "role": engine.role.value,
            "group": engine.group,
            "state": standing.state.value,
            "why": standing.why,
            "usable": standing.usable,
            "drained": standing.drained,
            "share": round(standing.share, 2),
            "room": self.permits.has_room(engine, call.prompt_tokens),
            "permits_taken": self.permits.taken(engine),
            "permits": self.permits.limit(engine) or None,
            "cached_tokens": prefixes.cached_tokens(call, engine) if prefixes else None,
            "cache_tokens": engine.cache_tokens,
        } | asdict(load)

    def _pairs(self) -> Tree:
        return {
            "quarantined": list(self.pairs.quarantined(self.clock())),
            "cold": [{"prefill": prefill, "decode": decode} for prefill, decode in sorted(self.pairs.cold)],
            "waiting": {role.value: self.line.depth(role) for role in Role},
        }


def _judgements(explained: Explanation) -> Iterator[Tree]:
    """Each answer of the rule, and its facts under their types' names: whatever it is given is told."""
    for judgement in explained.judgements:
        facts = {type(fact).__name__.lower(): _tree(fact) for fact in judgement.facts}
        yield {"disaggregate": judgement.remote, "reason": str(judgement.reason)} | facts


def _tree(fact: Any) -> Tree:  # noqa: ANN401 - whatever the rule is given, a dataclass or a named tuple
    return asdict(fact) if is_dataclass(fact) else dict(fact._asdict())  # type: ignore[arg-type]


def _pick(pick: Pick) -> Tree:
    candidates = [
        {"engine": engine.id} | {name: _figure(value) for name, value in pick.weights.of(number).items()}
        for number, engine in enumerate(pick.candidates)
    ]
    return {"pool": pick.pool.value, "policy": pick.policy, "picked": pick.picked.id, "candidates": candidates}


def _figure(value: object) -> object:
    """Rounded; what is infinite is None, as JSON has no word for it."""
    if isinstance(value, float):
        return round(value, 2) if isfinite(value) else None
    return list(map(_figure, value)) if isinstance(value, Sequence) else value
