"""Every variant beside bdh on the same corpus and seeds: paired tests, mean and interval over seeds, always with n."""

from __future__ import annotations

from dataclasses import dataclass

from bdh.report import formats, measures
from bdh.report.inputs import Inputs
from bdh.report.pairs import holm
from bdh.report.palette import slot_of
from bdh.report.quality_table import spread_cell
from bdh.report.spread import Difference, Spread
from bdh.report.table import Cell, Column, Row, Table, missing_cell, verdict_cell
from bdh.report.verdicts import Verdict, of_interval

BASE = "bdh"
ONE_SEED = (
    "One seed: nothing over seeds is measured. Intervals are over text, and the chance of training is not in them."
)
COLUMNS = (
    Column("seeds", "n", "Trainings with a test result."),
    Column("test", "bits per byte", "Mean over seeds, half its 95 % t interval, n."),
    Column("minus bdh", "bits per byte", "Paired by seed and by unit of text, with a 95 % interval."),
    Column("over", "", "What the interval is over, with numbers."),
    Column("p", "", "Two-sided, of no difference."),
    Column("p, adjusted", "Holm", "For the number of variants that are compared on this corpus."),
    Column("verdict", "over seeds", "By the interval over seeds; one seed has none."),
)


@dataclass(frozen=True)
class Standing:
    """One variant beside bdh: its bits per byte over seeds, the paired difference, and p adjusted by Holm."""

    bits: Spread
    gap: Difference | None
    adjusted: float | None

    @property
    def verdict(self) -> Verdict:
        """By the interval over seeds alone."""
        if self.gap is None or not self.gap.covers_seeds:
            return Verdict(f"not measurable: n {self.gap.seeds or 1 if self.gap else self.bits.n} seeds")
        return of_interval(self.gap.low, self.gap.high)


def standings(inputs: Inputs, corpus: str) -> dict[str, Standing]:
    """Every variant that has a test result on one corpus; bdh itself without a gap."""
    bits = {variant: measures.over(inputs.of(corpus, variant), measures.test_bits) for variant in inputs.variants}
    others = [variant for variant in inputs.variants if variant != BASE and bits[variant] is not None]
    gaps = {variant: measures.compare_variants(inputs, corpus, variant, BASE) for variant in others}
    chances = [None if (gap := gaps[variant]) is None else gap.p for variant in others]
    adjusted = dict(zip(others, holm(chances), strict=True))
    return {
        variant: Standing(spread, gaps.get(variant), adjusted.get(variant))
        for variant, spread in bits.items()
        if spread is not None
    }


def against_bdh_table(inputs: Inputs, corpus: str) -> Table:
    """One row per variant on one corpus."""
    found = standings(inputs, corpus)
    rows = [
        Row(variant, _cells(variant, found.get(variant)), slot_of(inputs.variants, variant))
        for variant in inputs.variants
    ]
    notes = [ONE_SEED] if len(inputs.seeds) == 1 else []
    if BASE not in inputs.variants:
        notes.append("bdh is not among the variants: there is nothing to compare with.")
    return Table(f"{corpus}-against-bdh", f"{corpus}: every variant beside bdh", COLUMNS, rows, notes=notes)


def _cells(variant: str, standing: Standing | None) -> list[Cell]:
    if standing is None:
        return [missing_cell("no test result") for _ in COLUMNS]
    count = Cell(formats.whole(standing.bits.n), standing.bits.n)
    gap = standing.gap
    if gap is None:
        reason = "the base of the comparison" if variant == BASE else "bdh has no test result on this corpus"
        return [count, spread_cell(standing.bits), *(missing_cell(reason) for _ in COLUMNS[2:])]
    detail = formats.interval(gap.low, gap.high)
    return [
        count,
        spread_cell(standing.bits),
        Cell(formats.signed(gap.value), gap.value, detail=detail)
        if gap.low is not None
        else missing_cell("not measurable: no interval can be had"),
        Cell(_over(gap), _over(gap)),
        Cell(formats.chance(gap.p), gap.p),
        Cell(formats.chance(standing.adjusted), standing.adjusted),
        verdict_cell(standing.verdict),
    ]


def _over(gap: Difference) -> str:
    parts = [f"{gap.seeds} seeds"] if gap.seeds else []
    parts += [f"{gap.units} {gap.over.removeprefix('seeds and ')}"] if gap.units else []
    return ", ".join(parts) or formats.ABSENT
