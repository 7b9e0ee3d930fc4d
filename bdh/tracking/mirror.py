"""What the report files of a stage say, as MLflow metrics: the same numbers live and when a store is refilled."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bdh.files import REPORTS, RUNS, read_json

CLOCK_S = 0.05
NOT_METRICS = {"variant", "corpus", "seed", "by_year", "by_sector", "by_position"}
ARM_NUMBERS = ("bits_per_byte", "perplexity")
FRONTIER_NUMBERS = ("dead_neurons_share", "weight_sparsity")
FRONTIER_METRICS = ("tmi", "sps", "sec", "mcl")


def pointer_path(stage: str, key: str) -> Path:
    """Where the MLflow run of a stage is written down."""
    return REPORTS / "run" / stage / f"{key}.json"


def report_paths(stage: str, key: str) -> list[Path]:
    """The JSON reports whose numbers belong to a stage's run."""
    if stage == "compare":
        return []
    names = ["train", "timing"] if stage == "train" else [stage]
    return [REPORTS / name / f"{key}.json" for name in names]


def main_report(stage: str, key: str) -> Path:
    """The report without which a stage has no result."""
    return REPORTS / "summary.json" if stage == "compare" else REPORTS / stage / f"{key}.json"


def curve_paths(stage: str, key: str) -> list[Path]:
    """The CSV curves that belong to a stage's run, as artifacts (and, for training, as metrics)."""
    folder = {"train": "history", "frontier": "curves"}.get(stage)
    return [REPORTS / folder / f"{key}.csv"] if folder else []


def artifact_paths(stage: str, key: str) -> list[tuple[Path, str]]:
    """Files that belong to a stage's run, each with its folder among the artifacts."""
    if stage == "compare":
        pages = [(REPORTS / name, "") for name in ("index.html", "summary.json", "results.csv")]
        return pages + [(path, "figures") for path in sorted((REPORTS / "figures").glob("*.*"))]
    found = [(path, "reports") for path in report_paths(stage, key) + curve_paths(stage, key)]
    if stage == "train":
        found += [(RUNS / key / "samples.json", "samples"), (RUNS / key / "config.json", "reports")]
    return found


def fresh(path: Path, since: float) -> bool:
    """Whether a file is there and was written at or after `since` (seconds since the epoch)."""
    return path.exists() and path.stat().st_mtime >= since - CLOCK_S


def numbers(report: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Finite numbers of a nested report as (`a/b/c`, value); tables by year, sector and position stay in the file.

    Names are short: `arms/` in front and `/mean` behind are left out.
    """
    for name, value in report.items():
        if name in NOT_METRICS:
            continue
        path = f"{prefix}{name}"
        if isinstance(value, Mapping):
            yield from numbers(value, f"{path}/")
        elif is_number(value):
            yield path.removeprefix("arms/").removesuffix("/mean"), float(value)


def is_number(value: Any) -> bool:
    """Whether MLflow can hold it: a finite int or float, not a bool."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def stage_metrics(stage: str, key: str, since: float = 0.0) -> dict[str, float]:
    """Numbers of a stage's reports that were written at or after `since` (seconds since the epoch)."""
    found: dict[str, float] = {}
    for path in report_paths(stage, key):
        if fresh(path, since):
            prefix = "timing/" if path.parent.name == "timing" else ""
            found |= dict(numbers(read_json(path), prefix))
    return found


def headlines(stage: str, key: str, since: float = 0.0) -> dict[str, float]:
    """The numbers of an evaluation that belong beside the trained model, under the names of the runs table."""
    path = REPORTS / stage / f"{key}.json"
    if stage not in ("hebbian", "frontier") or not fresh(path, since):
        return {}
    report = read_json(path)
    found: dict[str, Any] = {}
    if stage == "hebbian":
        for arm, values in (report.get("arms") or {}).items():
            found |= {f"test/{name}/{arm}": (values or {}).get(name) for name in ARM_NUMBERS}
    else:
        found |= _frontier_headlines(report)
    return {name: float(value) for name, value in found.items() if is_number(value)}


def _frontier_headlines(report: Mapping[str, Any]) -> dict[str, Any]:
    density = report.get("density")
    found = {f"frontier/{name}": report.get(name) for name in FRONTIER_NUMBERS}
    if isinstance(density, Mapping):
        taps = {name.removesuffix("/mean"): value for name, value in numbers(density)}
        found |= {f"frontier/density/{tap}": value for tap, value in taps.items() if "layer" not in tap}
    else:
        found["frontier/density"] = density
    for name in FRONTIER_METRICS:
        values = report.get(name)
        if isinstance(values, Mapping):
            found |= {f"frontier/{name}": values.get("value"), f"frontier/{name}_z": values.get("z")}
    return found


def history(key: str, since: float = 0.0) -> list[dict[str, float]]:
    """Rows of the training history of a run: `step` and every finite number of that row."""
    path = REPORTS / "history" / f"{key}.csv"
    if not fresh(path, since):
        return []
    with path.open(encoding="utf-8", newline="") as stream:
        return [_row(row) for row in csv.DictReader(stream)]


def _row(row: Mapping[str, str]) -> dict[str, float]:
    found = {}
    for name, text in row.items():
        try:
            value = float(text)
        except (TypeError, ValueError):
            continue
        if math.isfinite(value):
            found[name] = value
    return found
