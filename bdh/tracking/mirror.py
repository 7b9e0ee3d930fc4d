"""What the report files of a stage say, as MLflow metrics: the same numbers live and when a store is refilled."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bdh.frontier import registry
from bdh.project.files import REPORTS, RESULTS, RUNS, read_mapping, result_path

CLOCK_S = 0.05
NOT_METRICS = {"variant", "corpus", "seed"}
ARM_HEADLINES = ("bits_per_byte", "perplexity")
ARM_NUMBERS = ("bits_per_byte", "nats_per_token", "perplexity", "difference_to_static")
LEARNING = ("train_nats", "validation_nats", "validation_nats_average", "learning_rate", "gradient_norm")


POINTERS = Path("run")
"""Folder of the pointers among the results."""


def pointer_path(stage: str, key: str) -> Path:
    """Where the MLflow run of a stage is written down: among its results, for compare in reports."""
    return (REPORTS if stage == "compare" else RESULTS) / POINTERS / stage / f"{key}.json"


def noted_path(stage: str, key: str) -> Path:
    """Where that is read: where it was written, or the copy that git brought."""
    return result_path(POINTERS / stage / f"{key}.json")


def report_paths(stage: str, key: str) -> list[Path]:
    """The JSON reports that belong to a stage's run."""
    timing = [result_path(f"timing/{key}.json")] if stage == "train" else []
    return [main_report(stage, key), *timing]


def main_report(stage: str, key: str) -> Path:
    """The report without which a stage has no result."""
    return REPORTS / "summary.json" if stage == "compare" else result_path(f"{stage}/{key}.json")


def curve_paths(stage: str, key: str) -> list[Path]:
    """The CSV curves that belong to a stage's run, as artifacts (and, for training, as metrics)."""
    folder = {"train": "history", "frontier": "curves"}.get(stage)
    return [result_path(f"{folder}/{key}.csv")] if folder else []


def artifact_paths(stage: str, key: str) -> list[tuple[Path, str]]:
    """Files that belong to a stage's run, each with its folder among the artifacts."""
    if stage == "compare":
        return [(REPORTS / name, "") for name in ("summary.json", "index.html", "results.csv")]
    found = [(path, path.parent.name) for path in report_paths(stage, key) + curve_paths(stage, key)]
    found.append((result_path(f"origin/{stage}/{key}.json"), "origin"))
    if stage == "train":
        found += [(RUNS / key / "samples.json", "samples"), (RUNS / key / "config.json", "")]
    return found


def fresh(path: Path, since: float) -> bool:
    """Whether a file is there and was written at or after `since` (seconds since the epoch)."""
    return path.exists() and path.stat().st_mtime >= since - CLOCK_S


def numbers(report: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Finite numbers of a nested report as (`a/b/c`, value)."""
    for name, value in report.items():
        if isinstance(value, Mapping):
            yield from numbers(value, f"{prefix}{name}/")
        elif name not in NOT_METRICS and is_number(value):
            yield f"{prefix}{name}", float(value)


def is_number(value: Any) -> bool:
    """Whether MLflow can hold it: a finite int or float, not a bool."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def stage_metrics(stage: str, key: str, since: float = 0.0) -> dict[str, float]:
    """The numbers of a stage's own run, from reports written at or after `since` (seconds since the epoch).

    Not every number of every report: a table of runs with hundreds of columns helps nobody, and the reports are there
    as artifacts. A damaged report raises RunError.
    """
    choose = {"train": _training, "timing": _timing, "hebbian": _held_out, "frontier": _frontier, "compare": _lowest}
    found: dict[str, Any] = {}
    for path in report_paths(stage, key):
        if fresh(path, since):
            found |= choose["timing" if path.parent.name == "timing" else stage](read_mapping(path))
    return {name: float(value) for name, value in found.items() if is_number(value)}


def _training(report: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in numbers(report) if "/layer" not in name}


def _timing(report: Mapping[str, Any]) -> dict[str, Any]:
    return {f"timing/{name}": value for name, value in numbers(report)}


def _held_out(report: Mapping[str, Any]) -> dict[str, Any]:
    arms = {arm: _part(report.get("arms"), arm) for arm in report.get("arms") or {}}
    found = {f"{arm}/{name}": values.get(name) for arm, values in arms.items() for name in ARM_NUMBERS}
    found |= {f"state/{name}": value for name, value in _part(report, "state").items()}
    return found | _densities(report)


def _frontier(report: Mapping[str, Any]) -> dict[str, Any]:
    weights = {f"weights/{name}": value for name, value in _part(report, "weight_sparsity").items()}
    return registry.run_numbers(report) | weights | _densities(report)


def _lowest(report: Mapping[str, Any]) -> dict[str, Any]:
    corpora = _part(report, "corpora")
    found = {f"lowest/{corpus}": _part(corpora[corpus], "lowest").get("test_bits_per_byte") for corpus in corpora}
    floors = {corpus: _part(corpora[corpus], "floors").get("strongest_bits_per_byte") for corpus in corpora}
    return found | {f"floor/{corpus}": bits for corpus, bits in floors.items()}


def _densities(report: Mapping[str, Any]) -> dict[str, Any]:
    taps = _part(report, "density")
    return {f"density/{tap}": _part(taps, tap).get("mean") for tap in taps}


def _part(report: Any, name: str) -> Mapping[str, Any]:
    """A section of a report, empty where a variant has none."""
    section = report.get(name) if isinstance(report, Mapping) else None
    return section if isinstance(section, Mapping) else {}


def headlines(stage: str, key: str, since: float = 0.0) -> dict[str, float]:
    """The numbers of an evaluation that belong beside the trained model, under the names of the runs table."""
    path = main_report(stage, key)
    if stage not in ("hebbian", "frontier") or not fresh(path, since):
        return {}
    report = read_mapping(path)
    found: dict[str, Any] = {}
    if stage == "hebbian":
        for arm in report.get("arms") or {}:
            found |= {f"test/{name}/{arm}": _part(report["arms"], arm).get(name) for name in ARM_HEADLINES}
    else:
        found = registry.headlines(report)
        found |= {f"frontier/{name}": value for name, value in _densities(report).items()}
    return {name: float(value) for name, value in found.items() if is_number(value)}


def curve_name(column: str) -> str:
    """Name of a history column among the metrics: learning first in the alphabet, then the inside of the model."""
    return f"curves/{column}" if column in LEARNING else f"curves_inside/{column}"


def history(key: str, since: float = 0.0) -> list[dict[str, float]]:
    """Rows of the training history of a run: `step` and every finite number of that row."""
    path = result_path(f"history/{key}.csv")
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
