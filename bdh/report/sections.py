"""What stands in which section of the page: one question each, its figure first, its tables folded below it.

A section has one view per corpus, of which the page shows the chosen one; frontier metrics come from their registry, so
that a new metric has its figure and its table without a word here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from bdh.frontier.registry import METRICS, MetricRow, rows
from bdh.report.claims.ledger import claims_table
from bdh.report.data.inputs import Inputs, RunResults
from bdh.report.plots import dots
from bdh.report.plots.figure import Panel, draw_panel, slot_of
from bdh.report.plots.outcomes import curve_panels, draw_small, graph_drawings, reach_of, size_panels, state_panels
from bdh.report.plots.training import cost_panels, dynamics_panels, further_panels, synapse_panels
from bdh.report.tables.arms import overlap_table, sweep_table, synapse_table, variant_table
from bdh.report.tables.corpora import corpora_table, strata_tables
from bdh.report.tables.frontier import concept_tables, frontier_tables
from bdh.report.tables.leading import activity_table, layers_table, leading_table, search_tables
from bdh.report.tables.quality import against_bdh_table, quality_table
from bdh.report.tables.table import Table

POSITION_KEY = "Solid: carry. Dashed: overlap. Dotted: shuffled. Below the line: better than static."
GRAPH, CONCEPTS = "tmi", "mcl"
"""The metrics that stand on a graph of neurons, and on concepts."""

GRAPH_KEY = "Neuron graphs: the strongest edges among the neurons of head 0 with most edges, coloured by community."
IN_A_ROW = 5
CHOICE = "Arms, years, sectors and speakers of one variant"


@dataclass(frozen=True)
class Picture:
    """A drawn plot: its id, its heading, the SVG, and a note below it."""

    name: str
    title: str
    svg: str
    note: str = ""


@dataclass(frozen=True)
class Fold:
    """What opens on a click: pictures, small ones, then tables, then further folds."""

    title: str
    tables: Sequence[Table] = ()
    pictures: Sequence[Picture] = ()
    folds: Sequence[Fold] = ()
    small: Sequence[Picture] = ()


@dataclass(frozen=True)
class Sample:
    """What one run wrote to a prompt."""

    variant: str
    slot: int
    text: str


@dataclass(frozen=True)
class View:
    """One corpus in one section: open tables, pictures, small pictures on one scale (`key` says what their lines are),
    folds, and samples by prompt. title: of a part of a section. corpus: its place among the corpora, None for all."""

    corpus: int | None = None
    title: str = ""
    note: str = ""
    tables: Sequence[Table] = ()
    pictures: Sequence[Picture] = ()
    small: Sequence[Picture] = ()
    key: str = ""
    folds: Sequence[Fold] = ()
    prompts: Sequence[tuple[str, Sequence[Sample]]] = ()

    def __bool__(self) -> bool:
        """Whether anything stands in it."""
        return bool(self.tables or self.pictures or self.small or self.folds or self.prompts)


@dataclass(frozen=True)
class Chapter:
    """A section: its id, its name in the table of contents, its question, and its views."""

    name: str
    short: str
    title: str
    views: Sequence[View] = field(default_factory=tuple)


def first_pictures(inputs: Inputs, results: str) -> list[Picture]:
    """The picture that the page begins with, one part per corpus."""
    return dotted([dots.quality_dots(inputs, corpus, results) for corpus in inputs.corpora])


def chapters(inputs: Inputs, results: str) -> list[Chapter]:
    """Every section that has something to show."""
    parts = (
        ("quality", "Prediction", "Which variant predicts best?", _quality),
        ("cost", "Cost", "What does a lower loss cost?", _cost),
        ("training", "Training", "What happens during training?", _training),
        ("synapses", "Living state", "Does the living synaptic state help?", _synapses),
        ("activity", "Activity", "How sparse is the activity?", _activity),
        ("frontier", "Frontier metrics", "Do the networks have structure that chance does not give?", _frontier),
        ("samples", "Samples", "What do they write?", _samples),
    )
    found = []
    for name, short, title, make in parts:
        views = [view for at, corpus in enumerate(inputs.corpora) for view in make(inputs, at, corpus, results) if view]
        found.append(Chapter(name, short, title, views))
    found.append(Chapter("ledger", "Claims", "Which claims of the references hold?", [_claims(inputs)]))
    found.append(Chapter("texts", "Corpora", "What was read?", [View(tables=[corpora_table(inputs)])]))
    return [chapter for chapter in found if chapter.views]


def _quality(inputs: Inputs, at: int, corpus: str, results: str) -> list[View]:
    return [
        View(
            at,
            tables=[leading_table(inputs, corpus)],
            pictures=_drawn(size_panels(inputs, corpus)),
            folds=[
                Fold("Every number about prediction", [quality_table(inputs, corpus)]),
                Fold("Every variant beside bdh, with tests", [against_bdh_table(inputs, corpus)]),
                *_fold("Search of settings", [t for t in search_tables(inputs) if t.name == f"{corpus}-search"]),
            ],
        )
    ]


def _cost(inputs: Inputs, at: int, corpus: str, results: str) -> list[View]:
    tokens, seconds, flops = (_drawn([panel]) for panel in cost_panels(inputs, corpus))
    tables = [activity_table(inputs, corpus)]
    return [
        View(at, pictures=[*tokens, *seconds], folds=[Fold("By operations, and what a stream costs", tables, flops)])
    ]


def _training(inputs: Inputs, at: int, corpus: str, results: str) -> list[View]:
    more = _drawn([*further_panels(inputs, corpus), *synapse_panels(inputs, corpus)])
    folds = [Fold("Everything else that was recorded", pictures=more)] if more else []
    return [View(at, pictures=_drawn(dynamics_panels(inputs, corpus)), folds=folds)]


def _synapses(inputs: Inputs, at: int, corpus: str, results: str) -> list[View]:
    sweep, *places = state_panels(inputs, corpus)
    small = dots.position_panels(inputs, corpus)
    reach = reach_of(small) if small else (0.0, 1.0)
    more = [t for t in (overlap_table(inputs, corpus), sweep_table(inputs, corpus)) if t]
    return [
        View(
            at,
            pictures=[*dotted([dots.arm_dots(inputs, corpus, results)]), *_drawn([sweep])],
            small=[Picture(p.name, p.title, draw_small(p, reach)) for p in small],
            key=f"Arms minus static by position in the document (tokens), bits per byte. {POSITION_KEY}"
            if small
            else "",
            folds=[
                Fold("All variants, all arms", [synapse_table(inputs, corpus), *more]),
                *([Fold("By position, all variants in one plot", pictures=drawn)] if (drawn := _drawn(places)) else []),
                Fold(CHOICE, folds=[_of_variant(inputs, corpus, variant) for variant in _read(inputs, corpus)]),
                *_fold("Every stratum, all variants", strata_tables(inputs, corpus)),
            ],
        )
    ]


def _read(inputs: Inputs, corpus: str) -> list[str]:
    """Variants that have read the held-out text of one corpus."""
    return [v for v in inputs.variants if any(run.hebbian.children("arms") for run in inputs.of(corpus, v))]


def _of_variant(inputs: Inputs, corpus: str, variant: str) -> Fold:
    return Fold(variant, [variant_table(inputs, corpus, variant), *strata_tables(inputs, corpus, variant)])


def _activity(inputs: Inputs, at: int, corpus: str, results: str) -> list[View]:
    layers = layers_table(inputs, corpus)
    return [View(at, tables=[layers] if layers else [])]


def _frontier(inputs: Inputs, at: int, corpus: str, results: str) -> list[View]:
    """One view per metric of the registry, then the curves that no metric of it has."""
    tables = {table.name: table for table in frontier_tables(inputs, corpus)}
    views = []
    for metric in METRICS:
        parts = [row for row in rows() if row.metric is metric]
        own = [t for row in parts if (t := tables.get(f"{corpus}-{row.path.replace('/', '-')}")) is not None]
        if own:
            views.append(_metric(inputs, at, corpus, parts, own, results))
    known = {panel.name for metric in METRICS for panel in curve_panels(inputs, corpus, metric.name)}
    rest = _drawn([panel for panel in curve_panels(inputs, corpus) if panel.name not in known])
    return [*views, View(at, pictures=rest)]


def _metric(inputs: Inputs, at: int, corpus: str, parts: list[MetricRow], tables: list[Table], results: str) -> View:
    """Value beside nulls and the first curve, or of a metric with several rows its curves; the rest folded."""
    metric = parts[0].metric
    values = dotted([dots.metric_dots(inputs, corpus, row, results) for row in parts])
    curves = _drawn(curve_panels(inputs, corpus, metric.name))
    shown = [*values, *curves[:1]] if len(parts) == 1 else curves[:2] or values
    more = [drawn for drawn in (*values, *curves) if drawn not in shown]
    graphs = (
        [Picture(f"{corpus}-graph-{v}", v, svg) for v, svg in graph_drawings(inputs, corpus)]
        if metric.name == GRAPH
        else []
    )
    concepts = concept_tables(inputs, corpus) if metric.name == CONCEPTS else []
    folds = [Fold(f"{metric.title}: every number, nulls, twins, reference protocol", tables, more)]
    if graphs[IN_A_ROW:]:
        folds.append(Fold("Neuron graphs of the other variants", small=graphs[IN_A_ROW:]))
    if concepts[1:]:
        folds.append(
            Fold("Concepts of the other variants", folds=[Fold(name, [table]) for name, table in concepts[1:]])
        )
    return View(
        at,
        f"{metric.title}: {metric.description}",
        tables=[table for _, table in concepts[:1]],
        pictures=shown,
        small=graphs[:IN_A_ROW],
        key=GRAPH_KEY if graphs else "",
        folds=folds,
    )


def _samples(inputs: Inputs, at: int, corpus: str, results: str) -> list[View]:
    """Texts of the first seed of every variant, by prompt, in the order of the first run's prompts."""
    found: dict[str, list[Sample]] = {}
    for variant in inputs.variants:
        run: RunResults | None = next((run for run in inputs.of(corpus, variant) if run.samples), None)
        for prompt, text in run.samples if run else ():
            found.setdefault(prompt, []).append(Sample(variant, slot_of(inputs.variants, variant), text))
    return [View(at, prompts=list(found.items()))]


def _claims(inputs: Inputs) -> View:
    return View(folds=[Fold("Every claim: what was measured, its interval, the rule, what would change it",
                            [claims_table(inputs)])])  # fmt: skip


def _fold(title: str, tables: list[Table]) -> list[Fold]:
    return [Fold(title, tables)] if tables else []


def _drawn(panels: Sequence[Panel]) -> list[Picture]:
    return [Picture(p.name, p.title, svg, p.note) for p in panels if (svg := draw_panel(p))]


def dotted(panels: Sequence[dots.DotPanel]) -> list[Picture]:
    """The plots of dots that have a line, drawn."""
    return [Picture(p.name, p.title, svg, p.note) for p in panels if (svg := dots.draw_dots(p))]
