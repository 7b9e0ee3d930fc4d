"""Search of settings: the same number of draws for every variant, from one written space, judged on validation alone.

Draw 0 is the recipe `reference`; the others are points of a scrambled Sobol sequence (scipy.stats.qmc), the same points
of the unit cube for every variant and corpus. A trial trains from seed 0 as a run of the comparison does and keeps no
weights. `docs/tuning.csv` holds every trial that was made, one row each; a trial that is in it is not made again.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from bdh.params import FILE, Params
from bdh.params.training import Dimension, OneOf, Overrides, Space
from bdh.params.trials import TABLE, read_trials, write_trials
from bdh.project.files import replacing, write_json

TRIALS = Path("data/tuning")
SEED = 0
DIGITS = 3
RESULTS = (
    "validation_nats", "validation_bits_per_byte", "best_step", "steps_done", "diverged_at", "parameters",
    "tokens_seen", "seconds", "device", "commit",
)  # fmt: skip
Point = dict[str, dict[str, Any]]


def points(space: Space, draws: int, seed: int) -> list[Point]:
    """Settings of every draw as {"model": {...}, "train": {...}}; draw 0 changes nothing."""
    from scipy.stats import qmc

    dimensions = [("model", name, one) for name, one in space.model.items()]
    dimensions += [("train", name, one) for name, one in space.train.items()]
    if not dimensions:
        return [{"model": {}, "train": {}} for _ in range(draws)]
    sampler = qmc.Sobol(len(dimensions), scramble=True, rng=np.random.default_rng(seed))
    count = draws - 1
    cube = sampler.random_base2(max(count - 1, 0).bit_length())[:count]
    found: list[Point] = [{"model": {}, "train": {}}]
    for row in cube:
        point: Point = {"model": {}, "train": {}}
        for (part, name, dimension), place in zip(dimensions, row, strict=True):
            point[part][name] = value_at(dimension, float(place))
        found.append(point)
    return found


def value_at(dimension: Dimension, place: float) -> int | float | bool | str:
    """The value at `place` (0 to 1, 1 excluded), numbers with three significant digits so that they can be written."""
    if isinstance(dimension, OneOf):
        return dimension.choices[int(place * len(dimension.choices))]
    low, high = dimension.low, dimension.high
    value = low * (high / low) ** place if dimension.spread == "logarithmic" else low + (high - low) * place
    return float(f"{value:.{DIGITS}g}")


def trial_path(scale: str, variant: str, corpus: str, draw: int) -> Path:
    """Where one trial writes its result."""
    return TRIALS / scale / f"{variant}-{corpus}-{draw}.json"


def columns(params: Params) -> list[str]:
    """Columns of the table: what was tried, the settings of both scales' spaces, what came out."""
    spaces = (params.tune.laptop.space, params.tune.gpu.space)
    settings = [f"model.{name}" for space in spaces for name in space.model]
    settings += [f"train.{name}" for space in spaces for name in space.train]
    return list(dict.fromkeys(["scale", "corpus", "variant", "draw", *settings, *RESULTS]))


def add_rows(params: Params, rows: list[dict[str, Any]], path: Path = TABLE) -> None:
    """Put rows into the table."""
    write_trials(rows, columns(params), path)


def settings_row(point: Point) -> dict[str, Any]:
    """The settings of a draw under the names of the table."""
    return {f"{part}.{name}": value for part, named in point.items() for name, value in named.items()}


def same_settings(row: dict[str, Any], point: Point) -> bool:
    """Whether a row of the table was made with the settings of `point` (the space may have changed since)."""
    own = {
        name: value for name, value in row.items() if name.startswith(("model.", "train.")) and value not in ("", None)
    }
    wanted = settings_row(point)
    return own.keys() == wanted.keys() and all(str(wanted[name]) == str(value) for name, value in own.items())


