"""Concept neurons: how many neurons stand for each concept, how well the best of them tells it, and where it fires."""

from __future__ import annotations

from bdh.report import formats
from bdh.report.data.inputs import Inputs, RunResults
from bdh.report.tables.table import Cell, Column, Row, Table, missing_cell

CONTEXTS = 3
COLUMNS = (
    Column("neurons", "selective", "Neurons that are selective for the concept on both halves of the text.", "frontier"),
    Column("best neuron", "AUROC", "On the half of the text that it was not chosen on.", "frontier"),
    *(Column(f"context {at + 1}", "« » the token", "Where the best neuron fires most.") for at in range(CONTEXTS)),
)


def concept_tables(inputs: Inputs, corpus: str) -> list[tuple[str, Table]]:
    """(variant, table) of the first run of every variant in which concepts were looked for, bdh's before others'."""
    found = []
    for variant in inputs.variants:
        run = next((run for run in inputs.of(corpus, variant) if run.frontier.children("mcl/concepts")), None)
        if run is not None:
            found.append((variant, _table(run)))
    return found


def _table(run: RunResults) -> Table:
    names = run.frontier.children("mcl/concepts")
    order = sorted(names, key=lambda name: -(run.frontier.number(f"mcl/concepts/{name}/best_auroc") or 0.0))
    return Table(
        f"{run.corpus}-concepts-{run.variant}",
        f"{run.variant} on {run.corpus}: neurons that stand for concepts",
        COLUMNS,
        [Row(name.replace("_", " "), _cells(run, name), runs=(run.key,)) for name in order],
        first=Column("concept"),
    )


def _cells(run: RunResults, name: str) -> list[Cell]:
    path = f"mcl/concepts/{name}"
    count, best = run.frontier.number(f"{path}/neurons"), run.frontier.number(f"{path}/best_auroc")
    quoted = run.frontier.values.get(f"{path}/contexts") or []
    texts = [" ".join(str(text).split()) for text in quoted[:CONTEXTS]]
    cells = [
        missing_cell() if count is None else Cell(formats.whole(count), count),
        missing_cell() if best is None else Cell(formats.fixed(best), best),
        *(Cell(text, text) for text in texts),
    ]
    return cells + [Cell(formats.ABSENT, "", "no selective neuron, or the text may not be quoted")] * (len(COLUMNS) - len(cells))
