"""Tables of the frontier metrics: never a value alone, always beside its nulls and the reference's own protocol.

One table per row of the registry. A metric that is a share of neurons is also given as a difference to the dense
baselines.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable

from bdh.frontier.registry import MetricRow, rows
from bdh.report import formats
from bdh.report.data import measures
from bdh.report.data.inputs import Inputs, RunResults
from bdh.report.data.spread import (
    ABOVE,
    BELOW,
    DISTINCT,
    LEVEL,
    LOWERED,
    NOT_DISTINCT,
    ONE_SEED,
    Difference,
    Verdict,
    of_null,
    of_seeds,
)
from bdh.report.plots.figure import slot_of
from bdh.report.tables.quality import spread_cell
from bdh.report.tables.table import Cell, Column, Row, Table, keys_of, missing_cell, verdict_cell

BASELINES = "transformer"


def baseline_notes(inputs: Inputs, corpus: str, metric: str) -> list[str]:
    """One note per dense baseline that has the metric on this corpus: every other variant's share minus its."""
    notes = []
    baselines = inputs.family(BASELINES)
    for rival in baselines:
        gaps = [
            f"{variant} {formats.difference(gap)}"
            for variant in inputs.variants
            if variant not in baselines
            and (gap := difference(inputs.of(corpus, variant), inputs.of(corpus, rival), metric)) is not None
        ]
        if gaps:
            notes.append(f"Share minus that of the dense baseline {rival} (Newcombe's interval): {'; '.join(gaps)}.")
    return notes


def difference(runs: list[RunResults], rivals: list[RunResults], metric: str) -> Difference | None:
    """Share of neurons of `runs` minus that of `rivals`, means over seeds, None where either was not measured.

    Interval: Newcombe's hybrid of the two intervals (1998, method 10), the widest over seeds.
    """
    ours, theirs = _share(runs, metric), _share(rivals, metric)
    if ours is None or theirs is None:
        return None
    (a, a_low, a_high), (b, b_low, b_high) = ours, theirs
    low = a - b - math.hypot(a - a_low, b_high - b)
    return Difference(a - b, low, a - b + math.hypot(a_high - a, b - b_low), "neurons")


def _share(runs: list[RunResults], metric: str) -> tuple[float, float, float] | None:
    """Mean share over seeds, lowest lower and highest upper end of its interval."""
    found = [tuple(run.frontier.number(f"{metric}/{name}") for name in ("value", "ci_low", "ci_high")) for run in runs]
    whole = [(v, low, high) for v, low, high in found if v is not None and low is not None and high is not None]
    if not whole:
        return None
    values, lows, highs = zip(*whole, strict=True)
    return sum(values) / len(values), min(lows), max(highs)


LONGEST_LINE = 56
RULE = "Above or below its null: p < 0.05 against every null and against the untrained twins, all on one side."
COLUMNS = (
    Column("value", "", "Our protocol, trained weights.", "frontier"),
    Column("95 % interval", "", "Of the value."),
    Column("untrained twins", "mean ± sd", "The same protocol on freshly drawn weights.", "frontier"),
    Column(
        "nulls",
        "mean ± sd, p",
        "Draws that keep everything but the structure asked about; the first gives z and p.",
        "frontier",
    ),
    Column("z", "sd of the null", "", "frontier"),
    Column("p", "two-sided", "", "frontier"),
    Column("n", "count", "Neurons, updates or tokens that the value rests on.", "frontier"),
    Column("reference protocol", "", "The number as the references compute it.", "frontier"),
    Column("same, untrained", "", "The reference protocol on the untrained twins.", "frontier"),
    Column("verdict", "by rule", RULE),
)


def frontier_tables(inputs: Inputs, corpus: str) -> list[Table]:
    """One table per row of the registry that some run on one corpus has, one row per variant that has a value."""
    named = {row.path for row in rows() for run in inputs.of(corpus) if run.frontier.children(row.path)}
    return [_table(inputs, corpus, row) for row in rows() if row.path in named]


