"""How many weights are zero.

All frontier metrics of one run beside their nulls and its untrained twins.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from bdh.frontier import degrees, mcl, sec, sps, state_graph, tmi
from bdh.frontier.concepts import Labelled
from bdh.frontier.passages import Passages
from bdh.frontier.rows import absent, mean_or_none, point
from bdh.frontier.survey import Survey, activations, survey, updates_of
from bdh.hebbian.activity import CODE
from bdh.hebbian.coactivation import Coactivation
from bdh.hebbian.held_out import HeldOut
from bdh.hebbian.scores import totals
from bdh.models.base import GraphFactors, LanguageModel, build

if TYPE_CHECKING:
    from bdh.params import Frontier

SMALL = 1e-3


def weight_sparsity(model: LanguageModel) -> dict[str, float]:
    """Share of parameters that are exactly zero and share below 1e-3 in magnitude, tied ones counted once."""
    zeros = small = total = 0
    for parameter in model.parameters():
        magnitude = parameter.detach().abs()
        zeros += int((magnitude == 0).sum())
        small += int((magnitude < SMALL).sum())
        total += parameter.numel()
    return {"exact_zeros": zeros / max(total, 1), "below_0.001": small / max(total, 1)}


TWIN_SEED = 1_000_003
SHUFFLES = 4


@dataclass(frozen=True)
class Trained:
    """A trained run. config: its config.json. stage_b: its reports/hebbian/<key>.json. coactivation: None without."""

    model: LanguageModel
    config: dict[str, Any]
    stage_b: dict[str, Any]
    coactivation: Coactivation | None


@dataclass(frozen=True)
class Texts:
    """What is read. text: starts as the text of stage B did, cut into windows alike; it may end earlier.

    passages: windows from all documents, for concepts, None where no document fills one; labels: their concepts.
    """

    text: HeldOut
    passages: Passages | None = None
    labels: Labelled | None = None


def measure(
    run: Trained, texts: Texts, settings: Frontier, device: torch.device | str, *, bfloat16: bool = False
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What reports/frontier/<key>.json holds, and the rows of reports/curves/<key>.csv (metric, x, y, series)."""
    text = texts.text
    state = state_over(text, run.coactivation)
    seeds = twin_seeds(run.config["seed"], settings.twins)
    twins = [untrained_twin(run.config, seed).to(device) for seed in seeds]
    own = survey(run.model, text, device, bfloat16, like=state)
    others = [survey(twin, text, device, bfloat16, like=state) for twin in twins]
    metrics, curves = {}, position_curves(run.stage_b)
    for name, (row, points) in {
        "tmi": tmi.compute(run.model.graph_factors(), _graphs(twins), _graph_settings(settings)),
        "sps": _sps(run, own, others, text, settings, device, bfloat16),
        "sec": _sec(own, others, text, settings),
        "mcl": _mcl(run.model, twins, texts, device, bfloat16),
    }.items():
        metrics[name] = row
        curves += points
    static = run.stage_b["arms"]["static"]
    report = {
        "nats_per_token": static["nats_per_token"],
        "bits_per_byte": static["bits_per_byte"],
        "perplexity": static["perplexity"],
        "sample": _sample(own, text),
        **activity_report(own),
        "weight_sparsity": weight_sparsity(run.model),
        **metrics,
        "degrees": _degrees(run.model, twins, settings),
        "state_graph": state_graph.compute(run.model, twins, text, device, _graph_settings(settings)),
        "untrained": _untrained(twins, others, seeds, text),
    }
    return report, curves


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


Found = tuple[dict[str, Any], list[dict[str, Any]]]


def _graph_settings(settings: Frontier) -> tmi.Settings:
    return tmi.Settings(settings.top_share, settings.restarts, settings.graph_nulls, settings.communities)


def _graphs(twins: list[LanguageModel]) -> list[GraphFactors]:
    return [graph for twin in twins if (graph := twin.graph_factors()) is not None]


