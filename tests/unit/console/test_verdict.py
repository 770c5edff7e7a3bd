from typing import Any

import pytest

from router.console.verdict import Level, PoolNow, verdict
from router.settings.engines import Role

P, D, A = Role.PREFILL, Role.DECODE, Role.AGGREGATED


def pool(role: Role, **facts: Any) -> PoolNow:
    return PoolNow(**{"engines": 2, "usable": 2, "stuck": 0, "waiting": 0, "load_engines": 0.5} | facts, role=role)


@pytest.mark.parametrize(
    ("pools", "level", "culprit", "why"),
    [
        ([pool(P), pool(D)], Level.OK, None, "nobody waits"),
        ([pool(P, waiting=3), pool(D)], Level.SHORT, P, "3 requests in line for a prefill engine"),
        ([pool(P, waiting=3), pool(D, waiting=4)], Level.SHORT, D, "4 requests in line"),
        ([pool(P, waiting=3), pool(D, waiting=3)], Level.SHORT, D, "in line for a decode engine"),
        ([pool(P, usable=1), pool(D)], Level.TIGHT, P, "1 of 2 engines out"),
        ([pool(P, usable=1, waiting=1), pool(D)], Level.SHORT, P, "1 request in line for a prefill engine; 1 of 2"),
        ([pool(P, stuck=1), pool(D)], Level.TIGHT, P, "1 engine without a sign of work"),
        ([pool(P, usable=0), pool(D)], Level.SHORT, P, "decode computes prompts"),
        ([pool(P), pool(D, usable=0)], Level.SHORT, D, "requests get 503"),
        ([pool(D, usable=0), pool(A)], Level.SHORT, D, "others answer"),
        ([pool(P), pool(D, load_engines=1.7)], Level.TIGHT, D, "nearly full"),
        ([pool(P), pool(D, load_engines=2.1)], Level.SHORT, D, "more to do than its engines can"),
        ([pool(P, load_engines=None), pool(D, load_engines=None)], Level.OK, None, "nobody waits"),
        ([pool(P, wait_share=0.3), pool(D)], Level.TIGHT, P, "30% of the time to a first token"),
        ([pool(P, wait_share=0.6), pool(D, usable=1)], Level.SHORT, P, "60% of the time to a first token"),
        ([pool(P, wait_share=0.2), pool(D)], Level.OK, None, "nobody waits"),
        ([pool(P, missed=1), pool(D)], Level.TIGHT, P, "decode computed 1 prompt in its stead"),
        ([pool(A, waiting=2)], Level.SHORT, A, "an aggregated engine"),
        ([pool(P, engines=0, usable=0), pool(D)], Level.OK, None, "nobody waits"),
        ([], Level.SHORT, D, "no engine that could answer"),
    ],
)
def test_the_worst_pool_is_named_with_all_that_is_wrong(
    pools: list[PoolNow], level: Level, culprit: Role | None, why: str
) -> None:
    found = verdict(pools)
    assert (found.level, found.pool) == (level, culprit)
    assert why in found.why
