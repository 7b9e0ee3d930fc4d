"""Does the living synaptic state help? Every arm beside the static one, on the same tokens.

And arm carry at every damping of the sweep: what remembering longer changes, and how long the state remembers.
"""

from __future__ import annotations

import math

from bdh.report import formats
from bdh.report.data import measures
from bdh.report.data.inputs import Inputs, RunResults
from bdh.report.data.spread import Spread, Verdict, over_seeds
from bdh.report.plots.figure import Curve, Panel, slot_of
from bdh.report.tables.quality import spread_cell
from bdh.report.tables.table import Cell, Column, Row, Table, keys_of, missing_cell

UNCHANGED = "unchanged, as it must be"
ONE_SEED = "One seed (n 1): nothing over seeds is measured."
CHANGED = "FAULT: it changed the output"


def arms_of(runs: list[RunResults]) -> list[str]:
    """Arms beside static that some run names, in the order of the files."""
    names = (name for run in runs for name in run.hebbian.children("arms"))
    return [name for name in dict.fromkeys(names) if name != "static"]


def arm_difference(run: RunResults, arm: str) -> float | None:
    """Bits per byte of one arm minus those of the static arm, None when the run does not have it."""
    return run.hebbian.number(f"arms/{arm}/difference_to_static")


def arm_bounds(run: RunResults, arm: str) -> tuple[float | None, float | None]:
    """The 95 % interval of `arm_difference`."""
    return run.hebbian.number(f"arms/{arm}/ci_low"), run.hebbian.number(f"arms/{arm}/ci_high")


def arm_verdict(inputs: Inputs, corpus: str, variant: str, arm: str) -> Verdict | None:
    """One verdict on an arm over all seeds of a variant, None when no seed measured it.

    As everywhere on the page (`measures.judge_arm`); `observe` must change nothing at all, in any seed.
    """
    if arm != "observe":
        return measures.judge_arm(inputs, corpus, variant, arm)
    found = [value for run in inputs.of(corpus, variant) if (value := arm_difference(run, arm)) is not None]
    if not found:
        return None
    return Verdict(CHANGED, "bad") if any(found) else Verdict(UNCHANGED, "even")


def synapse_table(inputs: Inputs, corpus: str) -> Table:
    """One row per variant, one column per arm: difference to static, interval, verdict."""
    runs = inputs.of(corpus)
    arms = arms_of(runs)
    columns = [
        Column("static", "bits per byte", "State reset at every window.", "hebbian"),
        *(
            Column(arm.replace("_", " "), "minus static, bits per byte", _question(runs, arm), "hebbian")
            for arm in arms
        ),
        Column("documents", "read", "Held-out documents, whole ones in order.", "hebbian"),
    ]
    rows = [_row(inputs, corpus, variant, arms) for variant in inputs.variants]
    return Table(
        f"{corpus}-synapses",
        f"{corpus}: frozen weights, living synapses",
        columns,
        rows,
        notes=_notes(inputs, corpus, arms),
    )


def variant_table(inputs: Inputs, corpus: str, variant: str) -> Table:
    """The arms of one variant, one row each: the same numbers as in `synapse_table`, turned round, and their bits."""
    runs = inputs.of(corpus, variant)
    rows = []
    for arm in ("static", *arms_of(runs)):
        bits = measures.over(runs, measures.number_of("hebbian", f"arms/{arm}/bits_per_byte"))
        cells = [spread_cell(bits, 4, _reason(runs, arm))]
        cells.append(missing_cell() if arm == "static" else _arm_cell(inputs, corpus, variant, arm))
        cells.append(_beyond_cell(inputs, corpus, variant, arm) if arm in measures.STATE_ARMS else missing_cell())
        cells.append(Cell(_question(runs, arm), _question(runs, arm)))
        rows.append(Row(arm.replace("_", " "), cells, runs=keys_of(runs)))
    columns = (
        Column("test", "bits per byte", "", "hebbian"),
        Column("minus static", "bits per byte", "", "hebbian"),
        Column("minus overlap", "bits per byte", "Beside windows moved by a half, without a state.", "hebbian"),
        Column("what it asks"),
    )
    return Table(f"{corpus}-arms-{variant}", f"{variant} on {corpus}: its arms", columns, rows, first=Column("arm"))


def _row(inputs: Inputs, corpus: str, variant: str, arms: list[str]) -> Row:
    runs = inputs.of(corpus, variant)
    documents = measures.over(runs, measures.number_of("hebbian", "arms/static/documents"))
    cells = [
        spread_cell(measures.over(runs, measures.test_bits), reason=_reason(runs, "static")),
        *(_arm_cell(inputs, corpus, variant, arm) for arm in arms),
        Cell(formats.whole(None if documents is None else documents.mean), documents.mean if documents else None),
    ]
    return Row(variant, cells, slot_of(inputs.variants, variant), runs=keys_of(runs))