def _table(inputs: Inputs, corpus: str, metric: MetricRow) -> Table:
    cells: list[Row] = []
    absent: dict[str, list[str]] = {}
    for variant in inputs.variants:
        verdict = metric_verdict(inputs, corpus, variant, metric.path)
        if verdict is None:
            absent.setdefault(_reason(inputs.of(corpus, variant), metric.path), []).append(variant)
        else:
            cells.append(_row(inputs, corpus, variant, metric.path, verdict))
    notes = [f"Read a value only as its distance from the nulls: it is far from 0 without any signal. {RULE}"]
    if not inputs.one_seed:
        notes.append(
            "Over several seeds: means; the widest interval, the largest p. The verdict takes the same word of every"
            " seed and the largest p over seeds, nulls and twins, adjusted with everything that this page judges."
        )
    fallen = [row.title for row in cells if row.cells[-1].text == BELOW]
    if fallen:
        notes.append(f"{', '.join(fallen)}: {LOWERED}.")
    notes += baseline_notes(inputs, corpus, metric.path) if metric.metric.share_of_neurons else []
    notes += [f"Not for {', '.join(names)}: {reason}." for reason, names in absent.items()]
    return Table(
        f"{corpus}-{metric.path.replace('/', '-')}",
        f"{corpus}: {metric.title}, {metric.description}, beside its nulls",
        COLUMNS,
        cells,
        notes=notes,
    )


def metric_verdict(inputs: Inputs, corpus: str, variant: str, metric: str) -> Verdict | None:
    """Verdict on one metric over the seeds of one variant, None when no seed has it.

    Above or below its null: every seed says so, and the p over seeds holds in the family of all that is judged.
    """
    runs = inputs.of(corpus, variant)
    found = [run_verdict(run, metric) for run in runs if run.frontier.number(f"{metric}/value") is not None]
    if not found:
        return None
    verdict = of_seeds(found)
    adjusted = measures.adjusted(inputs).get(("metric", corpus, variant, metric))
    if verdict.word in (ABOVE, BELOW, DISTINCT) and (adjusted is None or adjusted >= LEVEL):
        return Verdict(NOT_DISTINCT, "even")
    return verdict


def run_verdict(run: RunResults, metric: str) -> Verdict:
    """Verdict on one metric of one run."""
    return of_null(run.frontier.text(f"{metric}/verdict"), run.frontier.number(f"{metric}/p"))


def _row(inputs: Inputs, corpus: str, variant: str, metric: str, verdict: Verdict) -> Row:
    runs = inputs.of(corpus, variant)

    def part(name: str, digits: int = 3) -> Cell:
        return spread_cell(measures.over(runs, measures.number_of("frontier", f"{metric}/{name}")), digits)

    units = measures.over(runs, measures.number_of("frontier", f"{metric}/n"))
    cells = [
        part("value"),
        Cell(formats.interval(_end(runs, metric, "ci_low", min), _end(runs, metric, "ci_high", max), sign=False)),
        _with_sd(runs, f"{metric}/untrained_mean", f"{metric}/untrained_sd"),
        _nulls(runs, metric, not inputs.one_seed),
        part("z", 1),
        missing_cell(ONE_SEED)
        if inputs.one_seed
        else Cell(formats.chance(_end(runs, metric, "p", max)), _end(runs, metric, "p", max)),
        missing_cell() if units is None else Cell(formats.whole(units.mean), units.mean),
        part("reference_protocol"),
        part("reference_protocol_untrained"),
        verdict_cell(verdict),
    ]
    return Row(variant, cells, slot_of(inputs.variants, variant), runs=keys_of(runs))


