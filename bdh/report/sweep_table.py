"""Arm carry at every damping of the sweep: what remembering longer changes, and how long the state remembers."""

from __future__ import annotations

import math

from bdh.report import formats
from bdh.report.figure import Curve, Panel
from bdh.report.inputs import Inputs, Run
from bdh.report.palette import slot_of
from bdh.report.records import flatten
from bdh.report.spread import Spread, over_seeds
from bdh.report.table import Cell, Column, Row, Table, missing_cell
from bdh.report.verdicts import of_interval, of_seeds

ROWS = "damping_sweep/rows"


def sweep_rows(run: Run) -> dict[float, dict[str, float | None]]:
    """Numbers of one run by damping; empty when it carries no state or was not evaluated."""
    rows = run.hebbian.values.get(ROWS)
    if not isinstance(rows, list):
        return {}
    return {float(row["damping"]): flatten(row) for row in rows if isinstance(row, dict)}


def sweep_number(runs: list[Run], damping: float, name: str) -> Spread | None:
    """One number at one damping over seeds."""
    found = (sweep_rows(run).get(damping, {}).get(name) for run in runs)
    return over_seeds(value for value in found if isinstance(value, int | float))


def dampings(inputs: Inputs, corpus: str) -> list[float]:
    """Every damping that some run on the corpus was read at, ascending."""
    return sorted({damping for run in inputs.of(corpus) for damping in sweep_rows(run)})


def sweep_table(inputs: Inputs, corpus: str) -> Table | None:
    """One row per variant with a state, one column per damping; None when nothing was swept."""
    swept = dampings(inputs, corpus)
    if not swept:
        return None
    columns = [
        Column(f"damping {damping:g}", "minus static, bits per byte", "Arm carry at this damping per token.")
        for damping in swept
    ]
    rows = [
        Row(
            variant,
            [_cell(inputs.of(corpus, variant), damping) for damping in swept],
            slot_of(inputs.variants, variant),
        )
        for variant in inputs.variants
        if any(sweep_rows(run) for run in inputs.of(corpus, variant))
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
            "Intervals: as in the table above; several seeds: from the lowest to the highest end. The dampings are"
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


def _cell(runs: list[Run], damping: float) -> Cell:
    rows = [row for run in runs if (row := sweep_rows(run).get(damping))]
    value = sweep_number(runs, damping, "difference_to_static")
    memory = f"half-life measured {_tokens(_mean(sweep_number(runs, damping, 'half_life_measured_tokens')))}"
    if value is None:
        reason = next((str(row["reason"]) for row in rows if row.get("reason")), "not run")
        return missing_cell(reason)
    bounds = [(row["ci_low"], row["ci_high"]) for row in rows]
    lows, highs = [low for low, _ in bounds if low is not None], [high for _, high in bounds if high is not None]
    span = formats.interval(min(lows), max(highs), 4) if lows and highs else ""
    verdict = of_seeds([of_interval(low, high) for low, high in bounds])
    parts = (formats.deviation(value, 4), span, verdict.word, memory)
    return Cell(formats.signed(value.mean, 4), value.mean, "", verdict.tone, detail="\n".join(p for p in parts if p))


def _mean(value: Spread | None) -> float | None:
    return None if value is None else value.mean


def _alone(damping: float) -> float | None:
    return None if damping >= 1.0 else math.log(2.0) / -math.log(damping)


def _tokens(value: float | None) -> str:
    return formats.whole(value) if value is None or value >= 100 else f"{value:.3g}"
