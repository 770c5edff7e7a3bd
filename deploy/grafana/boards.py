"""What do all dashboards have in common? Their variables, links, and rows of panels."""

import itertools
from collections.abc import Mapping, Sequence

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DashboardLinkType,
    VariableOption,
    VariableRefresh,
    VariableSort,
)

from deploy.grafana.panels import DATASOURCE, Panel

TAG = "pd-router"

RUNBOOK = "/public/pd-router/operations.md"
"""Where the compose files have Grafana serve docs/operations.md; put the page's address at your place here."""

Rows = Mapping[str, Sequence[Panel]]
Variable = dashboard.QueryVariable | dashboard.DatasourceVariable | dashboard.TextBoxVariable


def board(uid: str, title: str, about: str, variables: Sequence[Variable], rows: Rows) -> dashboard.Dashboard:
    """A dashboard of rows of panels."""
    made = dashboard.Dashboard(f"pd-router / {title}").uid(uid).description(about).tags([TAG])
    made = made.readonly().refresh("10s").time("now-1h", "now").timezone("browser")
    made = made.tooltip(DashboardCursorSync.CROSSHAIR)
    for variable in (_datasource(), *variables, text("runbook", "Runbook", RUNBOOK)):
        made = made.with_variable(variable)
    for link in _links():
        made = made.link(link)
    ids = itertools.count(1)
    for name, panels in rows.items():
        made = made.with_row(dashboard.Row(name).id(next(ids)))
        for panel in panels:
            made = made.with_panel(panel.build().id(next(ids)))
    return made


def _links() -> Sequence[dashboard.DashboardLink]:
    others = dashboard.DashboardLink("Dashboards").type(DashboardLinkType.DASHBOARDS).tags([TAG])
    runbook = dashboard.DashboardLink("Runbook").type(DashboardLinkType.LINK).url("${runbook:raw}").icon("doc")
    return others.as_dropdown(True).include_vars(True).keep_time(True), runbook.target_blank(True)


def _datasource() -> dashboard.DatasourceVariable:
    return dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus")


def values(name: str, label: str, metric: str) -> dashboard.QueryVariable:
    """A choice, of one, several or all, among the values that a metric's label has."""
    variable = dashboard.QueryVariable(name).label(label).datasource(DATASOURCE)
    variable = variable.query(f"label_values({metric}, {name})").refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
    variable = variable.sort(VariableSort.ALPHABETICAL_ASC).multi(True).include_all(True).all_value(".*")
    return variable.current(VariableOption(selected=True, text="All", value="$__all"))


def text(name: str, label: str, value: str) -> dashboard.TextBoxVariable:
    """A value that can be typed over."""
    current = VariableOption(selected=True, text=value, value=value)
    return dashboard.TextBoxVariable(name).label(label).default_value(value).current(current)
