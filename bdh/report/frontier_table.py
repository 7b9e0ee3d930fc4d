"""Frontier metrics: never a value alone, always beside its null and the reference's own protocol."""

from __future__ import annotations

from bdh.report import formats, measures
from bdh.report.inputs import Inputs, Run
from bdh.report.palette import slot_of
from bdh.report.quality_table import spread_cell
from bdh.report.table import Cell, Column, Row, Table, missing_cell, verdict_cell
from bdh.report.verdicts import Verdict, of_null, of_seeds

METRICS = {
    "tmi": "modularity of the neuron graph",
    "sps": "persistence of the synaptic state",
    "sec": "coupling of surprise and activity",
    "mcl": "neurons selective for one concept",
}
COLUMNS = (
    Column("value", "", "Our protocol, trained weights."),
    Column("95 % interval", "", "Of the value."),
    Column("untrained twin", "", "The same protocol on freshly drawn weights."),
    Column("null", "mean ± sd", "Draws that keep everything but the structure asked about."),
    Column("z", "sd of the null"),
    Column("p", "two-sided"),
    Column("n", "draws", "Draws of the null."),
    Column("reference protocol", "", "The number as the references compute it."),
    Column("same, untrained", "", "The reference protocol on the untrained twin."),
    Column("verdict", "by rule", "p below 0.05: differs from its null."),
)


def metrics_of(runs: list[Run]) -> list[str]:
    """Frontier metrics that some run names, in the order of METRICS, then others."""
    found = {name for run in runs for name in METRICS if any(k.startswith(name) for k in run.frontier.values)}
    return [name for name in METRICS if name in found]


def frontier_table(inputs: Inputs, corpus: str) -> Table:
    """One row per metric and variant on one corpus."""
    names = metrics_of(inputs.of(corpus)) or ["tmi", "sps", "sec"]
    rows = [_row(inputs, corpus, variant, metric) for metric in names for variant in inputs.variants]
    return Table(
        f"{corpus}-frontier",
        f"{corpus}: frontier metrics beside their nulls",
        COLUMNS,
        rows,
        first=Column("metric, variant"),
        notes=[
            "; ".join(f"{name.upper()}: {METRICS[name]}" for name in names) + ".",
            "Read the value only as its distance from the null: all of these are far from 0 without any signal.",
        ],
    )


def metric_verdict(runs: list[Run], metric: str) -> Verdict | None:
    """Verdict on one metric over the seeds of one variant, None when no seed has it."""
    found = [of_null(run.frontier.number(f"{metric}/p")) for run in runs if _value(run, metric) is not None]
    return of_seeds(found) if found else None


def _value(run: Run, metric: str) -> float | None:
    return run.frontier.number(f"{metric}/value")


def _row(inputs: Inputs, corpus: str, variant: str, metric: str) -> Row:
    runs, slot = inputs.of(corpus, variant), slot_of(inputs.variants, variant)
    title, verdict = f"{metric.upper()}, {variant}", metric_verdict(runs, metric)
    if verdict is None:
        reason = _reason(runs, metric)
        return Row(title, [*(missing_cell(reason) for _ in COLUMNS[1:]), Cell(f"none: {reason}", "none")], slot)

    def part(name: str, digits: int = 3) -> Cell:
        return spread_cell(measures.over(runs, measures.number_of("frontier", f"{metric}/{name}")), digits)

    bounds = [
        formats.interval(run.frontier.number(f"{metric}/ci_low"), run.frontier.number(f"{metric}/ci_high"))
        for run in runs
    ]
    draws = measures.over(runs, measures.number_of("frontier", f"{metric}/n"))
    cells = [
        part("value"),
        Cell("; ".join(bound for bound in bounds if bound) or formats.ABSENT),
        part("untrained"),
        _null(runs, metric),
        part("z", 1),
        part("p"),
        missing_cell() if draws is None else Cell(formats.whole(draws.mean), draws.mean),
        part("reference_protocol"),
        part("reference_protocol_untrained"),
        verdict_cell(verdict),
    ]
    return Row(title, cells, slot)


def _null(runs: list[Run], metric: str) -> Cell:
    mean = measures.over(runs, measures.number_of("frontier", f"{metric}/null_mean"))
    sd = measures.over(runs, measures.number_of("frontier", f"{metric}/null_sd"))
    if mean is None:
        return missing_cell("no null was drawn")
    spread = "" if sd is None else f" ± {formats.fixed(sd.mean)}"
    return Cell(formats.fixed(mean.mean) + spread, mean.mean)


def _reason(runs: list[Run], metric: str) -> str:
    for run in runs:
        for key in (f"{metric}/reason", f"{metric}_reason", f"reasons/{metric}"):
            if run.frontier.text(key):
                return str(run.frontier.text(key))
        if not run.frontier:
            return f"{run.frontier.path} is missing (stage frontier)"
    return "the result names no reason"
