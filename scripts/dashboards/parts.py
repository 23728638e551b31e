"""What the dashboards are made of: queries, panels, annotations, pages."""

from __future__ import annotations

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, table, text, timeseries
from grafana_foundation_sdk.models import common as kinds
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

SOURCE = models.DataSourceRef(type_val="prometheus", uid="${datasource}")

# In a query `@` stands for what was chosen above, `%` for that without a deployment, and `& active` for "of the
# operating point that decides".
CHOSEN = 'job="matchpoint", instance=~"$instance"'
SHORT = {
    "@": f'{CHOSEN}, deployment=~"$deployment"',
    "%": CHOSEN,
    "& active": "and on (job, instance, deployment, operating_point) matchpoint_operating_point_active == 1",
}
STEP = "1m"


def query(short: str) -> str:
    for name, long in SHORT.items():
        short = short.replace(name, long)
    return short


def target(n: int, legend: str, expr: str) -> prometheus.Dataquery:
    made = prometheus.Dataquery().datasource(SOURCE).ref_id(chr(ord("A") + n)).expr(query(expr))
    return made.legend_format(legend) if legend else made


def panel(kind, title: str, size: tuple[int, int], about: str, targets: list):
    made = kind.title(title).datasource(SOURCE).span(size[0]).height(size[1])
    made = made.description(about) if about else made
    return made.targets(targets)


def chart(title: str, size: tuple[int, int], about: str, unit: str, queries: dict[str, str]):
    """Lines over time. The unit `share` is of 0 to 1, `any` may be below zero."""
    targets = [target(n, *one) for n, one in enumerate(queries.items())]
    made = panel(timeseries.Panel(), title, size, about, targets)
    legend = common.VizLegendOptions().show_legend(True).display_mode(kinds.LegendDisplayMode.LIST)
    hover = common.VizTooltipOptions().mode(kinds.TooltipDisplayMode.MULTI).sort(kinds.SortOrder.DESCENDING)
    made = made.legend(legend.placement(kinds.LegendPlacement.BOTTOM)).tooltip(hover)
    made = made.line_width(1).fill_opacity(8).show_points(kinds.VisibilityMode.NEVER).span_nulls(False)
    made = made.max(1) if unit == "share" else made
    made = made if unit == "any" else made.min(0)
    return made.unit({"share": "percentunit", "any": "none"}.get(unit, unit))


def value(title: str, size: tuple[int, int], about: str, unit: str, queries: dict[str, str]):
    """The latest value, large."""
    made = panel(stat.Panel(), title, size, about, [target(n, *one) for n, one in enumerate(queries.items())])
    latest = common.ReduceDataOptions().calcs(["lastNotNull"])
    plain = made.unit(unit).reduce_options(latest).graph_mode(kinds.BigValueGraphMode.NONE)
    return plain.color_mode(kinds.BigValueColorMode.VALUE).thresholds(steps((None, "text")))


def steps(*edges: tuple[float | None, str]):
    found = [models.Threshold(value=edge, color=colour) for edge, colour in edges]
    return dashboard.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(found)


def words_for(*words: tuple[str, str]) -> list:
    """What 0, 1 and so on are called, and their colours."""
    results = {str(n): models.ValueMappingResult(text=w, color=c, index=n) for n, (w, c) in enumerate(words)}
    return [models.ValueMap(options=results)]


def rows(title: str, size: tuple[int, int], about: str, columns: dict[str, str], queries: list[str]):
    """A table: of the labels and values in `columns`, in this order under these names."""
    targets = [target(n, "", q).instant().format(PromQueryFormat.TABLE) for n, q in enumerate(queries)]
    made = panel(table.Panel(), title, size, about, targets)
    if 1 < len(queries):
        made = made.with_transformation(models.DataTransformerConfig(id_val="merge", options={}))
    order = {"indexByName": {c: n for n, c in enumerate(columns)}, "renameByName": columns}
    kept = {"include": {"names": list(columns)}}
    made = made.with_transformation(models.DataTransformerConfig(id_val="filterFieldsByName", options=kept))
    return made.with_transformation(models.DataTransformerConfig(id_val="organize", options=order))


