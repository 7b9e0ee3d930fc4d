"""What happened in training: bits per byte, density, size and rank of the state, gain, over steps and operations.

And how far learning moved the synapses of the variants that may learn locally.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence

import pandas as pd

from bdh.report import formats
from bdh.report.data import measures
from bdh.report.data.inputs import Inputs, RunResults, damaged
from bdh.report.plots.figure import Curve, Panel, slot_of


def synapse_panels(inputs: Inputs, corpus: str) -> list[Panel]:
    """The histogram of weight changes of every run that recorded one, pooled over its maps; one line per variant."""
    curves = []
    for variant in inputs.variants:
        found = [points for run in inputs.of(corpus, variant) if (points := change_shares(run))]
        if found:
            curves.append(Curve(variant, slot_of(inputs.variants, variant), *found[0]))
    return [
        Panel(
            f"{corpus}-weight-changes",
            "How far learning moved the synapses",
            "weight minus initial weight, in root mean squares of the change",
            "share of synapses",
            curves,
            log_y=True,
            note="Surviving synapses of all hidden maps together, first seed. Where nothing moved there is no line.",
        )
    ]


def change_shares(run: RunResults) -> tuple[list[float], list[float]] | None:
    """Centre of every bin in root mean squares of the change, and the share of synapses in it; empty bins are left out.

    None without a record, and where nothing moved. Raises RunError when the bins of the maps differ.
    """
    record = run.weight_changes
    maps = list(dict.fromkeys(key.split("/")[0] for key in record.values))
    if not maps:
        return None
    edges = record.values[f"{maps[0]}/edges"]
    if any(record.values[f"{name}/edges"] != edges for name in maps):
        raise damaged(record.path, "its maps have different bins")
    counts = [sum(column) for column in zip(*(record.values[f"{name}/counts"] for name in maps), strict=True)]
    total = sum(counts)
    weights = [sum(record.values[f"{name}/counts"]) for name in maps]
    squares = [(record.number(f"{name}/rms") or 0.0) ** 2 for name in maps]
    spread = (sum(w * s for w, s in zip(weights, squares, strict=True)) / total) ** 0.5 if total else 0.0
    if spread == 0:
        return None
    centres = [(low + high) / 2 / spread for low, high in itertools.pairwise(edges)]
    kept = [(place, count / total) for place, count in zip(centres, counts, strict=True) if count]
    return [place for place, _ in kept], [share for _, share in kept]


LAYERS = re.compile(r"_(\d+)$")
LOSSES = ("train_", "validation_")
SETTINGS = {"step", "learning_rate", "gradient_norm"}


ACTIVE = ("density_xy_sparse", "density_y_sparse", "density_mlp_sparse", "density_x_sparse")
"""Densities by how near to the output they are: the first that a run recorded stands for its activity."""

DYNAMICS = ("state_norm_rho", "gain")
"""What the references plot beside loss and sparsity."""


def training_panels(inputs: Inputs, corpus: str) -> list[Panel]:
    """Every plot of training on one corpus; a quantity that no run recorded gives no plot."""
    return [*cost_panels(inputs, corpus), *dynamics_panels(inputs, corpus), *further_panels(inputs, corpus)]


def cost_panels(inputs: Inputs, corpus: str) -> list[Panel]:
    """Validation loss against tokens read, seconds of the machine, and operations."""
    learning = _lines(inputs, corpus, _validation_bits)
    drawn, note = levels(inputs, corpus, [y for line in learning for y in line.y])
    device = "GPU" if any((run.timing.text("device") or "cpu") != "cpu" for run in inputs.of(corpus)) else "CPU"
    spread = "The time of a run, spread evenly over its steps; of one machine, not repeated."
    axes: tuple[tuple[str, str, str, measures.Measure, str], ...] = (
        ("tokens", "tokens read", "tokens", measures.number_of("train", "tokens_seen"), ""),
        ("seconds", f"{device}-seconds", f"{device}-seconds of training", measures.device_seconds, spread),
        ("flops", "work done", "training operations, FLOP", measures.training_flops, ""),
    )
    return [
        Panel(
            f"{corpus}-learning-{name}",
            f"Loss against {word}",
            label,
            "validation, bits per byte",
            _against(inputs, corpus, learning, whole),
            drawn,
            log_x=True,
            note=f"{more} {note}".strip(),
        )
        for name, word, label, whole, more in axes
    ]


def dynamics_panels(inputs: Inputs, corpus: str) -> list[Panel]:
    """The references' own plot of a training: loss, sparsity, norm of the state rho, gain."""
    learning = _lines(inputs, corpus, _validation_bits)
    drawn, note = levels(inputs, corpus, [y for line in learning for y in line.y])
    found = [
        Panel(
            f"{corpus}-learning-steps",
            "Loss",
            "training step",
            "validation, bits per byte",
            learning,
            drawn,
            note=f"Step 0 is left out. {note}",
        ),
        Panel(
            f"{corpus}-active",
            "Active neurons",
            "training step",
            "share of non-zeros",
            _lines(inputs, corpus, _active),
            note="Innermost activation that the variant has, mean over layers.",
        ),
    ]
    named = diagnostics(inputs.of(corpus))
    return found + [_diagnostic(inputs, corpus, name) for name in DYNAMICS if name in named]


