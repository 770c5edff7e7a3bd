"""Why does a call go where it goes? What the pool's policies and the rule were asked, and what they said.

The routing that is explained is the one that routes: its policies and its rule are watched while it decides, and
whatever they are given is kept as it is, so that a new input of the rule is a new line of the explanation.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from router.call import Call
from router.fleet.backend import Backend
from router.routing.disaggregation import Reason
from router.routing.policies import Policy
from router.routing.policies.weights import Weights
from router.routing.route import Route, Shortage
from router.settings.engines import Role
from router.settings.routing import PolicyName, Routing

Rule = Callable[..., tuple[bool, Reason]]


@dataclass(frozen=True, slots=True)
class Judgement:
    """The rule's answer, and the facts by which it was found."""

    remote: bool
    reason: Reason
    facts: Sequence[object]


@dataclass(frozen=True, slots=True)
class Pick:
    """One choice among candidates of a pool: what each cost, and which was taken."""

    pool: Role
    policy: PolicyName
    candidates: Sequence[Backend]
    weights: Weights[Any]
    picked: Backend


@dataclass(frozen=True, slots=True)
class Explanation:
    """What a call would get now, by which rules, and all that was asked on the way there, in order."""

    outcome: Route | Shortage
    rules: Routing
    judgements: Sequence[Judgement]
    picks: Sequence[Pick]


@dataclass(slots=True)
class Witness:
    """Stands between a choice and what it asks, and keeps what was asked and answered."""

    judgements: list[Judgement] = field(default_factory=list)
    picks: list[Pick] = field(default_factory=list)

    def rule(self, rule: Rule) -> Rule:
        """A rule whose answers are kept."""

        def witnessed(call: Call, *facts: object) -> tuple[bool, Reason]:
            remote, reason = rule(call, *facts)
            self.judgements.append(
                Judgement(
                    remote, reason, [fact for fact in facts if fact is not None and not isinstance(fact, Routing)]
                )
            )
            return remote, reason

        return witnessed

    def policy(self, name: PolicyName, policy: Policy) -> Policy:
        """A policy whose choices are kept."""
        return _Witnessed(self.picks, name, policy)


@dataclass(frozen=True, slots=True)
class _Witnessed:
    """A policy that is looked at. It is told of nothing, as nothing is sent."""

    picks: list[Pick]
    name: PolicyName
    policy: Policy

    def pick(self, candidates: Sequence[Backend], call: Call) -> Backend:
        weights, picked = self.policy.weigh(candidates, call), self.policy.pick(candidates, call)
        self.picks.append(Pick(candidates[0].role, self.name, candidates, weights, picked))
        return picked

    def took(self, call: Call, engine: Backend) -> None:
        pass

    def weigh(self, candidates: Sequence[Backend], call: Call) -> Weights[Any]:
        return self.policy.weigh(candidates, call)


@contextmanager
def unmoved(rng: random.Random) -> Iterator[None]:
    """A block after which a random source goes on as if the block had not been."""
    state = rng.getstate()
    try:
        yield
    finally:
        rng.setstate(state)
