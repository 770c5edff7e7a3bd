"""What do the dashboards and the rules ask Prometheus?"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import promql_parser
import yaml

from tests.support.tree import ROOT

DASHBOARDS = ROOT / "deploy/grafana/dashboards"
RULES = ROOT / "deploy/prometheus/rules"

ALL = ".*"
"""What Grafana puts for a variable with every value chosen."""


@dataclass(frozen=True, slots=True)
class Asked:
    """An expression and where it stands. `alert` or `record`: the rule's name, none in a dashboard.

    `legend`: how a panel names its lines.
    """

    where: str
    expr: str
    alert: str = ""
    record: str = ""
    legend: str = ""

    def __str__(self) -> str:
        return self.where


def of_dashboards(window: str = "1m") -> Iterator[Asked]:
    """Every panel's expressions, with variables as Grafana replaces them; rates are taken over `window`."""
    for path in sorted(DASHBOARDS.glob("*.json")):
        board = json.loads(path.read_text(encoding="utf-8"))
        chosen = dict(_chosen(board)) | {"__rate_interval": window, "__range": window}
        for panel in board["panels"]:
            for target in panel.get("targets", ()):
                expr, legend = _replaced(target["expr"], chosen), target["legendFormat"]
                yield Asked(f"{board['title']} / {panel['title']}", expr, legend=legend)


def _chosen(board: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for variable in board["templating"]["list"]:
        yield variable["name"], variable["query"] if variable["type"] == "textbox" else ALL


def _replaced(expr: str, chosen: dict[str, str]) -> str:
    return re.sub(r"\$(\w+)", lambda match: chosen[match[1]], expr)


def of_rules(folder: Path = RULES) -> Iterator[Asked]:
    """Every rule's expression."""
    for path in sorted(folder.glob("*.yml")):
        for group in yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]:
            for rule in group["rules"]:
                alert, record = rule.get("alert", ""), rule.get("record", "")
                yield Asked(f"{path.name}: {alert or record}", rule["expr"], alert, record)


def selectors(expr: str) -> list[promql_parser.VectorSelector]:
    """The selectors in an expression. Raises ValueError when it is no PromQL."""
    found: list[promql_parser.VectorSelector] = []

    def visit(node: promql_parser.Expr) -> None:
        if isinstance(node, promql_parser.VectorSelector):
            found.append(node)
        elif isinstance(node, promql_parser.MatrixSelector):
            found.append(node.vector_selector)

    promql_parser.walk(promql_parser.parse(expr), visit)
    return found


def groupings(expr: str) -> list[tuple[set[str], set[str]]]:
    """What an expression groups by, from the outside in: the labels, and the metrics that have to have them."""
    found: list[tuple[set[str], set[str]]] = []

    def visit(node: promql_parser.Expr) -> None:
        if isinstance(node, promql_parser.AggregateExpr) and node.modifier is not None:
            found.append((set(node.modifier.labels), names(str(node.expr))))

    promql_parser.walk(promql_parser.parse(expr), visit)
    return found


def names(expr: str) -> set[str]:
    """The metrics that an expression reads."""
    return {selector.name for selector in selectors(expr) if selector.name}
