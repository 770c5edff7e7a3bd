from typing import get_args

import pytest
from pydantic import ValidationError

from router.settings.routing import Mode, PolicyName, Routing


@pytest.mark.parametrize("mode", get_args(Mode))
def test_any_mode_can_be_compared_with_any(mode: Mode) -> None:
    assert Routing(mode=mode, mode_share=0.5, mode_otherwise=mode).mode == mode


@pytest.mark.parametrize("policy", get_args(PolicyName))
def test_each_pool_has_a_policy_of_its_own(policy: PolicyName) -> None:
    rules = Routing(prefill_policy=policy)
    assert (rules.prefill_policy, rules.decode_policy) == (policy, "prefix_aware")


@pytest.mark.parametrize("rules", [{"mode_share": 1.1}, {"min_novel_ratio": -0.1}, {"stall_weight": -1}])
def test_shares_and_weights_have_bounds(rules: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match="or equal to"):
        Routing.model_validate(rules)


def test_what_is_too_short_to_hand_over_is_not_long() -> None:
    rules = Routing()
    assert rules.min_novel_tokens < rules.max_local_tokens < rules.long_prompt_tokens