def run_trial(params: Params, variant: str, corpus: str, draw: int) -> dict[str, Any]:
    """Train one draw and write its result; the row of the table."""
    from bdh.project.processes import stoppable
    from bdh.tracking import Tracker
    from bdh.tracking.identity import git_tags
    from bdh.training.report import timing_report
    from bdh.training.run import describe, held, learn

    size = getattr(params.tune, params.scale)
    point = points(size.space, size.draws, params.tune.seed)[draw]
    point = trimmed(params, variant, point)
    chosen = params.with_settings(variant, corpus, Overrides.model_validate(point))
    row: dict[str, Any] = {"scale": params.scale, "corpus": corpus, "variant": variant, "draw": draw}
    row |= settings_row(point)
    with stoppable() as stop:
        run = describe(chosen, variant, corpus, SEED, name=f"tune-{variant}-{corpus}-{draw}")
        with held(run, stop) as folder:
            training = learn(run, folder, stop, Tracker())
            if training.diverged is not None:
                row |= {"diverged_at": training.diverged.step}
            else:
                timing = timing_report(training)
                row |= {
                    "validation_nats": training.best["nats_per_token"],
                    "validation_bits_per_byte": training.best["bits_per_byte"],
                    "best_step": training.best["step"],
                    "steps_done": training.step,
                    "parameters": training.model.parameter_count(),
                    "tokens_seen": training.tokens_seen,
                    "seconds": round(timing["seconds"], 1),
                    "device": timing["device"],
                }
    row["commit"] = git_tags().get("mlflow.source.git.commit", "")
    write_json(trial_path(params.scale, variant, corpus, draw), row)
    return row


def trimmed(params: Params, variant: str, point: Point) -> Point:
    """The part of a draw that the variant knows."""
    from bdh.models.catalog import settings_of

    known = settings_of(params.architecture_of(variant))
    return {"model": {k: v for k, v in point["model"].items() if k in known}, "train": dict(point["train"])}


def best_draws(rows: list[dict[str, Any]], scale: str, draws: int) -> dict[tuple[str, str], dict[str, Any]]:
    """The row with the lowest validation loss by (corpus, variant), where all `draws` were made."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        if row["scale"] == scale and int(row["draw"]) < draws:
            found.setdefault((row["corpus"], row["variant"]), []).append(row)
    return {
        cell: min(finished, key=lambda row: float(row["validation_nats"]))
        for cell, tried in found.items()
        if len(tried) == draws and (finished := [row for row in tried if row["validation_nats"]])
    }


def write_choices(params: Params, variants: list[str], corpora: list[str], path: Path = FILE) -> list[str]:
    """Put the best settings of every finished search into `tuned.<scale>` of params.yaml; one line about each.

    Only the section `tuned` is written anew; the rest of the file keeps its bytes, comments included.
    """
    size = getattr(params.tune, params.scale)
    tried = points(size.space, size.draws, params.tune.seed)
    best = best_draws(read_trials(), params.scale, size.draws)
    tuned = params.tuned.model_dump(exclude_unset=True)
    chosen, lines = tuned.setdefault(params.scale, {}), []
    for corpus in corpora:
        for variant in variants:
            row = best.get((corpus, variant))
            if row is None:
                lines.append(f"{variant} on {corpus}: not all {size.draws} draws are made; nothing chosen")
                continue
            nats = float(row["validation_nats"])
            chosen.setdefault(corpus, {})[variant] = trimmed(params, variant, tried[int(row["draw"])])
            lines.append(f"{variant} on {corpus}: draw {row['draw']}, validation {nats:.4f} nats")
    text = path.read_text(encoding="utf-8")
    section = yaml.safe_dump({"tuned": tuned}, sort_keys=False)
    changed = re.sub(r"^tuned:.*\n(?:[ \t].*\n|\n)*", lambda _: section, text, flags=re.MULTILINE)
    if changed != text:
        with replacing(path) as temporary:
            temporary.write_text(changed, encoding="utf-8")
    return lines
