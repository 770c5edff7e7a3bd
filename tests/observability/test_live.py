"""Does Prometheus get what the dashboards and the rules ask for, and does an alert come and go with its cause?"""

import time

import httpx
import pytest

from router.sim.faults import Fault
from tests.observability.stack import SCRAPE_S, Stack, until
from tests.support.expressions import Asked, names, of_dashboards, of_rules

pytestmark = pytest.mark.timeout(300)

WINDOW = f"{8 * SCRAPE_S:g}s"
SEEN_WITHIN_S = 60

LATE_S = 2.5
"""The objective of the recording rules."""

FIRST_TOKEN = f"""histogram_quantile(0.99,
    sum by (le) (rate(pd_router_ttft_seconds_bucket{{route="disaggregated"}}[{WINDOW}])))"""
RUNNING, WAITING = ('pd_router_engine_running{{backend="{}"}}', 'pd_router_engine_waiting{{backend="{}"}}')
USABLE = 'min(pd_router_backend_up{{backend="{}"}})'
FAILED = 'sum(pd_router_requests_total{outcome=~"upstream_error|timeout"}) or vector(0)'


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


def test_a_frozen_prefill_engine_from_the_first_sign_to_the_last(stack: Stack) -> None:
    frozen = stack.of_role("prefill")[0]
    alert = ("PdRouterEngineOut", frozen.id)
    until(lambda: alert not in stack.firing() and stack.well(), "quiet", SEEN_WITHIN_S)
    until(lambda: stack.now(FIRST_TOKEN) < LATE_S, "fast first tokens", SEEN_WITHIN_S)
    failed = stack.now(FAILED)

    account = Account()
    frozen.add(Fault("freeze"))
    until(lambda: stack.now(FIRST_TOKEN) > LATE_S, "the panel Time to first token", SEEN_WITHIN_S)
    account.tell(f"p99 of first tokens is over {LATE_S:g} s")
    until(lambda: stack.fleet(frozen)["state"] == "ejected", "the gateway to take it out", SEEN_WITHIN_S)
    account.tell(f"/fleet says ejected: {stack.fleet(frozen)['why']}")
    until(lambda: alert in stack.firing(), "the alert to fire", SEEN_WITHIN_S)
    account.tell(f"firing: {', '.join(sorted(' '.join(one).strip() for one in stack.firing()))}")
    assert httpx.get(f"{frozen.url}/health").status_code == 200
    until(lambda: stack.now(USABLE.format(frozen.id)) == 0, "the panel Usable", SEEN_WITHIN_S)
    until(lambda: stack.now(WAITING.format(frozen.id)) > 0, "the panel Waiting in the engine", SEEN_WITHIN_S)
    account.tell(
        f"its /health says 200; waiting in it {stack.now(WAITING.format(frozen.id)):g}, "
        f"running {stack.now(RUNNING.format(frozen.id)):g}"
    )
    until(lambda: stack.now(FIRST_TOKEN) < LATE_S, "first tokens to be fast again", SEEN_WITHIN_S)
    account.tell("p99 of first tokens is back, by way of the other engine")

    stack.operate(frozen, "drain")
    frozen.kill()
    frozen.start()
    stack.operate(frozen, "enable")
    account.tell("drained, killed, started, enabled")
    until(lambda: stack.fleet(frozen)["state"] == "up", "the engine to be used again", SEEN_WITHIN_S)
    share = stack.fleet(frozen)["share"]
    account.tell(f"/fleet says up, with {share:.0%} of its share")
    assert share < 1
    until(lambda: alert not in stack.firing(), "the alert to clear", SEEN_WITHIN_S)
    account.tell("the alert is cleared")
    assert stack.now(FAILED) == failed, "no client was told of it"
    account.tell("no client was told of any of it")


class Account:
    """What happened when; `make test-observability` prints it."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def tell(self, what: str) -> None:
        """One line."""
        print(f"\n{time.monotonic() - self._began:6.1f} s  {what}", end="")
