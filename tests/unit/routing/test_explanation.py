import random
from dataclasses import dataclass

from router.call import Call
from router.routing.disaggregation import Reason
from router.routing.explanation import Witness, unmoved
from router.routing.policies.round_robin import RoundRobin
from router.settings.engines import Role
from router.settings.routing import Routing
from tests.support.builders import a_backend, a_call

ENGINES = [a_backend("prefill", port) for port in (1, 2, 3)]


def test_a_policy_that_is_witnessed_picks_as_it_would_and_is_told_of_nothing() -> None:
    witness, policy, call = Witness(), RoundRobin(), a_call()
    policy.took(call, ENGINES[0])
    witnessed = witness.policy("round_robin", policy)
    assert witnessed.pick(ENGINES, call) is policy.pick(ENGINES, call) is ENGINES[1]
    witnessed.took(call, ENGINES[1])
    assert policy.pick(ENGINES, call) is ENGINES[1]
    (pick,) = witness.picks
    assert (pick.pool, pick.policy, pick.candidates, pick.picked) == (Role.PREFILL, "round_robin", ENGINES, ENGINES[1])
    assert pick.weights == policy.weigh(ENGINES, call)


@dataclass(frozen=True)
class Weather:
    """A fact that no rule has yet."""

    rain: bool


def test_whatever_the_rule_is_given_is_kept() -> None:
    witness, call, rules = Witness(), a_call(), Routing()

    def rule(_: Call, weather: Weather, __: Routing) -> tuple[bool, Reason]:
        return weather.rain, Reason.NOVEL_PROMPT

    assert witness.rule(rule)(call, Weather(rain=True), rules) == (True, Reason.NOVEL_PROMPT)
    (judgement,) = witness.judgements
    assert (judgement.remote, judgement.reason, judgement.facts) == (True, Reason.NOVEL_PROMPT, [Weather(rain=True)])


def test_a_random_source_goes_on_as_if_nothing_had_been_drawn() -> None:
    rng, same = random.Random(1), random.Random(1)
    with unmoved(rng):
        rng.sample(range(100), 50)
    assert rng.random() == same.random()
