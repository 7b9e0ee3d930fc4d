"""The form that every metric takes: a row (a value beside its nulls, its interval, untrained twins and the reference
protocol) and the points of its curves (metric, x, y, series), one long table per run.

A row holds finite numbers, or it is "not measurable" and holds the reason; no number of a report or a curve is ever
NaN or infinite.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bdh.intervals import LEVEL, against_null
from bdh.project.files import write_csv

UNTRAINED = "untrained twin"
NOT_MEASURABLE = "not measurable"
Measured = tuple[dict[str, Any], list[dict[str, Any]]]
"""What a metric returns: its row (or rows by part) and the points of its curves."""


def metric_row(
    value: float | None,
    *,
    nulls: dict[str, np.ndarray],
    interval: tuple[float | None, float | None],
    n: int,
    untrained: list[float],
    reference: float | None,
    reference_untrained: list[float],
    tests: dict[str, dict[str, Any]] | None = None,
    **details: Any,
) -> dict[str, Any]:
    """One row of the frontier table.

    `nulls`: draws by name; the first is the one that the row's own null_mean, null_sd, z and p stand for.
    `tests`: nulls whose p comes without draws, in the form of `against_null`.
    `untrained`: the same value on twins with fresh weights. The verdict is `above its null` or `below its null` only
    if p < 0.05 against every null and against the twins, all on the same side; where the twins have no
    spread (a single one, or all the same) the interval must leave their mean out.
    """
    compared = {name: against_null(value, draws) for name, draws in nulls.items()} if value is not None else {}
    compared |= tests or {}
    twins = against_null(value, np.array(untrained)) if value is not None and untrained else None
    name = next(iter(compared), None)
    first = compared[name] if name is not None else {}
    return {
        "value": value,
        "null": name,
        "null_mean": first.get("mean"),
        "null_sd": first.get("sd"),
        "z": first.get("z"),
        "p": first.get("p"),
        "ci_low": interval[0],
        "ci_high": interval[1],
        "n": n,
        "untrained_mean": twins["mean"] if twins else None,
        "untrained_sd": twins["sd"] if twins else None,
        "untrained_z": twins["z"] if twins else None,
        "untrained_p": twins["p"] if twins else None,
        "twins": len(untrained),
        "reference_protocol": reference,
        "reference_protocol_untrained": mean_or_none(reference_untrained),
        "verdict": verdict(value, compared, interval, twins),
        "nulls": compared,
        **details,
    }


def verdict(
    value: float | None,
    compared: dict[str, dict[str, Any]],
    interval: tuple[float | None, float | None],
    twins: dict[str, Any] | None,
) -> str:
    """`not measurable`, `above its null`, `below its null` or `not distinguishable from its null`."""
    if value is None:
        return NOT_MEASURABLE
    sides = {_side(value, entry) for entry in compared.values()}
    if twins is not None and twins["sd"]:
        sides.add(_side(value, twins))
    elif twins is not None:
        low, high = interval
        apart = low is not None and high is not None and not low <= twins["mean"] <= high
        sides.add(int(np.sign(value - twins["mean"])) if apart else 0)
    if sides == {1}:
        return "above its null"
    return "below its null" if sides == {-1} else "not distinguishable from its null"


def _side(value: float, entry: dict[str, Any]) -> int:
    """1 above, -1 below, 0 where p is not under 0.05 or cannot be had."""
    return int(np.sign(value - entry["mean"])) if entry["p"] is not None and entry["p"] < LEVEL else 0


def absent(reason: str) -> dict[str, Any]:
    """The row of a metric that cannot be measured here, with the reason in a few words."""
    row = metric_row(
        None, nulls={}, interval=(None, None), n=0, untrained=[], reference=None, reference_untrained=[]
    )  # fmt: skip
    return row | {"reason": reason}


def mean_or_none(values: list[float]) -> float | None:
    """Mean of the values, None when there are none."""
    return float(np.mean(values)) if values else None


def point(metric: str, x: float, y: float | None, series: str) -> dict[str, Any]:
    """One point of a curve, a row of data/results/curves/<key>.csv."""
    return {"metric": metric, "x": x, "y": y, "series": series}


def finite_row(row: dict[str, Any]) -> dict[str, Any]:
    """The row as it is, or "not measurable" with the name of the first number that is not finite as the reason.

    A metric should itself say what it cannot measure; one that fails to must not take the other results with it.
    """
    path = odd_number(row)
    return row if path is None else absent(f"{path} is not a finite number")


def finite_points(points: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The points without those that no axis can hold."""
    return [one for one in points if odd_number(one) is None]


def odd_number(value: Any, path: str = "") -> str | None:
    """Where the first NaN or infinity of a nested value stands (keys and places joined by `/`), None without one."""
    if isinstance(value, float | np.floating) and not math.isfinite(value):
        return path
    inside = (
        value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list | tuple) else ()
    )
    places = (odd_number(item, f"{path}/{name}" if path else str(name)) for name, item in inside)
    return next((place for place in places if place is not None), None)


COLUMNS = ("metric", "x", "y", "series")


def save(path: Path, points: list[dict[str, Any]]) -> None:
    """Write the points in their order; raises ValueError where one of them is not finite, as JSON files refuse it."""
    for one in points:
        if odd_number(one) is not None:
            raise ValueError(f"{path}: {one['metric']}, {one['series']}: ({one['x']}, {one['y']}) is not finite")
    write_csv(path, COLUMNS, points)