def _end(runs: list[RunResults], metric: str, name: str, choose: Callable[[list[float]], float]) -> float | None:
    """The smallest or the largest of one number over the seeds."""
    found = [value for run in runs if (value := run.frontier.number(f"{metric}/{name}")) is not None]
    return choose(found) if found else None


def _with_sd(runs: list[RunResults], mean_key: str, sd_key: str) -> Cell:
    mean, sd = (measures.over(runs, measures.number_of("frontier", key)) for key in (mean_key, sd_key))
    if mean is None:
        return missing_cell("not measured")
    return Cell(formats.fixed(mean.mean) + ("" if sd is None else f" ± {formats.fixed(sd.mean)}"), mean.mean)


def _nulls(runs: list[RunResults], metric: str, tested: bool) -> Cell:
    """The first null in full size, every null by name below it; tested: with the p of each, the largest over seeds."""
    first = _with_sd(runs, f"{metric}/null_mean", f"{metric}/null_sd")
    names = dict.fromkeys(name for run in runs for name in run.frontier.children(f"{metric}/nulls"))
    lines = []
    for name in names:
        one = _with_sd(runs, f"{metric}/nulls/{name}/mean", f"{metric}/nulls/{name}/sd")
        p = _end(runs, metric, f"nulls/{name}/p", max) if tested else None
        numbers = one.text + ("" if p is None else f", p {formats.chance(p)}")
        line = f"{name}: {numbers}"
        lines += [line] if len(line) <= LONGEST_LINE else [*textwrap.wrap(f"{name}:", LONGEST_LINE), numbers]
    return Cell(first.text, first.value, first.note, detail="\n".join(lines))


def _reason(runs: list[RunResults], metric: str) -> str:
    found = (run.frontier.text(f"{metric}/reason") or run.frontier.text("reason") for run in runs)
    return next((text for text in found if text), "the result names no reason")


CONTEXTS = 3
CONCEPT_COLUMNS = (
    Column(
        "neurons", "selective", "Neurons that are selective for the concept on both halves of the text.", "frontier"
    ),
    Column("best neuron", "AUROC", "On the half of the text that it was not chosen on.", "frontier"),
    *(Column(f"context {at + 1}", "« » the token", "Where the best neuron fires most.") for at in range(CONTEXTS)),
)


def concept_tables(inputs: Inputs, corpus: str) -> list[tuple[str, Table]]:
    """(variant, table) of the first run of every variant in which concepts were looked for, bdh's before others'."""
    found = []
    for variant in inputs.variants:
        run = next((run for run in inputs.of(corpus, variant) if run.frontier.children("mcl/concepts")), None)
        if run is not None:
            found.append((variant, _concepts(run)))
    return found


def _concepts(run: RunResults) -> Table:
    names = run.frontier.children("mcl/concepts")
    order = sorted(names, key=lambda name: -(run.frontier.number(f"mcl/concepts/{name}/best_auroc") or 0.0))
    return Table(
        f"{run.corpus}-concepts-{run.variant}",
        f"{run.variant} on {run.corpus}: neurons that stand for concepts",
        CONCEPT_COLUMNS,
        [Row(name.replace("_", " "), _concept(run, name), runs=(run.key,)) for name in order],
        first=Column("concept"),
    )


def _concept(run: RunResults, name: str) -> list[Cell]:
    path = f"mcl/concepts/{name}"
    count, best = run.frontier.number(f"{path}/neurons"), run.frontier.number(f"{path}/best_auroc")
    quoted = run.frontier.values.get(f"{path}/contexts") or []
    texts = [" ".join(str(text).split()) for text in quoted[:CONTEXTS]]
    cells = [
        missing_cell() if count is None else Cell(formats.whole(count), count),
        missing_cell() if best is None else Cell(formats.fixed(best), best),
        *(Cell(text, text) for text in texts),
    ]
    return cells + [Cell(formats.ABSENT, "", "no selective neuron, or the text may not be quoted")] * (
        len(CONCEPT_COLUMNS) - len(cells)
    )
