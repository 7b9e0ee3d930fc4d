"""Bits per byte by year and by sector, for corpora whose documents have them."""

from __future__ import annotations

from collections.abc import Sequence

from bdh.report import formats
from bdh.report.inputs import Inputs, Run
from bdh.report.palette import slot_of
from bdh.report.quality_table import spread_cell
from bdh.report.spread import over_seeds
from bdh.report.table import Cell, Column, Row, Table, missing_cell

KINDS = {"by_year": "year", "by_sector": "sector"}


def strata_tables(inputs: Inputs, corpus: str) -> list[Table]:
    """A table by year and one by sector, each only when some run has at least one stratum of that kind."""
    return [
        _table(inputs, corpus, kind, labels) for kind in KINDS if (labels := strata(inputs.of(corpus), "static", kind))
    ]


def strata(runs: Sequence[Run], arm: str, kind: str) -> list[str]:
    """Labels of the strata of one arm in any run, sorted."""
    return sorted({label for run in runs for label in run.hebbian.children(f"arms/{arm}/{kind}")})


def stratum_bits(run: Run, arm: str, kind: str, label: str) -> float | None:
    """Bits per byte of one stratum."""
    return run.hebbian.number(f"arms/{arm}/{kind}/{label}/bits_per_byte")


def _table(inputs: Inputs, corpus: str, kind: str, labels: list[str]) -> Table:
    rows = []
    for variant in inputs.variants:
        for arm in ("static", "carry"):
            runs = inputs.of(corpus, variant)
            if not strata(runs, arm, kind):
                continue
            cells = [
                spread_cell(over_seeds(stratum_bits(run, arm, kind, label) for run in runs), reason="no documents")
                for label in labels
            ]
            rows.append(Row(f"{variant}, {arm}", cells, slot_of(inputs.variants, variant)))
    rows.append(Row("documents", [_documents(inputs.of(corpus), kind, label) for label in labels], reference=True))
    return Table(
        f"{corpus}-{kind.replace('_', '-')}",
        f"{corpus}: test bits per byte by {KINDS[kind]}",
        [Column(label, "bits per byte") for label in labels],
        rows,
        first=Column("variant, arm"),
        notes=["Strata are not tested against each other; those with few documents are noisy."],
    )


def _documents(runs: Sequence[Run], kind: str, label: str) -> Cell:
    for run in runs:
        count = run.hebbian.number(f"arms/static/{kind}/{label}/documents")
        if count is not None:
            return Cell(formats.whole(count), count)
    return missing_cell("not counted")
