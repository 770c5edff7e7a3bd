from router.routing.policies.weights import Weights


def test_a_candidate_has_its_own_cost_and_parts() -> None:
    weights = Weights([1.5, 2.5], {"held": [3, 4], "near": [True, False]})
    assert weights.of(0) == {"cost": 1.5, "held": 3, "near": True}
    assert weights.of(1) == {"cost": 2.5, "held": 4, "near": False}
