"""Which of several engines? Each pool has its own policy."""

import random
from collections.abc import Sequence
from typing import Any, Protocol

from router.call import Call
from router.fleet.backend import Backend
from router.routing.policies.least_loaded import LeastLoaded
from router.routing.policies.power_of_two import PowerOfTwo
from router.routing.policies.prefix_aware import PrefixAware
from router.routing.policies.round_robin import RoundRobin
from router.routing.policies.session import Session
from router.routing.policies.weights import Weights
from router.routing.prefix.prefixes import Prefixes
from router.settings.routing import PolicyName, Routing


class Policy(Protocol):
    """Picks one of the candidates, of which there is at least one; all of them are usable and have room.

    Asking changes nothing but the random source; what a policy remembers, it is told by `took`.
    """

    def pick(self, candidates: Sequence[Backend], call: Call) -> Backend:
        """The engine that `call` should go to."""

    def took(self, call: Call, engine: Backend) -> None:
        """`call` goes to an engine of the pool, whoever chose it."""

    def weigh(self, candidates: Sequence[Backend], call: Call) -> Weights[Any]:
        """What `pick` goes by: it takes the cheapest, where costs are equal as the policy says."""


def policy(name: PolicyName, rules: Routing, rng: random.Random, prefixes: Prefixes | None = None) -> Policy:
    """A new policy by its name in the settings. `prefixes` knows what engines hold."""
    match name:
        case "round_robin":
            return RoundRobin()
        case "least_loaded":
            return LeastLoaded(rng)
        case "power_of_two":
            return PowerOfTwo(rng)
        case "session":
            return Session(rules, rng)
        case "prefix_aware":
            assert prefixes is not None, "what engines hold is not written down"
            return PrefixAware(prefixes, rules, rng)
