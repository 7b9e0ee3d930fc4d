"""The registry of frontier metrics: the one place that says which there are, what each asks and which numbers lead.

The runner, the tables, plots and summary of the report, the MLflow runs and the view of the runs table go through
`METRICS`; none of them knows a metric by name. This module is plain data and imports no torch.

A new metric is three things: `bdh/frontier/<name>.py`, an entry in `METRICS`, a test. The module has two functions.
`alone(subject)` (a `bdh.frontier.survey.Subject`) says in plain JSON numbers what an untrained twin shows, nothing
where it shows nothing, and the points of its curves, of which those of the first twin are kept; stage `twins` calls
it once per twin. `compute(context)` (a `Context`: a subject with what `alone` said of every twin) returns a row
(`bdh.frontier.rows.metric_row`, or `absent` with the reason where nothing can be measured) and the points of its
curves; with `parts` one row per part instead, by its name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

ROW_NUMBERS = ("value", "null_mean", "z", "p", "untrained_mean", "reference_protocol")
"""Numbers of every row that stand in the MLflow run of stage frontier."""

REPORT_NUMBERS = ("bits_per_byte", "perplexity", "dead_neurons_share")
"""Numbers of a frontier report that belong to no metric and stand in the same run."""

DEAD_NEURONS = "frontier/dead_neurons_share"


@dataclass(frozen=True)
class Axes:
    """One plot: the curves of a metric whose series begins with `series`."""

    title: str
    x_label: str
    y_label: str
    series: str = ""
    log_x: bool = False
    log_y: bool = False


@dataclass(frozen=True)
class Metric:
    """One metric.

    name: key in data/results/frontier/<run>.json, in the curves and in MLflow, and the module of `bdh.frontier` that
    computes it. title: short name on the page. description: one line, what it measures. axes: plots of its curves.
    parts: descriptions of its rows by their name where it has several, empty for one row. headline: numbers of a row
    beside the trained model in MLflow and in reports/summary.json; the first one is a column of the runs table.
    share_of_neurons: the value is a share with an interval over neurons, which the report also gives as a difference
    to the dense baselines.
    """

    name: str
    title: str
    description: str
    axes: tuple[Axes, ...] = ()
    parts: Mapping[str, str] = field(default_factory=dict)
    headline: tuple[str, ...] = ("value", "z")
    share_of_neurons: bool = False

    @property
    def module(self) -> str:
        """Dotted name of the module that computes it."""
        return f"bdh.frontier.{self.name}"


METRICS: tuple[Metric, ...] = (
    Metric(
        "tmi",
        "TMI",
        "modularity of the neuron graph",
        (Axes("Modularity of the neuron graph (TMI)", "edges kept, count", "modularity Q", log_x=True),),
    ),
    Metric(
        "sps",
        "SPS",
        "persistence of the synaptic state",
        (
            Axes("Persistence of updates (SPS)", "lag, tokens", "autocorrelation", "innovations"),
            Axes("Similarity of state snapshots (SPS)", "lag, snapshots", "similarity", "snapshots", log_x=True),
        ),
    ),
    Metric(
        "sec",
        "SEC",
        "coupling of surprise and activity",
        (Axes("Density and surprise (SEC)", "surprisal, nats", "share of active neurons"),),
    ),
    Metric(
        "mcl",
        "MCL",
        "neurons selective for one concept",
        (Axes("Selective neurons (MCL)", "neurons, most selective first", "rank-biserial correlation"),),
        share_of_neurons=True,
    ),
    Metric("state_graph", "state graph", "modularity of the graph of synapses that a text leaves behind"),
    Metric(
        "degrees",
        "degrees",
        "degrees of the neuron graph against an exponential tail, likelihood ratio",
        (
            Axes(
                "In-degrees of the neuron graph", "degree", "share of neurons of that degree or more", "in", True, True
            ),
            Axes(
                "Out-degrees of the neuron graph",
                "degree",
                "share of neurons of that degree or more",
                "out",
                True,
                True,
            ),
        ),
        parts={
            "in": "in-degrees of the neuron graph against an exponential tail, likelihood ratio",
            "out": "out-degrees of the neuron graph against an exponential tail, likelihood ratio",
        },
        headline=("value",),
    ),
)


@dataclass(frozen=True)
class MetricRow:
    """One row of a metric. path: where it stands in a report, `metric` or `metric/part`."""

    metric: Metric
    path: str
    title: str
    description: str


def rows() -> Iterator[MetricRow]:
    """Every row of every metric, in the order of the registry."""
    for metric in METRICS:
        if not metric.parts:
            yield MetricRow(metric, metric.name, metric.title, metric.description)
        for part, description in metric.parts.items():
            yield MetricRow(metric, f"{metric.name}/{part}", f"{metric.title}, {part}", description)


def run_numbers(report: Mapping[str, Any]) -> dict[str, Any]:
    """What of a frontier report stands in the MLflow run of its stage, by name; None where a number is not there."""
    found = {name: report.get(name) for name in REPORT_NUMBERS}
    return found | {f"{row.path}/{name}": _row_of(report, row.path).get(name) for row in rows() for name in ROW_NUMBERS}


def headlines(report: Mapping[str, Any]) -> dict[str, Any]:
    """What of a frontier report stands beside the trained model, under the names of the runs table."""
    found = {DEAD_NEURONS: report.get("dead_neurons_share")}
    return found | {
        headline_name(row, name): _row_of(report, row.path).get(name) for row in rows() for name in row.metric.headline
    }


def headline_name(row: MetricRow, number: str) -> str:
    """`frontier/tmi` for the first headline number of a row, `frontier/tmi_z` for the others."""
    return f"frontier/{row.path}" if number == row.metric.headline[0] else f"frontier/{row.path}_{number}"


def table_columns() -> list[str]:
    """Columns of the runs table that come from stage frontier: dead neurons and the first headline of every row."""
    return [DEAD_NEURONS, *(headline_name(row, row.metric.headline[0]) for row in rows() if row.metric.headline)]


def _row_of(report: Mapping[str, Any], path: str) -> Mapping[str, Any]:
    """The row at `path` of a report, empty where the report is older than the metric."""
    found: Any = report
    for part in path.split("/"):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found if isinstance(found, Mapping) else {}
