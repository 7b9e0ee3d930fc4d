"""Does the living synaptic state help? Every arm beside the static one, on the same tokens."""

from __future__ import annotations

from bdh.report import formats, measures
from bdh.report.inputs import Inputs, Run
from bdh.report.palette import slot_of
from bdh.report.quality_table import spread_cell
from bdh.report.table import Cell, Column, Row, Table, missing_cell, verdict_cell
from bdh.report.verdicts import Verdict, of_interval, of_seeds

COLUMNS = (
    Column("static", "bits per byte", "State reset at every window."),
    Column("arm", "bits per byte"),
    Column("arm minus static", "bits per byte", "Negative: the arm predicts better."),
    Column("95 % interval", "bits per byte", "Paired bootstrap; with several seeds: every seed's."),
    Column("documents", "count", "Held-out documents read."),
    Column("verdict", "by rule", "Interval below 0: better. Above 0: worse. Otherwise: no difference shown."),
)


def arms_of(runs: list[Run]) -> list[str]:
    """Arms beside static that some run names, in the order of the files."""
    names = (name for run in runs for name in run.hebbian.children("arms"))
    return [name for name in dict.fromkeys(names) if name != "static"]


def arm_verdict(run: Run, arm: str) -> Verdict | None:
    """Verdict on one arm of one run: by the interval; `observe` must change nothing at all."""
    value = run.hebbian.number(f"arms/{arm}/difference_to_static")
    if value is None:
        return None
    if arm == "observe":
        return Verdict("unchanged, as it must be", "even") if value == 0 else Verdict("FAULT: output changed", "bad")
    return of_interval(*_bounds(run, arm))


def variant_verdict(runs: list[Run], arm: str) -> Verdict | None:
    """One verdict on an arm over all seeds of a variant, None when no seed measured it."""
    found = [verdict for run in runs if (verdict := arm_verdict(run, arm)) is not None]
    return of_seeds(found) if found else None


def synapse_table(inputs: Inputs, corpus: str) -> Table:
    """One row per variant and arm on one corpus."""
    arms = arms_of(inputs.of(corpus))
    rows = [_row(inputs, corpus, variant, arm) for arm in arms for variant in inputs.variants]
    runs = inputs.of(corpus)
    questions = {arm: _first(runs, f"questions/{arm}") for arm in arms}
    units = {unit for run in runs for arm in arms if (unit := run.hebbian.text(f"arms/{arm}/bootstrap_unit"))}
    meanings = [f"{arm}: {question}" for arm, question in questions.items() if question]
    notes = ["; ".join(meanings) + "."] if meanings else []
    notes += [f"Intervals resample in pairs, by {' or by '.join(sorted(units))}."] if units else []
    return Table(
        f"{corpus}-synapses",
        f"{corpus}: frozen weights, living synapses",
        COLUMNS,
        rows,
        first=Column("variant, arm"),
        notes=notes or ["No arm has been measured yet."],
    )


def _first(runs: list[Run], key: str) -> str | None:
    return next((text for run in runs if (text := run.hebbian.text(key))), None)


def _bounds(run: Run, arm: str) -> tuple[float | None, float | None]:
    return run.hebbian.number(f"arms/{arm}/ci_low"), run.hebbian.number(f"arms/{arm}/ci_high")


def _row(inputs: Inputs, corpus: str, variant: str, arm: str) -> Row:
    runs, slot = inputs.of(corpus, variant), slot_of(inputs.variants, variant)
    reason = _reason(runs, arm)
    verdict = variant_verdict(runs, arm)
    static = spread_cell(measures.over(runs, measures.test_bits), reason=reason)
    if verdict is None:
        cells = [static, *(missing_cell(reason) for _ in COLUMNS[2:]), Cell(f"not run: {reason}", "not run")]
        return Row(f"{variant}, {arm}", cells, slot)
    value = measures.over(runs, measures.number_of("hebbian", f"arms/{arm}/difference_to_static"))
    bounds = [formats.interval(*_bounds(run, arm)) for run in runs]
    documents = measures.over(runs, measures.number_of("hebbian", f"arms/{arm}/documents"))
    cells = [
        static,
        spread_cell(measures.over(runs, measures.number_of("hebbian", f"arms/{arm}/bits_per_byte")), 3, reason),
        missing_cell(reason) if value is None else Cell(_change(value.mean, value.sd, value.n), value.mean),
        Cell("; ".join(bound for bound in bounds if bound) or formats.ABSENT, None, "" if any(bounds) else "none"),
        missing_cell(reason) if documents is None else Cell(formats.whole(documents.mean), documents.mean),
        verdict_cell(verdict),
    ]
    return Row(f"{variant}, {arm}", cells, slot)


def _change(mean: float, sd: float | None, n: int) -> str:
    text = formats.signed(mean, 4)
    return text if sd is None else f"{text} ± {formats.fixed(sd, 4)} (n {n})"


def _reason(runs: list[Run], arm: str) -> str:
    absent = next((f"{run.hebbian.path} is missing (stage hebbian)" for run in runs if not run.hebbian), None)
    return _first(runs, f"arms/{arm}/reason") or absent or "the result names no reason"
