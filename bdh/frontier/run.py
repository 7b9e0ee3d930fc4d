"""The runner: all frontier metrics of one run beside their nulls and what its untrained twins showed.

The model reads the text once; what it showed is handed to every metric of the registry (`Context`).
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import ConfigDict, with_config
from typing_extensions import TypedDict

from bdh.frontier import registry
from bdh.frontier.rows import absent, finite_points, finite_row, point
from bdh.frontier.survey import Context, Texts, activity_report, sample, state_over, survey, weight_sparsity
from bdh.frontier.twins import Twins
from bdh.hebbian.coactivation import Coactivation
from bdh.models.base import LanguageModel
from bdh.project.errors import RunError
from bdh.project.files import read_as

if TYPE_CHECKING:
    from bdh.params import Frontier


_MORE = ConfigDict(extra="allow")


@with_config(_MORE)
class _Arm(TypedDict):
    """What the frontier report takes from an arm."""

    nats_per_token: float | None
    bits_per_byte: float | None
    perplexity: float | None
    by_position: list[dict[str, Any]] | None


@with_config(_MORE)
class _StageB(TypedDict):
    """What the frontier report takes from that of stage hebbian."""

    arms: dict[str, _Arm]


def stage_b_of(path: Path) -> dict[str, Any]:
    """The report of stage hebbian; RunError naming the file and the entry when it has another shape."""
    remedy = f"`dvc repro -f hebbian@{path.stem}` makes it again"
    found = read_as(_StageB, path, "stage hebbian", remedy)
    if "static" not in found["arms"]:
        raise RunError(f"{path} has no arm static; {remedy}")
    for name, arm in found["arms"].items():
        if not all(bucket.keys() >= {"from", "bits_per_byte"} for bucket in arm["by_position"] or []):
            raise RunError(f"{path}: arms.{name}.by_position lacks an entry; {remedy}")
    return dict(found)


@dataclass(frozen=True)
class Trained:
    """A trained run. stage_b: its data/results/hebbian/<key>.json. coactivation: None without. twins: of its shape."""

    model: LanguageModel
    stage_b: dict[str, Any]
    coactivation: Coactivation | None
    twins: Twins


def measure(
    run: Trained, texts: Texts, settings: Frontier, device: torch.device | str, *, bfloat16: bool = False
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What frontier/<key>.json among the results holds, and the rows of curves/<key>.csv (metric, x, y, series)."""
    context = read(run, texts, settings, device, bfloat16)
    metrics, curves = {}, position_curves(run.stage_b)
    for metric in registry.METRICS:
        found, points = importlib.import_module(metric.module).compute(context)
        parts = {part: finite_row(found[part]) for part in metric.parts}
        metrics[metric.name] = parts or finite_row(found)
        curves += finite_points(points) + (run.twins.points[metric.name] if points else [])
    static = run.stage_b["arms"]["static"]
    report = {
        "nats_per_token": static["nats_per_token"],
        "bits_per_byte": static["bits_per_byte"],
        "perplexity": static["perplexity"],
        "sample": sample(context.own, texts.text),
        **activity_report(context.own),
        "weight_sparsity": weight_sparsity(run.model),
        **metrics,
        "untrained": run.twins.summary,
    }
    return report, curves


def read(run: Trained, texts: Texts, settings: Frontier, device: torch.device | str, bfloat16: bool) -> Context:
    """The text as the model read it, with the coactivation state that stage B made of it."""
    own = survey(run.model, texts.text, device, bfloat16, like=state_over(texts.text, run.coactivation))
    damping = 1.0 if run.coactivation is None else run.coactivation.damping
    return Context(run.model, own, texts, settings, device, bfloat16, None, damping, run.twins.numbers)


def position_curves(stage_b: dict[str, Any]) -> list[dict[str, Any]]:
    """Bits per byte over the position in the document, one series per arm; x is the first position of a bucket."""
    return [
        point("bits_per_byte_by_position", bucket["from"], bucket["bits_per_byte"], name)
        for name, arm in stage_b["arms"].items()
        for bucket in arm["by_position"] or []
        if bucket["bits_per_byte"] is not None
    ]


def not_measured(reason: str) -> dict[str, Any]:
    """The report on a run that has no model: every metric is absent for the same reason."""
    row = absent(f"not measured: {reason}")
    found = {metric.name: dict.fromkeys(metric.parts, row) if metric.parts else row for metric in registry.METRICS}
    return {"reason": row["reason"], "density": {}, **found}
