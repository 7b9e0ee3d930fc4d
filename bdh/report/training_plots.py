"""What happened in training: bits per byte, density, size and rank of the state, gain, over steps and operations."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import pandas as pd

from bdh.report import measures
from bdh.report.figure import Curve, Panel
from bdh.report.inputs import Inputs, Run
from bdh.report.palette import slot_of

LAYERS = re.compile(r"_(\d+)$")
KNOWN = {"step", "train_nats", "validation_nats", "validation_nats_average", "learning_rate", "gradient_norm"}


def training_panels(inputs: Inputs, corpus: str) -> list[Panel]:
    """Every plot of training on one corpus; a quantity that no run recorded gives no plot."""
    floor = measures.floor_bits(inputs.facts[corpus])
    unigram = measures.unigram_bits(inputs.facts[corpus])
    levels = [("unigram (test)", unigram)] if unigram is not None else []
    levels += [("known floor (test)", floor)] if floor is not None else []
    learning = _lines(inputs, corpus, _validation_bits)
    panels = [
        Panel(
            f"{corpus}-learning-steps", "Learning curve", "training step", "validation, bits per byte", learning, levels
        ),
        Panel(
            f"{corpus}-learning-flops",
            "Learning curve by work done",
            "training operations, FLOP",
            "validation, bits per byte",
            _against_flops(inputs, corpus, learning),
            levels,
            log_x=True,
        ),
    ]
    return panels + [_diagnostic(inputs, corpus, name) for name in diagnostics(inputs.of(corpus))]


def diagnostics(runs: Sequence[Run]) -> list[str]:
    """Quantities beside the losses that some history recorded: columns without their layer number, sorted."""
    columns = (str(name) for run in runs if run.history is not None for name in run.history.columns)
    return sorted({LAYERS.sub("", name) for name in columns if name not in KNOWN and not name.endswith("seconds")})


def _diagnostic(inputs: Inputs, corpus: str, name: str) -> Panel:
    title, label = _wording(name)
    return Panel(
        f"{corpus}-{name.replace('_', '-')}",
        f"{title} over training",
        "training step",
        label,
        _lines(inputs, corpus, lambda run: _mean_over_layers(run, name)),
        log_y=name.startswith("state_norm"),
        note="Mean over layers.",
    )


def _wording(name: str) -> tuple[str, str]:
    for prefix, title, label in (
        ("density_", "Density of {}", "share of non-zeros"),
        ("state_norm_", "Frobenius norm of the state {}", "norm"),
        ("state_rank_", "Effective rank of the state {}", "rank"),
    ):
        if name.startswith(prefix):
            return title.format(name.removeprefix(prefix)), label
    return name.replace("_", " ").capitalize(), "mean"


def _mean_over_layers(run: Run, name: str) -> pd.Series | None:
    history = run.history
    if history is None:
        return None
    columns = [column for column in history.columns if LAYERS.sub("", str(column)) == name]
    return _by_step(history, history[columns].mean(axis=1)) if columns else None


def _validation_bits(run: Run) -> pd.Series | None:
    factor = measures.bits_per_nat(run)
    if run.history is None or factor is None or "validation_nats" not in run.history:
        return None
    column = "validation_nats"
    if run.train.text("judged") == "average" and "validation_nats_average" in run.history:
        column = "validation_nats_average"
    return _by_step(run.history, run.history[column] * factor)


def _by_step(history: pd.DataFrame, values: pd.Series) -> pd.Series:
    return pd.Series(values.to_numpy(dtype=float), index=history["step"].to_numpy()).dropna()


def _lines(inputs: Inputs, corpus: str, curve_of: Callable[[Run], pd.Series | None]) -> list[Curve]:
    """One line per variant: the mean over seeds at the steps that all seeds share, with the range as its band."""
    lines = []
    for variant in inputs.variants:
        found = [curve for run in inputs.of(corpus, variant) if (curve := curve_of(run)) is not None and len(curve)]
        if not found:
            continue
        joined = pd.concat(found, axis=1, join="inner").sort_index()
        band = (joined.min(axis=1).tolist(), joined.max(axis=1).tolist()) if len(found) > 1 else (None, None)
        slot = slot_of(inputs.variants, variant)
        lines.append(Curve(variant, slot, joined.index.tolist(), joined.mean(axis=1).tolist(), *band))
    return lines


def _against_flops(inputs: Inputs, corpus: str, lines: Sequence[Curve]) -> list[Curve]:
    """The same lines with steps turned into operations; a line whose work is unknown is left out."""
    moved = []
    for line in lines:
        for run in inputs.of(corpus, line.label):
            work, steps = measures.training_flops(run), run.train.number("steps_done")
            if work and steps:
                keep = [i for i, step in enumerate(line.x) if step > 0]
                low, high = ([side[i] for i in keep] if side else None for side in (line.low, line.high))
                x = [line.x[i] * work / steps for i in keep]
                moved.append(Curve(line.label, line.slot, x, [line.y[i] for i in keep], low, high))
                break
    return moved
