"""The runner: all frontier metrics of one run beside their nulls and its untrained twins.

Model and twins read the text once; what they showed is handed to every metric of the registry (`Context`).
"""

from __future__ import annotations

import dataclasses
import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from bdh.frontier import registry
from bdh.frontier.rows import absent, finite_points, finite_row, mean_or_none, point
from bdh.frontier.survey import Context, Survey, Texts, survey
from bdh.hebbian.activity import CODE
from bdh.hebbian.coactivation import Coactivation
from bdh.hebbian.held_out import HeldOut
from bdh.hebbian.scores import totals
from bdh.models.base import LanguageModel, build

if TYPE_CHECKING:
    from bdh.params import Frontier

SMALL = 1e-3
TWIN_SEED = 1_000_003


@dataclass(frozen=True)
class Trained:
    """A trained run. config: its config.json. stage_b: its reports/hebbian/<key>.json. coactivation: None without."""

    model: LanguageModel
    config: dict[str, Any]
    stage_b: dict[str, Any]
    coactivation: Coactivation | None


def measure(
    run: Trained, texts: Texts, settings: Frontier, device: torch.device | str, *, bfloat16: bool = False
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What reports/frontier/<key>.json holds, and the rows of reports/curves/<key>.csv (metric, x, y, series)."""
    seeds = twin_seeds(run.config["seed"], settings.twins)
    context = read(
        run, [untrained_twin(run.config, seed).to(device) for seed in seeds], texts, settings, device, bfloat16
    )
    metrics, curves = {}, position_curves(run.stage_b)
    for metric in registry.METRICS:
        found, points = importlib.import_module(metric.module).compute(context)
        parts = {part: finite_row(found[part]) for part in metric.parts}
        metrics[metric.name] = parts or finite_row(found)
        curves += finite_points(points)
    static = run.stage_b["arms"]["static"]
    report = {
        "nats_per_token": static["nats_per_token"],
        "bits_per_byte": static["bits_per_byte"],
        "perplexity": static["perplexity"],
        "sample": _sample(context.own, texts.text),
        **activity_report(context.own),
        "weight_sparsity": weight_sparsity(run.model),
        **metrics,
        "untrained": _untrained(context, seeds),
    }
    return report, curves


def read(
    run: Trained,
    twins: list[LanguageModel],
    texts: Texts,
    settings: Frontier,
    device: torch.device | str,
    bfloat16: bool,
) -> Context:
    """The text as the model and its twins read it, with the coactivation state that stage B made of it."""
    state = state_over(texts.text, run.coactivation)
    own, *others = (survey(model, texts.text, device, bfloat16, like=state) for model in (run.model, *twins))
    damping = 1.0 if run.coactivation is None else run.coactivation.damping
    return Context(run.model, twins, own, others, texts, settings, damping, device, bfloat16)


def state_over(text: HeldOut, state: Coactivation | None) -> Coactivation | None:
    """The part of a coactivation state that the leading windows of `text` made."""
    if state is None:
        return None
    common = min(len(state.codes), text.windows)
    same = int(np.cumprod(state.tokens[:common] == text.bounds[1 : common + 1]).sum())
    return dataclasses.replace(
        state, codes=state.codes[:same], tokens=state.tokens[:same], document=state.document[:same]
    )


def twin_seeds(seed: int, count: int) -> list[int]:
    """Seeds of the untrained twins of a run, none of which is the seed of a run."""
    return [TWIN_SEED + 1000 * seed + number for number in range(count)]


def untrained_twin(config: dict[str, Any], seed: int) -> LanguageModel:
    """The model of a run with fresh weights."""
    return build(config["architecture"], vocab_size=config["vocab_size"], seed=seed, **config["model"]).eval()


def activity_report(found: Survey) -> dict[str, Any]:
    """Density per sparse tap, means of the other taps, and the share of neurons that never fired.

    `dead_neurons_share` is that of x_sparse, or of the first sparse tap of a variant without it; a neuron counts once
    per layer.
    """
    dead = found.activity.never_active()
    tap = CODE if CODE in dead else next(iter(dead), None)
    return {
        "density": found.activity.density(),
        "tap_means": found.activity.means(),
        "dead_neurons_share": None if tap is None else dead[tap]["mean"],
        "dead_neurons": dead,
    }


def position_curves(stage_b: dict[str, Any]) -> list[dict[str, Any]]:
    """Bits per byte over the position in the document, one series per arm; x is the first position of a bucket."""
    return [
        point("bits_per_byte_by_position", bucket["from"], bucket["bits_per_byte"], name)
        for name, arm in stage_b["arms"].items()
        for bucket in arm["by_position"] or []
        if bucket["bits_per_byte"] is not None
    ]


def _sample(found: Survey, text: HeldOut) -> dict[str, Any]:
    """How long the text is that density, SPS and SEC are measured on, and how well the model predicts it."""
    every = np.ones(text.scored, dtype=bool)
    scores = totals(found.nats, found.nats, text, every)
    names = ("tokens", "bytes", "nats_per_token", "bits_per_byte")
    return {"documents": len(text.documents)} | {name: scores[name] for name in names}


def _untrained(context: Context, seeds: list[int]) -> dict[str, Any]:
    """What the first twin is like, and the mean over all twins of how well they predict the text."""
    samples = [_sample(found, context.texts.text) for found in context.others]
    bits = [sample["bits_per_byte"] for sample in samples if sample["bits_per_byte"] is not None]
    return {
        "seeds": seeds,
        "nats_per_token": float(np.mean([sample["nats_per_token"] for sample in samples])),
        "bits_per_byte": mean_or_none(bits),
        **activity_report(context.others[0]),
        "weight_sparsity": weight_sparsity(context.twins[0]),
    }


def not_measured(reason: str) -> dict[str, Any]:
    """The report on a run that has no model: every metric is absent for the same reason."""
    row = absent(f"not measured: {reason}")
    found = {metric.name: dict.fromkeys(metric.parts, row) if metric.parts else row for metric in registry.METRICS}
    return {"reason": row["reason"], "density": {}, **found}


def weight_sparsity(model: LanguageModel) -> dict[str, float]:
    """Share of parameters that are exactly zero and share below 1e-3 in magnitude, tied ones counted once."""
    zeros = small = total = 0
    for parameter in model.parameters():
        magnitude = parameter.detach().abs()
        zeros += int((magnitude == 0).sum())
        small += int((magnitude < SMALL).sum())
        total += parameter.numel()
    return {"exact_zeros": zeros / max(total, 1), "below_0.001": small / max(total, 1)}
