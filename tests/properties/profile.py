"""How many examples: few enough for `make test`, the same each time; `PROPERTY_SCALE` says how many times as many."""

import os
import unittest
from typing import Any

import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine

SCALE = float(os.environ.get("PROPERTY_SCALE", "1"))
TIMEOUT_S = 600


def machine(kind: type[RuleBasedStateMachine], *, examples: int, steps: int) -> type[unittest.TestCase]:
    """The test of a state machine."""
    case: Any = kind.TestCase
    case.settings = settings(max_examples=max(1, round(examples * SCALE)), stateful_step_count=steps)
    case.pytestmark = [pytest.mark.timeout(TIMEOUT_S * max(1, SCALE))]
    return case  # type: ignore[no-any-return]
