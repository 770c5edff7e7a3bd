"""Do the dashboards, rules and runbook fit the metrics, and each other? The live part is in tests/observability."""

import json
import re
from collections.abc import Sequence
from typing import Any

import pytest
import yaml

from deploy.grafana.__main__ import FOLDER, rendered
from tests.support.expressions import RULES, Asked, groupings, names, of_dashboards, of_rules, selectors
from tests.support.tree import ROOT

OF_PROMETHEUS = {"up"}
LABELS_OF_PROMETHEUS = {"job", "instance"}

ASKED = [*of_dashboards(), *of_rules()]

RUNBOOK = ROOT / "docs/operations.md"


def documented() -> dict[str, set[str]]:
    """Every series that the page of metrics promises, with its labels."""
    page = (ROOT / "docs/metrics.md").read_text(encoding="utf-8")
    series: dict[str, set[str]] = {}
    for name, kind, listed in re.findall(
        r"^\| (\w+) \| (counter|gauge|histogram|summary) \| ([\w, -]+?) \|", page, re.MULTILINE
    ):
        labels = set(listed.split(", ")) - {"-"}
        match kind:
            case "histogram":
                series |= {f"{name}_sum": labels, f"{name}_count": labels, f"{name}_bucket": labels | {"le"}}
            case "summary":
                series |= {f"{name}_sum": labels, f"{name}_count": labels}
            case _:
                series[name] = labels
    return {f"pd_router_{name}": labels for name, labels in series.items()}


def headings() -> set[str]:
    """The anchors of the runbook's page, as GitHub and Grafana's Markdown make them."""
    found = re.findall(r"^#+ (.+)$", RUNBOOK.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in found}


def rules(kind: str) -> Sequence[dict[str, Any]]:
    """All rules that are alerts, or that record."""
    groups = [group for path in RULES.glob("*.yml") for group in yaml.safe_load(path.read_text())["groups"]]
    return [rule for group in groups for rule in group["rules"] if kind in rule]


def test_the_dashboards_are_what_the_code_makes() -> None:
    written = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.json")}
    assert written == rendered(), "run: .venv/bin/python -m deploy.grafana"


def known() -> dict[str, set[str]]:
    """Every series that can be asked for, with its labels."""
    recorded: dict[str, set[str]] = {rule["record"]: {"pool", "backend", "instance"} for rule in rules("record")}
    series = documented() | recorded | {name: set() for name in OF_PROMETHEUS}
    return {name: labels | LABELS_OF_PROMETHEUS for name, labels in series.items()}


@pytest.mark.parametrize("asked", ASKED, ids=str)
def test_every_metric_and_label_exists(asked: Asked) -> None:
    series = known()
    for selector in selectors(asked.expr):
        assert selector.name in series
        assert {matcher.name for matcher in selector.matchers.matchers} <= series[selector.name]


@pytest.mark.parametrize("asked", ASKED, ids=str)
def test_what_is_grouped_by_exists(asked: Asked) -> None:
    series = known()
    wrong = [(labels, name) for labels, metrics in groupings(asked.expr) for name in metrics if labels - series[name]]
    assert wrong == []


@pytest.mark.parametrize("asked", list(of_dashboards()), ids=str)
def test_a_legend_has_what_its_lines_have(asked: Asked) -> None:
    grouped = groupings(asked.expr)
    lines = grouped[0][0] if grouped else set.union(*(known()[name] for name in names(asked.expr)))
    assert set(re.findall(r"{{(\w+)}}", asked.legend)) <= lines


def test_what_is_no_promql_or_no_metric_is_found() -> None:
    with pytest.raises(ValueError, match="unclosed"):
        names("sum by (pool) rate(")
    assert names("sum(rate(a[5m])) / on () max(b{c='d'}) or vector(0)") == {"a", "b"}
    assert "pd_router_requests_sum" not in documented()


def test_every_recorded_series_is_used() -> None:
    read = set.union(*(names(asked.expr) for asked in ASKED))
    assert {rule["record"] for rule in rules("record")} - read == set()


def test_every_alert_has_its_runbook_entry() -> None:
    for alert in rules("alert"):
        page, anchor = alert["annotations"]["runbook"].split("#")
        assert (ROOT / page, anchor) == (RUNBOOK, alert["alert"].lower())
        assert anchor in headings()
        assert alert["labels"]["severity"] in ("page", "ticket")


def test_every_alert_has_its_cases() -> None:
    cases = [
        case for path in (RULES.parent / "tests").glob("*.yml") for case in yaml.safe_load(path.read_text())["tests"]
    ]
    expected: dict[str, set[bool]] = {}
    for case in cases:
        for look in case["alert_rule_test"]:
            expected.setdefault(look["alertname"], set()).add(bool(look["exp_alerts"]))
    assert expected == {alert["alert"]: {True, False} for alert in rules("alert")}, "fires, and clears"


def test_every_panel_says_what_to_do_and_where() -> None:
    panels = [panel for path in FOLDER.glob("*.json") for panel in json.loads(path.read_text())["panels"]]
    shown = [panel for panel in panels if panel["type"] != "row"]
    assert len(shown) > 30
    for panel in shown:
        assert len(panel["description"]) > 40, panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        page, anchor = panel["links"][0]["url"].split("#")
        assert (page, anchor in headings()) == ("${runbook:raw}", True), panel["links"]


def test_panels_and_their_queries_can_be_told_apart() -> None:
    for path in FOLDER.glob("*.json"):
        panels = json.loads(path.read_text())["panels"]
        assert sorted(panel["id"] for panel in panels) == list(range(1, len(panels) + 1))
        for panel in panels:
            names_of_queries = [target["refId"] for target in panel.get("targets", ())]
            assert names_of_queries == list("ABCDEF"[: len(names_of_queries)])


def test_the_data_source_samples_as_prometheus_scrapes() -> None:
    sources = yaml.safe_load((ROOT / "deploy/grafana/provisioning/datasources/prometheus.yml").read_text())
    scraped = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
    assert sources["datasources"][0]["jsonData"]["timeInterval"] == scraped["global"]["scrape_interval"]
    assert {job["job_name"] for job in scraped["scrape_configs"]} == {"pd-router"}, "the alerts look for this job"
