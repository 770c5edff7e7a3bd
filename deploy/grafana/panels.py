"""What does a panel look like? One style for all: what to do as its description, a link to the runbook."""

import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from grafana_foundation_sdk.builders import common, prometheus, stat, timeseries
from grafana_foundation_sdk.builders.dashboard import DashboardLink, ThresholdsConfig
from grafana_foundation_sdk.models.common import (
    BigValueGraphMode,
    LegendDisplayMode,
    LegendPlacement,
    StackingMode,
    TooltipDisplayMode,
    VisibilityMode,
)
from grafana_foundation_sdk.models.dashboard import DashboardLinkType, DataSourceRef, Threshold, ThresholdsMode

DATASOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")

COLUMNS = 24
"""Width of a dashboard in Grafana's units."""

PANEL_HEIGHT, STAT_HEIGHT = 8, 4

Builder = timeseries.Panel | stat.Panel


@dataclass(frozen=True, slots=True)
class Query:
    """One expression, and how its series are named."""

    expr: str
    legend: str


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel. `about` tells what it shows and what to do about it; `runbook` is the heading of the entry.

    `bad_from`: the value from which it is red. `width`: of the 24 columns. `least`: where the axis begins; None: where
    the values do.
    """

    title: str
    unit: str
    about: str
    runbook: str
    queries: Sequence[Query]
    width: int = 8
    kind: Literal["lines", "stack", "number"] = "lines"
    bad_from: float | None = None
    good_from: float | None = None
    most: float | None = None
    least: float | None = 0

    def build(self) -> Builder:
        """The panel for Grafana."""
        panel = self._number() if self.kind == "number" else self._lines()
        panel = panel.title(self.title).description(self.about).unit(self.unit).datasource(DATASOURCE).span(self.width)
        panel = panel.links([_runbook(self.runbook)]).thresholds(self._thresholds())
        if self.least is not None:
            panel = panel.min(self.least)
        for name, query in zip(string.ascii_uppercase, self.queries, strict=False):
            target = prometheus.Dataquery().ref_id(name).expr(query.expr).legend_format(query.legend)
            panel = panel.with_target(target.range())
        return panel if self.most is None else panel.max(self.most)

    def _number(self) -> Builder:
        values = common.ReduceDataOptions().calcs(["lastNotNull"])
        return stat.Panel().height(STAT_HEIGHT).reduce_options(values).graph_mode(BigValueGraphMode.AREA)

    def _lines(self) -> Builder:
        legend = common.VizLegendOptions().display_mode(LegendDisplayMode.TABLE).placement(LegendPlacement.BOTTOM)
        panel = timeseries.Panel().height(PANEL_HEIGHT).show_points(VisibilityMode.NEVER)
        panel = panel.legend(legend.show_legend(True).calcs(["lastNotNull", "max"]))
        panel = panel.tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI))
        if self.kind == "stack":
            return panel.fill_opacity(30).stacking(common.StackingConfig().mode(StackingMode.NORMAL))
        return panel

    def _thresholds(self) -> ThresholdsConfig:
        if self.good_from is not None:
            steps = [Threshold(color="red", value=None), Threshold(color="green", value=self.good_from)]
        else:
            steps = [Threshold(color="green", value=None)]
        if self.bad_from is not None:
            steps.append(Threshold(color="red", value=self.bad_from))
        return ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps)


def _runbook(heading: str) -> DashboardLink:
    anchor = heading.lower().replace(" ", "-")
    return DashboardLink("Runbook").type(DashboardLinkType.LINK).url(f"${{runbook:raw}}#{anchor}").target_blank(True)


def percentiles(metric: str, by: str, selector: str = "", quantiles: Sequence[float] = (0.5, 0.9, 0.99)) -> list[Query]:
    """Lines of a histogram's percentiles, one for each value of the label `by`."""
    series = f"sum by (le, {by}) (rate(pd_router_{metric}_bucket{selector}[$__rate_interval]))"
    return [
        Query(f"histogram_quantile({quantile}, {series})", f"p{quantile * 100:g} {{{{{by}}}}}")
        for quantile in quantiles
    ]


def rates(metric: str, *by: str, selector: str = "") -> Query:
    """How often a second, one line for each value of the labels `by`."""
    labels = ", ".join(by)
    expr = f"sum by ({labels}) (rate(pd_router_{metric}{selector}[$__rate_interval]))"
    return Query(expr, " ".join(f"{{{{{label}}}}}" for label in by))
