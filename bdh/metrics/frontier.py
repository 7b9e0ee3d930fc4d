"""All frontier metrics of one run beside their nulls and its untrained twins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from bdh.corpora.tokens import TokenCorpus
from bdh.metrics import sec, sps, tmi
from bdh.metrics.rows import UNTRAINED, point
from bdh.metrics.survey import Survey, observe, survey
from bdh.metrics.weights import weight_sparsity
from bdh.models.base import LanguageModel, build
from bdh.params import Frontier
from bdh.plasticity import held_out
from bdh.plasticity.activity import CODE
from bdh.plasticity.coactivation import Coactivation
from bdh.plasticity.held_out import HeldOut
from bdh.plasticity.results import totals

TWIN_SEED = 1_000_003


@dataclass(frozen=True)
class Trained:
    """A trained run. config: its config.json. stage_b: its reports/hebbian/<key>.json. coactivation: None without."""

    model: LanguageModel
    config: dict[str, Any]
    stage_b: dict[str, Any]
    coactivation: Coactivation | None


@dataclass(frozen=True)
class Text:
    """sample: what density and SEC are measured on. whole: what stage B read, for the twins' coactivation state."""

    sample: HeldOut
    whole: HeldOut


def text_of(corpus: TokenCorpus, window: int, run: Trained, max_tokens: int) -> Text:
    """The test split cut into the windows of stage B: the sample of `max_tokens` and what stage B read."""
    sample = held_out.cut(corpus, "test", window, max_tokens)
    return Text(sample, held_out.cut(corpus, "test", window, run.stage_b["tokens"]))


def measure(
    run: Trained, text: Text, settings: Frontier, device: torch.device | str, *, bfloat16: bool = False
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What reports/frontier/<key>.json holds, and the rows of reports/curves/<key>.csv (metric, x, y, series)."""
    seeds = twin_seeds(run.config["seed"], settings.twins)
    twins = [untrained_twin(run.config, seed).to(device) for seed in seeds]
    own = survey(run.model, text.sample, device, bfloat16)
    others = [survey(twin, text.sample, device, bfloat16) for twin in twins]
    static = run.stage_b["arms"]["static"]
    metrics, curves = {}, position_curves(run.stage_b)
    for name, (row, points) in {
        "tmi": _tmi(run.model, twins, settings),
        "sps": _sps(run, twins, text, settings, device, bfloat16),
        "sec": _sec(own, others, text.sample, settings),
    }.items():
        metrics[name] = row
        curves += points
    report = {
        "nats_per_token": static["nats_per_token"],
        "bits_per_byte": static["bits_per_byte"],
        "perplexity": static["perplexity"],
        "sample": {"tokens": text.sample.scored, "documents": len(text.sample.documents)},
        **activity_report(own),
        "weight_sparsity": weight_sparsity(run.model),
        **metrics,
        "untrained": _untrained(twins, others, seeds, text.sample),
    }
    return report, curves


def twin_seeds(seed: int, count: int) -> list[int]:
    """Seeds of the untrained twins of a run, none of which is the seed of a run."""
    return [TWIN_SEED + 1000 * seed + number for number in range(count)]


def untrained_twin(config: dict[str, Any], seed: int) -> LanguageModel:
    """The model of a run with fresh weights."""
    return build(config["variant"], vocab_size=config["vocab_size"], seed=seed, **config["model"]).eval()


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


Found = tuple[dict[str, Any], list[dict[str, Any]]]


def _tmi(model: LanguageModel, twins: list[LanguageModel], settings: Frontier) -> Found:
    graphs = [graph for twin in twins if (graph := twin.graph_factors()) is not None]
    chosen = tmi.Settings(settings.top_share, settings.restarts, settings.graph_nulls, settings.communities)
    return tmi.compute(model.graph_factors(), graphs, chosen)


def _sps(
    run: Trained,
    twins: list[LanguageModel],
    text: Text,
    settings: Frontier,
    device: torch.device | str,
    bfloat16: bool,
) -> Found:
    state = run.coactivation
    others = [] if state is None else [observe(twin, text.whole, state, device, bfloat16) for twin in twins]
    chosen = sps.Settings(settings.null_draws, settings.bootstrap)
    return sps.compute(state, [other for other in others if other is not None], chosen)


def _sec(own: Survey, others: list[Survey], sample: HeldOut, settings: Frontier) -> Found:
    readings = [other.reading for other in others if other.reading is not None]
    return sec.compute(own.reading, readings, sample, sec.Settings(settings.null_draws, settings.bootstrap))


def _untrained(twins: list[LanguageModel], surveys: list[Survey], seeds: list[int], sample: HeldOut) -> dict[str, Any]:
    """What the first twin is like, and bits per byte of all of them on the sample."""
    every = np.ones(sample.scored, dtype=bool)
    scores = [totals(found.nats, found.nats, sample, every) for found in surveys]
    bits = [score["bits_per_byte"] for score in scores if score["bits_per_byte"] is not None]
    return {
        "name": UNTRAINED,
        "seeds": seeds,
        "nats_per_token": float(np.mean([score["nats_per_token"] for score in scores])),
        "bits_per_byte": float(np.mean(bits)) if bits else None,
        **activity_report(surveys[0]),
        "weight_sparsity": weight_sparsity(twins[0]),
    }


def headline(report: dict[str, Any]) -> dict[str, float]:
    """The numbers of a frontier report that stand beside the run in the tracker, those that exist."""
    found = {name: report[name] for name in ("bits_per_byte", "perplexity", "dead_neurons_share")}
    for metric in ("tmi", "sps", "sec"):
        for number in ("value", "null_mean", "z", "p", "untrained_mean", "reference_protocol"):
            found[f"{metric}/{number}"] = report[metric][number]
    found |= {f"density/{tap}": entry["mean"] for tap, entry in report["density"].items()}
    found |= {f"weights/{name}": share for name, share in report["weight_sparsity"].items()}
    return {name: value for name, value in found.items() if value is not None}
