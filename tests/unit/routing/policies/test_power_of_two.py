import random

from router.routing.policies.power_of_two import PowerOfTwo
from tests.support.builders import a_backend, a_call


def test_of_two_engines_it_is_the_less_loaded() -> None:
    busy, free = a_backend(port=1, requests=3), a_backend(port=2)
    policy = PowerOfTwo(random.Random(1))
    assert {policy.pick([busy, free], a_call()) for _ in range(50)} == {free}


def test_a_lone_engine_is_picked() -> None:
    lone = a_backend(requests=99)
    assert PowerOfTwo(random.Random(1)).pick([lone], a_call()) is lone


def test_the_busiest_of_many_is_never_picked_and_the_others_share() -> None:
    engines = [a_backend(port=port, requests=port) for port in range(1, 5)]
    policy = PowerOfTwo(random.Random(1))
    picked = [policy.pick(engines, a_call()) for _ in range(600)]
    counts = [picked.count(engine) for engine in engines]
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] == 0
    assert 250 <= counts[0] <= 350  # in half of all pairs
    assert 60 <= counts[2] <= 140  # in a sixth


def test_the_same_seed_draws_the_same_engines() -> None:
    engines = [a_backend(port=port) for port in range(1, 9)]

    def draws(seed: int) -> list[str]:
        policy = PowerOfTwo(random.Random(seed))
        return [policy.pick(engines, a_call()).id for _ in range(20)]

    assert draws(1) == draws(1) != draws(2)