def _degrees(model: LanguageModel, twins: list[LanguageModel], settings: Frontier) -> dict[str, Any]:
    own = model.graph_factors()
    if own is None:
        return degrees.compute(None, [])
    chosen = _graph_settings(settings)
    return degrees.compute(tmi.excitatory_edges(own, chosen), [tmi.excitatory_edges(g, chosen) for g in _graphs(twins)])


def _sps(
    run: Trained,
    own: Survey,
    others: list[Survey],
    text: HeldOut,
    settings: Frontier,
    device: torch.device | str,
    bfloat16: bool,
) -> Found:
    if own.updates is None or text.scored < sps.FEWEST:
        return sps.compute(own.updates, [], [], text, 1.0, sps.Settings(settings.null_draws))
    generator = np.random.default_rng(0)
    orders = [sps.block_order(text.scored, generator) for _ in range(SHUFFLES)]
    texts = [dataclasses.replace(text, inputs=text.inputs[order]) for order in orders]
    shuffled = [updates_of(run.model, one, device, bfloat16) for one in texts]
    return sps.compute(
        own.updates,
        [other.updates for other in others if other.updates is not None],
        [one for one in shuffled if one is not None],
        text,
        1.0 if run.coactivation is None else run.coactivation.damping,
        sps.Settings(settings.null_draws),
    )


def _mcl(
    model: LanguageModel, twins: list[LanguageModel], texts: Texts, device: torch.device | str, bfloat16: bool
) -> Found:
    if texts.passages is None:
        return absent("no document of the test split fills a window"), []
    if texts.labels is None:
        return mcl.compute(activations(model, texts.passages.text, device, bfloat16), [], None)
    found = [activations(one, texts.passages.text, device, bfloat16) for one in (model, *twins)]
    return mcl.compute(found[0], [one for one in found[1:] if one is not None], texts.labels)


def _sec(own: Survey, others: list[Survey], text: HeldOut, settings: Frontier) -> Found:
    readings = [other.reading for other in others if other.reading is not None]
    return sec.compute(own.reading, readings, text, sec.Settings(settings.null_draws, settings.bootstrap))


def _sample(found: Survey, text: HeldOut) -> dict[str, Any]:
    """How long the text is that density, SPS and SEC are measured on, and how well the model predicts it."""
    every = np.ones(text.scored, dtype=bool)
    scores = totals(found.nats, found.nats, text, every)
    names = ("tokens", "bytes", "nats_per_token", "bits_per_byte")
    return {"documents": len(text.documents)} | {name: scores[name] for name in names}


def _untrained(twins: list[LanguageModel], surveys: list[Survey], seeds: list[int], text: HeldOut) -> dict[str, Any]:
    """What the first twin is like, and the mean over all twins of how well they predict the text."""
    samples = [_sample(found, text) for found in surveys]
    bits = [sample["bits_per_byte"] for sample in samples if sample["bits_per_byte"] is not None]
    return {
        "seeds": seeds,
        "nats_per_token": float(np.mean([sample["nats_per_token"] for sample in samples])),
        "bits_per_byte": mean_or_none(bits),
        **activity_report(surveys[0]),
        "weight_sparsity": weight_sparsity(twins[0]),
    }


def headline(report: dict[str, Any]) -> dict[str, float]:
    """The numbers of a frontier report that stand beside the run in the tracker, those that exist."""
    found = {name: report[name] for name in ("bits_per_byte", "perplexity", "dead_neurons_share")}
    for metric in ("tmi", "sps", "sec", "mcl", "state_graph"):
        for number in ("value", "null_mean", "z", "p", "untrained_mean", "reference_protocol"):
            found[f"{metric}/{number}"] = report[metric][number]
    found |= {f"density/{tap}": entry["mean"] for tap, entry in report["density"].items()}
    found |= {f"weights/{name}": share for name, share in report["weight_sparsity"].items()}
    return {name: value for name, value in found.items() if value is not None}