def further_panels(inputs: Inputs, corpus: str) -> list[Panel]:
    """Everything else that some history recorded."""
    named = [name for name in diagnostics(inputs.of(corpus)) if name not in DYNAMICS]
    return [_diagnostic(inputs, corpus, name) for name in named]


def _active(run: RunResults) -> pd.Series | None:
    columns = {LAYERS.sub("", str(column)) for column in run.history.columns}
    name = next((name for name in ACTIVE if name in columns), None)
    return None if name is None else _mean_over_layers(run, name)


def levels(inputs: Inputs, corpus: str, values: Sequence[float]) -> tuple[list[tuple[str, float]], str]:
    """Baselines near enough to the values drawn (bits per byte) to be drawn too, and a sentence about the others."""
    facts = inputs.facts[corpus]
    ngram = measures.strongest_ngram(facts)
    known = (
        (f"{ngram.title} (test)", ngram.bits),
        ("unigram (test)", measures.unigram_bits(facts, inputs.of(corpus))),
        ("known floor (test)", measures.floor_bits(facts)),
    )
    found = [(name, level) for name, level in known if level is not None]
    if not values:
        return found, ""
    low, high = min(values), max(values)
    reach = 0.5 * (high - low)
    drawn = [(name, level) for name, level in found if low - reach <= level <= high + reach]
    off = [f"{name} {formats.fixed(level)}" for name, level in found if (name, level) not in drawn]
    return drawn, f"Outside the plot: {', '.join(off)}." if off else ""


def diagnostics(runs: Sequence[RunResults]) -> list[str]:
    """Quantities beside the losses that some history recorded: columns without their layer number, sorted."""
    columns = (str(name) for run in runs for name in run.history.columns)
    return sorted({LAYERS.sub("", name) for name in columns if name not in SETTINGS and not name.startswith(LOSSES)})


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
    return f"Mean of {name}", "mean"


def _mean_over_layers(run: RunResults, name: str) -> pd.Series | None:
    columns = [column for column in run.history.columns if LAYERS.sub("", str(column)) == name]
    return _by_step(run.history, run.history[columns].mean(axis=1)) if columns else None


def _validation_bits(run: RunResults) -> pd.Series | None:
    """Bits per byte of the judged weights (raw or averaged), scaled from nats per token."""
    factor = measures.bits_per_nat(run)
    if factor is None:
        return None
    ending = "_average" if run.train.text("judged") == "average" else ""
    history = run.history[run.history["step"] > 0]
    return _by_step(history, history[f"validation_nats{ending}"] * factor)


def _by_step(history: pd.DataFrame, values: pd.Series) -> pd.Series:
    return pd.Series(values.to_numpy(dtype=float), index=history["step"].to_numpy()).dropna()


def _lines(inputs: Inputs, corpus: str, curve_of: Callable[[RunResults], pd.Series | None]) -> list[Curve]:
    """One line per variant: the mean over seeds at the steps that all seeds share, with the range as its band.

    A seed that diverged is left out: its history ends early.
    """
    lines = []
    for variant in inputs.variants:
        whole = [run for run in inputs.of(corpus, variant) if not run.divergence]
        found = [curve for run in whole if (curve := curve_of(run)) is not None and len(curve)]
        if not found:
            continue
        joined = pd.concat(found, axis=1, join="inner").sort_index()
        band = (joined.min(axis=1).tolist(), joined.max(axis=1).tolist()) if len(found) > 1 else (None, None)
        slot = slot_of(inputs.variants, variant)
        lines.append(Curve(variant, slot, joined.index.tolist(), joined.mean(axis=1).tolist(), *band))
    return lines


def _against(inputs: Inputs, corpus: str, lines: Sequence[Curve], whole: measures.Measure) -> list[Curve]:
    """The same lines with steps turned into shares of what the `whole` training took; left out where unknown."""
    moved = []
    for line in lines:
        for run in inputs.of(corpus, line.label):
            work, steps = whole(run), run.train.number("steps_done")
            if work and steps:
                keep = [i for i, step in enumerate(line.x) if step > 0]
                low, high = ([side[i] for i in keep] if side else None for side in (line.low, line.high))
                x = [line.x[i] * work / steps for i in keep]
                moved.append(Curve(line.label, line.slot, x, [line.y[i] for i in keep], low, high))
                break
    return moved