def _arm_cell(inputs: Inputs, corpus: str, variant: str, arm: str) -> Cell:
    runs = inputs.of(corpus, variant)
    verdict = arm_verdict(inputs, corpus, variant, arm)
    value = measures.over(runs, lambda run: arm_difference(run, arm))
    if verdict is None or value is None:
        reason = _reason(runs, arm)
        short = reason.startswith("not measurable")
        return Cell(formats.ABSENT, None, reason, detail="not measurable" if short else "not run")
    span = "" if arm == "observe" else _interval(runs, arm)
    count = f"n {value.n}" if value.n > 1 else ""
    detail = "\n".join(part for part in (span, count, verdict.word) if part)
    return Cell(formats.signed(value.mean, 4), value.mean, _reason(runs, arm), verdict.tone, detail=detail)


def _interval(runs: list[RunResults], arm: str) -> str:
    """The interval over seeds and text; without one, from the lowest to the highest end of the single seeds."""
    gap = measures.compare_arms(runs, arm) if len(runs) > 1 else None
    if gap is not None and gap.covers_seeds:
        return formats.interval(gap.low, gap.high)
    return formats.widest(arm_bounds(run, arm) for run in runs)


def _notes(inputs: Inputs, corpus: str, arms: list[str]) -> list[str]:
    runs = inputs.of(corpus)
    if not arms:
        return ["No arm has been measured yet."]
    notes = ["Negative: the arm predicts better than static. Better and worse are said of several seeds: Definitions."]
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
            if arm_verdict(inputs, corpus, variant, arm) is None:
                reasons.setdefault(_reason(runs, arm), []).append(f"{arm.replace('_', ' ')} of {variant}")
    return [f"{_heading(reason)}{', '.join(names)}: {reason}" for reason, names in reasons.items()]


def _heading(reason: str) -> str:
    return "" if reason.startswith("not measurable") else "Not run: "


def _question(runs: list[RunResults], arm: str) -> str:
    return _first(runs, f"questions/{arm}") or ""


def _first(runs: list[RunResults], key: str) -> str | None:
    return next((text for run in runs if (text := run.hebbian.text(key))), None)


def _reason(runs: list[RunResults], arm: str) -> str:
    return _first(runs, f"arms/{arm}/reason") or _first(runs, "reason") or ""


def overlap_table(inputs: Inputs, corpus: str) -> Table | None:
    """One row per variant with a state: what its arms gain over windows that are only moved; None without any.

    The whole text, and by quarter of the static window.
    """
    every = inputs.of(corpus)
    quarters = next((found for run in every if (found := _quarters(run))), [])
    carrying = [v for v in inputs.variants if measures.compare_arms(inputs.of(corpus, v), "carry", "overlap")]
    if not carrying:
        return None
    columns = [
        *(Column(arm, "minus overlap, bits per byte", _question(every, arm), "hebbian") for arm in measures.STATE_ARMS),
        *(
            Column(
                f"carry, tokens {start} to {end - 1}",
                "minus overlap, bits per byte",
                "Place in the static window.",
                "hebbian",
            )
            for start, end in quarters
        ),
    ]
    rows = []
    for variant in carrying:
        runs = inputs.of(corpus, variant)
        cells = [_beyond_cell(inputs, corpus, variant, arm) for arm in measures.STATE_ARMS]
        cells += [_quarter_cell(runs, start) for start, _ in quarters]
        rows.append(Row(variant, cells, slot_of(inputs.variants, variant), runs=keys_of(runs)))
    notes = [
        "Overlap reads windows of the same length, moved by a half, without any state: every token after a document's"
        " first window has half a window before it. Negative: the carried state does more than that. A state that only"
        " repairs the border of the window gains no more than overlap does.",
        "Intervals: paired by unit of text; several seeds: over seeds and text in the first two columns, from the"
        " lowest to the highest end by quarter. Quarters hold the tokens of every window, a document's first one too,"
        " and are not tested against each other.",
    ]
    return Table(f"{corpus}-overlap", f"{corpus}: the carried state beside a moved window", columns, rows, notes=notes)


def _quarters(run: RunResults) -> list[tuple[int, int]]:
    """First and last token (exclusive) of the quarters of the window that arm carry was judged in."""
    return [(int(row["from"]), int(row["to"])) for row in run.hebbian.rows("arms/carry/by_window", "from", "to")]


def _beyond_cell(inputs: Inputs, corpus: str, variant: str, arm: str) -> Cell:
    runs = inputs.of(corpus, variant)
    gap = measures.compare_arms(runs, arm, "overlap")
    if gap is None:
        return missing_cell(_reason(runs, arm) or "not run")
    verdict = measures.judge(inputs, ("beyond", corpus, variant, arm), gap)
    parts = (formats.interval(gap.low, gap.high, 4), f"n {len(runs)}" if len(runs) > 1 else "", verdict.word)
    return Cell(formats.signed(gap.value, 4), gap.value, "", verdict.tone, detail="\n".join(p for p in parts if p))


