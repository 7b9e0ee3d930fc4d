"""Does the living synaptic state help? Every arm beside the static one, on the same tokens."""

from __future__ import annotations

from bdh.report import formats, measures
from bdh.report.inputs import Inputs, Run
from bdh.report.palette import slot_of
from bdh.report.quality_table import spread_cell
from bdh.report.table import Cell, Column, Row, Table
from bdh.report.verdicts import Verdict, of_interval, of_seeds

UNCHANGED = "unchanged, as it must be"
ONE_SEED = "One seed (n 1): nothing over seeds is measured."
CHANGED = "FAULT: it changed the output"


def arms_of(runs: list[Run]) -> list[str]:
    """Arms beside static that some run names, in the order of the files."""
    names = (name for run in runs for name in run.hebbian.children("arms"))
    return [name for name in dict.fromkeys(names) if name != "static"]


def arm_difference(run: Run, arm: str) -> float | None:
    """Bits per byte of one arm minus those of the static arm, None when the run does not have it."""
    return run.hebbian.number(f"arms/{arm}/difference_to_static")


def arm_bounds(run: Run, arm: str) -> tuple[float | None, float | None]:
    """The 95 % interval of `arm_difference`."""
    return run.hebbian.number(f"arms/{arm}/ci_low"), run.hebbian.number(f"arms/{arm}/ci_high")


def arm_verdict(run: Run, arm: str) -> Verdict | None:
    """Verdict on one arm of one run: by the interval; `observe` must change nothing at all."""
    value = arm_difference(run, arm)
    if value is None:
        return None
    if arm == "observe":
        return Verdict(UNCHANGED, "even") if value == 0 else Verdict(CHANGED, "bad")
    return of_interval(*arm_bounds(run, arm))


def variant_verdict(runs: list[Run], arm: str) -> Verdict | None:
    """One verdict on an arm over all seeds of a variant, None when no seed measured it.

    Over several seeds by the paired interval over seeds and text, else what the single seeds say.
    """
    found = [verdict for run in runs if (verdict := arm_verdict(run, arm)) is not None]
    if not found:
        return None
    gap = measures.compare_arms(runs, arm) if len(found) > 1 and arm != "observe" else None
    return of_interval(gap.low, gap.high) if gap is not None and gap.covers_seeds else of_seeds(found)


def synapse_table(inputs: Inputs, corpus: str) -> Table:
    """One row per variant, one column per arm: difference to static, interval, verdict."""
    runs = inputs.of(corpus)
    arms = arms_of(runs)
    columns = [
        Column("static", "bits per byte", "State reset at every window."),
        *(Column(arm.replace("_", " "), "minus static, bits per byte", _question(runs, arm)) for arm in arms),
        Column("documents", "read", "Held-out documents, whole ones in order."),
    ]
    rows = [_row(inputs, corpus, variant, arms) for variant in inputs.variants]
    return Table(
        f"{corpus}-synapses",
        f"{corpus}: frozen weights, living synapses",
        columns,
        rows,
        notes=_notes(inputs, corpus, arms),
    )


def _row(inputs: Inputs, corpus: str, variant: str, arms: list[str]) -> Row:
    runs = inputs.of(corpus, variant)
    documents = measures.over(runs, measures.number_of("hebbian", "arms/static/documents"))
    cells = [
        spread_cell(measures.over(runs, measures.test_bits), reason=_reason(runs, "static")),
        *(_arm_cell(runs, arm) for arm in arms),
        Cell(formats.whole(None if documents is None else documents.mean), documents.mean if documents else None),
    ]
    return Row(variant, cells, slot_of(inputs.variants, variant))


def _arm_cell(runs: list[Run], arm: str) -> Cell:
    verdict = variant_verdict(runs, arm)
    value = measures.over(runs, lambda run: arm_difference(run, arm))
    if verdict is None or value is None:
        reason = _reason(runs, arm)
        short = reason.startswith("not measurable")
        return Cell(formats.ABSENT, None, reason, detail="not measurable" if short else "not run")
    span = "" if arm == "observe" else _interval(runs, arm)
    count = f"n {value.n}" if value.n > 1 else ""
    detail = "\n".join(part for part in (span, count, verdict.word) if part)
    return Cell(formats.signed(value.mean, 4), value.mean, _reason(runs, arm), verdict.tone, detail=detail)


def _interval(runs: list[Run], arm: str) -> str:
    """The interval over seeds and text; without one, from the lowest to the highest end of the single seeds."""
    gap = measures.compare_arms(runs, arm) if len(runs) > 1 else None
    if gap is not None and gap.covers_seeds:
        return formats.interval(gap.low, gap.high)
    bounds = [arm_bounds(run, arm) for run in runs]
    lows, highs = [low for low, _ in bounds if low is not None], [high for _, high in bounds if high is not None]
    return formats.interval(min(lows), max(highs)) if lows and highs else ""


def _notes(inputs: Inputs, corpus: str, arms: list[str]) -> list[str]:
    runs = inputs.of(corpus)
    if not arms:
        return ["No arm has been measured yet."]
    notes = ["Negative: the arm predicts better than static. Interval below 0: better; above 0: worse; around 0: no "
             "difference shown."]  # fmt: skip
    questions = [f"{arm.replace('_', ' ')}: {_question(runs, arm)}" for arm in arms if _question(runs, arm)]
    if questions:
        notes.append("; ".join(questions))
    units = {unit for run in runs for arm in arms if (unit := run.hebbian.text(f"arms/{arm}/bootstrap_unit"))}
    if units:
        each = " Several seeds: over seeds and text together." if len(inputs.seeds) > 1 else f" {ONE_SEED}"
        notes.append(f"95 % intervals: paired bootstrap by {' or by '.join(sorted(units))}.{each}")
    return notes + _not_run(inputs, corpus, arms)


def _not_run(inputs: Inputs, corpus: str, arms: list[str]) -> list[str]:
    """Why arms were not run, one line per reason."""
    reasons: dict[str, list[str]] = {}
    for arm in arms:
        for variant in inputs.variants:
            runs = inputs.of(corpus, variant)
            if variant_verdict(runs, arm) is None:
                reasons.setdefault(_reason(runs, arm), []).append(f"{arm.replace('_', ' ')} of {variant}")
    return [f"{_heading(reason)}{', '.join(names)}: {reason}" for reason, names in reasons.items()]


def _heading(reason: str) -> str:
    return "" if reason.startswith("not measurable") else "Not run: "


def _question(runs: list[Run], arm: str) -> str:
    return _first(runs, f"questions/{arm}") or ""


def _first(runs: list[Run], key: str) -> str | None:
    return next((text for run in runs if (text := run.hebbian.text(key))), None)


def _reason(runs: list[Run], arm: str) -> str:
    absent = next((f"{run.hebbian.path} is missing (stage hebbian)" for run in runs if not run.hebbian), None)
    return _first(runs, f"arms/{arm}/reason") or absent or ""
