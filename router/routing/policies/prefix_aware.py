"""The engine that holds the prompt's beginning, unless that means waiting much longer than elsewhere.

Each engine has a cost in tokens: what it has to do already, and what is new to it in this prompt. Engines that hold
nearly as much of the prompt as the best are preferred, and the cheapest of them is taken: keeping what begins alike in
one place is worth more than this one prompt, as every further turn comes back there. The preference ends where it costs
too much: at `ttft_slack_s` of waiting, or at some times of what the engine holds, so that a few hundred tokens that all
prompts share do not draw all of them to one engine. Then the cheapest of all is taken, which holds the prompt from then
on. It ends for one prompt at a time, never for everybody.

llm-d's affinity filter and token load, and the cost of Dynamo's KV router, are the models.
"""

import random
from collections.abc import Sequence

from router.call import Call
from router.fleet.backend import Backend
from router.routing.policies.least_loaded import pending_tokens
from router.routing.prefix.prefixes import Prefixes
from router.settings import Routing

NEAR_SHARE = 0.8
"""Engines with at least this share of the best prefix are as good: what lacks is less than a detour costs."""

WORTH = 16
"""How often a prefix is expected to be of use where it is: chats have some ten turns."""


class PrefixAware:
    """Longest prefix against token load; ties at random, so that gateways side by side do not all pick the same one."""

    def __init__(self, prefixes: Prefixes, rules: Routing, rng: random.Random) -> None:
        self._prefixes = prefixes
        self._slack_tokens = rules.ttft_slack_s * rules.prefill_tokens_per_s
        self._rng = rng

    def pick(self, candidates: Sequence[Backend], call: Call) -> Backend:
        """The cheapest of the candidates that hold most, or of all where those cost too much."""
        held = self._prefixes.held(call)
        holds = [held.get(engine, 0) for engine in candidates]
        costs = [pending_tokens(engine) - hold for engine, hold in zip(candidates, holds, strict=True)]
        best, least = max(holds), min(costs)
        near = [cost for cost, hold in zip(costs, holds, strict=True) if hold >= NEAR_SHARE * best]
        nearest = min(near)
        follow = nearest - least <= min(self._slack_tokens, WORTH * best)
        enough, cost = (NEAR_SHARE * best, nearest) if follow else (0, least)
        picked = [
            engine for engine, hold, its in zip(candidates, holds, costs, strict=True) if its == cost and hold >= enough
        ]
        return picked[0] if len(picked) == 1 else self._rng.choice(picked)