def _quarter_cell(runs: list[RunResults], start: int) -> Cell:
    names = ("from", "difference_to_overlap", "overlap_low", "overlap_high")
    rows = [row for run in runs for row in run.hebbian.rows("arms/carry/by_window", *names) if row["from"] == start]
    value = over_seeds(row["difference_to_overlap"] for row in rows)
    if value is None:
        return missing_cell("not measurable")
    span = formats.widest(((row["overlap_low"], row["overlap_high"]) for row in rows), 4)
    parts = (formats.deviation(value, 4), span)
    return Cell(formats.signed(value.mean, 4), value.mean, detail="\n".join(p for p in parts if p))


def sweep_number(runs: list[RunResults], damping: float, name: str) -> Spread | None:
    """One number at one damping over seeds."""
    found = (measures.sweep_rows(run).get(damping, {}).get(name) for run in runs)
    return over_seeds(value for value in found if isinstance(value, int | float))


def dampings(inputs: Inputs, corpus: str) -> list[float]:
    """Every damping that some run on the corpus was read at, ascending."""
    return sorted({damping for run in inputs.of(corpus) for damping in measures.sweep_rows(run)})


def sweep_table(inputs: Inputs, corpus: str) -> Table | None:
    """One row per variant with a state, one column per damping; None when nothing was swept."""
    swept = dampings(inputs, corpus)
    if not swept:
        return None
    columns = [
        Column(f"damping {damping:g}", "minus static, bits per byte", "Arm carry at this damping per token.", "hebbian")
        for damping in swept
    ]
    rows = [
        Row(
            variant,
            [_cell(inputs, corpus, variant, damping) for damping in swept],
            slot_of(inputs.variants, variant),
            runs=keys_of(inputs.of(corpus, variant)),
        )
        for variant in inputs.variants
        if any(measures.sweep_rows(run) for run in inputs.of(corpus, variant))
    ]
    alone = (f"{damping:g}: {_tokens(_alone(damping))}" for damping in swept)
    return Table(
        f"{corpus}-damping",
        f"{corpus}: arm carry by damping",
        columns,
        rows,
        notes=[
            f"Half-life that damping alone gives, tokens: {', '.join(alone)}. Half-life measured: of an exponential"
            " through the autocorrelation of the state at one window; – where that is not positive.",
            "Intervals: as in the table above; several seeds: over seeds. The dampings are"
            " not tested against each other.",
        ],
    )


def sweep_panel(inputs: Inputs, corpus: str) -> Panel:
    """Arm carry minus static against the half-life of the state; a state that is not damped has none."""
    curves = []
    for variant in inputs.variants:
        runs = inputs.of(corpus, variant)
        points = [
            (life, gap.mean)
            for damping in dampings(inputs, corpus)
            if (life := _alone(damping)) and (gap := sweep_number(runs, damping, "difference_to_static"))
        ]
        if points:
            x, y = zip(*points, strict=True)
            curves.append(Curve(variant, slot_of(inputs.variants, variant), list(x), list(y)))
    return Panel(
        f"{corpus}-damping-sweep",
        "What carrying the state changes, by how long it remembers",
        "half-life by damping, tokens",
        "carry minus static, bits per byte",
        curves,
        [("no change", 0.0)] if curves else [],
        log_x=True,
        note="Below the line: the carried state helps. Damping 1 has no half-life and is in the table alone.",
    )


def _cell(inputs: Inputs, corpus: str, variant: str, damping: float) -> Cell:
    runs = inputs.of(corpus, variant)
    rows = [row for run in runs if (row := measures.sweep_rows(run).get(damping))]
    value = sweep_number(runs, damping, "difference_to_static")
    memory = f"half-life measured {_tokens(_mean(sweep_number(runs, damping, 'half_life_measured_tokens')))}"
    if value is None:
        reason = next((str(row["reason"]) for row in rows if row.get("reason")), "not run")
        return missing_cell(reason)
    gap = measures.sweep_difference(runs, damping)
    verdict = measures.judge(inputs, ("sweep", corpus, variant, f"{damping:g}"), gap)
    span = "" if gap is None else formats.interval(gap.low, gap.high, 4)
    parts = (formats.deviation(value, 4), span, verdict.word, memory)
    return Cell(formats.signed(value.mean, 4), value.mean, "", verdict.tone, detail="\n".join(p for p in parts if p))


def _mean(value: Spread | None) -> float | None:
    return None if value is None else value.mean


def _alone(damping: float) -> float | None:
    return None if damping >= 1.0 else math.log(2.0) / -math.log(damping)


def _tokens(value: float | None) -> str:
    return formats.whole(value) if value is None or value >= 100 else f"{value:.3g}"
