"""Does Prometheus get what the dashboards and the rules ask for, and does an alert come and go with its cause?"""

import pytest

from router.sim.faults import Fault
from tests.observability.stack import SCRAPE_S, Stack, until
from tests.support.expressions import Asked, names, of_dashboards, of_rules

pytestmark = pytest.mark.timeout(300)

WINDOW = f"{8 * SCRAPE_S:g}s"
SEEN_WITHIN_S = 60


@pytest.mark.parametrize("asked", list(of_dashboards(WINDOW)), ids=str)
def test_every_panel_has_data(stack: Stack, asked: Asked) -> None:
    until(lambda: stack.values(asked.expr), f"data for {asked.expr}", SEEN_WITHIN_S)


@pytest.mark.parametrize("metric", sorted(set.union(*(names(asked.expr) for asked in of_rules()))))
def test_every_metric_of_the_rules_has_data(stack: Stack, metric: str) -> None:
    until(lambda: stack.values(metric), metric, SEEN_WITHIN_S)


def test_every_rule_can_be_evaluated(stack: Stack) -> None:
    rules = [rule for group in stack.prometheus("rules")["groups"] for rule in group["rules"]]
    assert len(rules) == len(list(of_rules()))
    assert {(rule["name"], rule["health"], rule.get("lastError")) for rule in rules} == {
        (rule["name"], "ok", None) for rule in rules
    }


def test_a_frozen_prefill_engine_is_seen_and_its_restart_clears_the_alert(stack: Stack) -> None:
    frozen = stack.of_role("prefill")[0]
    alert = ("PdRouterEngineOut", frozen.id)
    until(lambda: alert not in stack.firing(), "the alerts of earlier faults to clear", SEEN_WITHIN_S)
    frozen.add(Fault("freeze"))
    noticed_s = until(lambda: stack.fleet(frozen)["state"] == "ejected", "the gateway to notice", SEEN_WITHIN_S)
    print(f"\nnoticed after {noticed_s:.1f} s: {stack.fleet(frozen)['why']}")
    fired_s = until(lambda: alert in stack.firing(), "the alert to fire", SEEN_WITHIN_S)
    print(f"fired {fired_s:.1f} s later, with {sorted(stack.firing())}")
    frozen.kill()
    frozen.start()
    cleared_s = until(lambda: alert not in stack.firing(), "the alert to clear", SEEN_WITHIN_S)
    print(f"cleared {cleared_s:.1f} s after the engine was started again: {stack.fleet(frozen)['state']}")
