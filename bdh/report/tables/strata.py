"""Bits per byte by year, by sector and by role of the speaker: each stratum with n, interval, and paired tests."""

from __future__ import annotations

from collections.abc import Sequence

from bdh.report import formats
from bdh.report.data import measures
from bdh.report.data.inputs import Inputs, RunResults
from bdh.report.data.spread import over_seeds
from bdh.report.plots.figure import slot_of
from bdh.report.tables.arms import arms_of
from bdh.report.tables.table import Cell, Column, Row, Table, keys_of, missing_cell

KINDS = {"by_year": "year", "by_sector": "sector", "by_role": "role of the speaker"}
COUNTS = ("documents", "tokens", "bytes")
NOT_MEASURABLE = "not measurable"


def strata_tables(inputs: Inputs, corpus: str, variant: str | None = None) -> list[Table]:
    """A table by year, one by sector and one by role, each only when some run has a stratum of that kind.

    Of one variant with all its arms, or of all variants.
    """
    runs = inputs.of(corpus, variant)
    return [_table(inputs, corpus, variant, kind, labels) for kind in KINDS if (labels := strata(runs, "static", kind))]


def strata(runs: Sequence[RunResults], arm: str, kind: str) -> list[str]:
    """Labels of the strata of one arm in any run, sorted."""
    return sorted({label for run in runs for label in run.hebbian.children(f"arms/{arm}/{kind}")})


def stratum_bits(run: RunResults, arm: str, kind: str, label: str) -> float | None:
    """Bits per byte of one stratum."""
    return run.hebbian.number(f"arms/{arm}/{kind}/{label}/bits_per_byte")


def _table(inputs: Inputs, corpus: str, only: str | None, kind: str, labels: list[str]) -> Table:
    arms = [arm for arm in arms_of(inputs.of(corpus)) if arm != "observe"]
    rows: list[Row] = []
    left_out: list[str] = []
    for variant in inputs.variants if only is None else (only,):
        runs, slot = inputs.of(corpus, variant), slot_of(inputs.variants, variant)
        if strata(runs, "static", kind):
            cells = [_bits_cell(runs, kind, label) for label in labels]
            rows.append(Row(f"{variant}, static", cells, slot, runs=keys_of(runs)))
        for arm in arms:
            if strata(runs, arm, kind):
                cells = [_difference_cell(inputs, runs, (arm, kind, label)) for label in labels]
                title = f"{variant}, {arm.replace('_', ' ')} minus static"
                row = Row(title, cells, slot, runs=keys_of(runs))
                if all(cell.text == NOT_MEASURABLE for cell in cells):
                    left_out.append(row.title)
                else:
                    rows.append(row)
    counted = [[_count(inputs.of(corpus), kind, label, name) for label in labels] for name in COUNTS]
    rows += [Row(name, cells, reference=True) for name, cells in zip(COUNTS, counted, strict=True)]
    name = "" if only is None else f"-{only}"
    return Table(
        f"{corpus}-{kind.replace('_', '-')}{name}",
        f"{corpus}: test bits per byte by {KINDS[kind]}",
        [Column(label, "bits per byte", "", "hebbian") for label in labels],
        rows,
        first=Column("variant, arm"),
        notes=[
            "Intervals of static: 95 %, bootstrap over the units of text in the stratum; several seeds: from the lowest"
            " to the highest end. Of differences: over seeds; one seed: over its text. A stratum with fewer than 8"
            " units is not measurable.",
            "Strata are not tested against each other.",
            *_notes_on(left_out, rows),
        ],
    )


def _notes_on(left_out: list[str], rows: list[Row]) -> list[str]:
    """What says which rows are not shown because no stratum has enough units."""
    if not left_out:
        return []
    some = any(row.title.endswith("minus static") for row in rows)
    which = "; ".join(left_out) if some else "every arm minus static, of every variant"
    return [f"Left out, since no stratum has enough units: {which}."]


def _bits_cell(runs: Sequence[RunResults], kind: str, label: str) -> Cell:
    value = over_seeds(stratum_bits(run, "static", kind, label) for run in runs)
    if value is None:
        return missing_cell("no documents")
    span = _span(runs, f"arms/static/{kind}/{label}", "bits_low", "bits_high", sign=False)
    detail = "\n".join(part for part in (formats.deviation(value), span or "no interval: too few units") if part)
    return Cell(formats.fixed(value.mean), value.mean, detail=detail)


def _difference_cell(inputs: Inputs, runs: Sequence[RunResults], stratum: tuple[str, str, str]) -> Cell:
    path = f"arms/{'/'.join(stratum)}"
    gap = measures.stratum_difference(runs, *stratum)
    if gap is None:
        reason = next((text for run in runs if (text := run.hebbian.text(f"{path}/reason"))), "no documents")
        return Cell(NOT_MEASURABLE if reason.startswith(NOT_MEASURABLE) else formats.ABSENT, None, reason)
    verdict = measures.judge(inputs, ("stratum", runs[0].corpus, runs[0].variant, *stratum), gap)
    count = f"n {gap.seeds}" if gap.seeds > 1 else ""
    parts = (formats.interval(gap.low, gap.high), count, verdict.word)
    return Cell(formats.signed(gap.value), gap.value, "", verdict.tone, detail="\n".join(p for p in parts if p))


def _span(runs: Sequence[RunResults], path: str, low: str, high: str, sign: bool = True) -> str:
    """From the lowest to the highest end over the seeds, empty without any."""
    bounds = ((run.hebbian.number(f"{path}/{low}"), run.hebbian.number(f"{path}/{high}")) for run in runs)
    return formats.widest(bounds, sign=sign)


def _count(runs: Sequence[RunResults], kind: str, label: str, name: str) -> Cell:
    for run in runs:
        count = run.hebbian.number(f"arms/static/{kind}/{label}/{name}")
        if count is not None:
            return Cell(formats.whole(count), count)
    return missing_cell("not counted")
