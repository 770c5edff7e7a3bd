"""The engine that holds the prompt's beginning, unless that means waiting much longer than elsewhere.

Each engine has a cost in tokens: what it has to do, less what it holds of this prompt (where engines differ in speed:
what is left of the prompt included, by as much as each is slower); and a small part of what it was given lately, so
that in a quiet fleet, where nobody has anything to do, the few hundred tokens that all prompts share do not bring all
chats to the engine that had them first, and fill its cache while others' are empty.

Engines that hold nearly as much as the best are preferred, and the cheapest of them is taken: keeping together what
begins alike is worth more than this one prompt, as every further turn comes back there. The preference ends where it
costs too much: at `ttft_slack_s` of waiting, at some times of what is held, or where what is held is a small part of
the prompt. It ends as well where many prompts at once go on from the same beginning: what they have to compute apart is
more than computing that beginning a second time. Then the cheapest of all is taken, and holds the prompt from then on.
It ends for one prompt at a time, never for everybody.

llm-d's affinity filter and token load, and the cost of Dynamo's KV router, are the models.
"""

import random
from collections.abc import Sequence
from math import inf

from router.call import Call
from router.fleet.backend import Backend
from router.routing.policies.burden import line_tokens, slowness, slowness_for_pick
from router.routing.policies.weights import Weights
from router.routing.prefix.given import REMEMBERED
from router.routing.prefix.prefixes import Prefixes
from router.settings.routing import Routing

NEAR_SHARE = 0.8
"""Engines with at least this share of the best prefix are as good: what lacks is less than a detour costs."""

WORTH = 16
"""How often a prefix is expected to be of use where it is: chats have some ten turns."""

MIN_SHARE = 0.25
"""Of a prompt; a shorter prefix is rather one that all have than the chat's own, and says little of where it lives."""

GIVEN_WORTH = 1 / REMEMBERED
"""Of what an engine was given lately, as cost: one that was given twice the mean is one average prompt behind."""


class PrefixAware:
    """Longest prefix against token load; ties at random, so that gateways side by side do not all pick the same one."""

    def __init__(self, prefixes: Prefixes, rules: Routing, rng: random.Random) -> None:
        self._prefixes = prefixes
        self._slack_tokens = rules.ttft_slack_s * rules.prefill_tokens_per_s
        self._rng = rng

    def pick(self, candidates: Sequence[Backend], call: Call) -> Backend:
        """The cheapest of the candidates that hold most, or of all where those cost too much."""
        if len(candidates) == 1:
            return candidates[0]
        costs = self._costs(candidates, call, slowness_for_pick(candidates, self._rng))
        least = min(costs)
        if costs.count(least) == 1:
            return candidates[costs.index(least)]
        return self._rng.choice([engine for engine, cost in zip(candidates, costs, strict=True) if cost == least])

    def took(self, call: Call, engine: Backend) -> None:
        """The index tells."""

    def weigh(self, candidates: Sequence[Backend], call: Call) -> Weights[float]:
        """Costs in tokens, infinite for those that hold too little while others are preferred."""
        slow, held = slowness(candidates), self._prefixes.held(call)
        parts: dict[str, Sequence[object]] = {
            "pending_tokens": line_tokens(candidates),
            "given_tokens": self._prefixes.index.given.lately(candidates, GIVEN_WORTH),
            "held_tokens": [held.get(engine, 0) for engine in candidates],
            "slowness": slow or [1.0] * len(candidates),
        }
        return Weights(self._costs(candidates, call, slow), parts)

    def _costs(self, candidates: Sequence[Backend], call: Call, slow: Sequence[float] | None) -> list[float]:
        held, tokens = self._prefixes.held(call), call.prompt_tokens
        holds = [held.get(engine, 0) for engine in candidates]
        given = self._prefixes.index.given.lately(candidates, GIVEN_WORTH)
        loads = zip(line_tokens(candidates), given, holds, strict=True)
        if slow is None:  # the prompt would be the same for all
            costs = [pending + given - hold for pending, given, hold in loads]
        else:
            pace = zip(loads, slow, strict=True)
            costs = [times * (pending + tokens - hold) + given for (pending, given, hold), times in pace]
        best = max(holds)
        if best < MIN_SHARE * tokens or self._is_crowded(call, candidates[holds.index(best)], best):
            return costs
        return self._preferred(holds, costs, best)

    def _is_crowded(self, call: Call, holder: Backend, best: float) -> bool:
        """Whether so much is under way from the same beginning that another engine had better have it, too."""
        apart = call.prompt_tokens - best
        return best > 0 and apart > 0 and self._prefixes.crowd(call, holder) * apart > best

    def _preferred(self, holds: list[float], costs: list[float], best: float) -> list[float]:
        """The costs, infinite for engines that hold too little while there are others that do not cost too much."""
        enough = NEAR_SHARE * best
        near = [cost if hold >= enough else inf for cost, hold in zip(costs, holds, strict=True)]
        more = min(near) - min(costs)
        return near if more <= self._slack_tokens and more <= WORTH * best else costs