def words(title: str, size: tuple[int, int], content: str):
    return text.Panel().title(title).span(size[0]).height(size[1]).content(content)


class Annotation(models.AnnotationQuery):
    """With what Grafana's schema leaves to the data source: how an event is named."""

    def to_json(self) -> dict[str, object]:
        return {**super().to_json(), "titleFormat": self.title, "step": STEP}


def annotation(name: str, colour: str, title: str, expr: str):
    built = Annotation(name=name, datasource=SOURCE, enable=True, icon_color=colour, expr=query(expr))
    built.title = title
    made = dashboard.AnnotationQuery()
    made._internal = built
    return made


# A step of the range ago, or where Prometheus or the server was away, up to a day.
BEFORE = f"last_over_time(matchpoint_operating_point_active{{@}}[1d] offset {STEP})"
ALARM_LEVEL = '{__name__=~"matchpoint_(traffic_)?evidence_alarm_log_ratio", @}'
ANNOTATIONS = [
    annotation(
        "Another operating point decides",
        "blue",
        "{{deployment}}: {{operating_point}} decides",
        f"matchpoint_operating_point_active{{@}} == 1 unless ({BEFORE} == 1)",
    ),
    # After each reset evidence must be larger by ln 2 (docs/monitoring.md).
    annotation(
        "Evidence reset",
        "purple",
        "{{deployment}}: evidence reset",
        f"max by (instance, deployment) ({ALARM_LEVEL} > 0.5 + {ALARM_LEVEL} offset {STEP})",
    ),
    annotation(
        "Alerts",
        "red",
        "{{alertname}} {{deployment}}",
        'ALERTS{job="matchpoint", alertstate="firing", deployment=~"$deployment|"}',
    ),
]


def variable(name: str, label: str, expr: str):
    made = dashboard.QueryVariable(name).label(label).datasource(SOURCE).query(expr)
    made = made.refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED).sort(
        models.VariableSort.ALPHABETICAL_ASC
    )
    everything = models.VariableOption(text="All", value="$__all")
    return made.include_all(True).multi(True).all_value(".*").current(everything)


def page(name: str, about: str, span: str, refresh: str) -> dashboard.Dashboard:
    made = dashboard.Dashboard(f"Matchpoint: {name}").uid(f"matchpoint-{name}").description(about)
    made = made.tags(["matchpoint"]).time(span, "now").refresh(refresh).version(1)
    made = made.tooltip(models.DashboardCursorSync.CROSSHAIR)
    others = (
        dashboard.DashboardLink("Matchpoint").type(models.DashboardLinkType.DASHBOARDS).tags(["matchpoint"])
    )
    return made.link(others.keep_time(False).include_vars(True))


def watching(name: str, about: str, span: str, refresh: str, sections: list) -> dashboard.Dashboard:
    source = models.VariableOption(text="Prometheus", value="prometheus")
    made = page(name, about, span, refresh).annotations(ANNOTATIONS)
    chosen = dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus")
    made = made.with_variable(chosen.current(source))
    of = 'label_values({}{{job="matchpoint"}}, {})'.format
    made = made.with_variable(variable("instance", "Instance", of("matchpoint_build_info", "instance")))
    made = made.with_variable(
        variable("deployment", "Deployment", of("matchpoint_gallery_items", "deployment"))
    )
    for one in sections:
        made = made.with_row(dashboard.Row(one)) if isinstance(one, str) else made.with_panel(one)
    return made


def per_second(metric: str, by: str, more: str = "") -> str:
    return f"sum by ({by}) (rate({metric}{{@{more}}}[$__rate_interval]))"


def quantile(metric: str, q: str, more: str = "", by: str = "deployment") -> str:
    chosen = "@" if by == "deployment" else "%"
    return f"histogram_quantile({q}, sum by ({by}, le) (rate({metric}_bucket{{{chosen}{more}}}[$__rate_interval])))"
