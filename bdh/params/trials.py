"""`docs/tuning.csv`: every trial of the search of settings, one row each, read and written here alone."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bdh.project.files import write_csv

TABLE = Path("docs/tuning.csv")
SETTINGS = ("model.", "train.")
Cell = tuple[str, str, str, int]


@dataclass(frozen=True)
class Search:
    """What the search of one variant on one corpus gave.

    draws: trials that were made, all of which count, those that diverged too. own: validation bits per byte of draw 0,
    the recipe `reference`. best: the lowest. settings: of the best draw, by dotted name; none where draw 0 is the best.
    All None where no trial has a result.
    """

    draws: int
    own: float | None
    best: float | None
    best_draw: int | None
    settings: dict[str, str]


NO_SEARCH = Search(0, None, None, None, {})


def read_trials(path: Path = TABLE) -> list[dict[str, str]]:
    """Rows of the table, [] where there is none yet."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def write_trials(rows: list[dict[str, Any]], columns: list[str], path: Path = TABLE) -> None:
    """Put rows into the table, in the place of older ones about the same trial, and sort it."""
    merged = {cell_of(row): row for row in [*read_trials(path), *rows]}
    names = list(dict.fromkeys([*columns, *(name for row in merged.values() for name in row)]))
    write_csv(path, names, [merged[cell] for cell in sorted(merged)])


def cell_of(row: dict[str, Any]) -> Cell:
    """Which trial a row is about: scale, corpus, variant and draw."""
    return str(row["scale"]), str(row["corpus"]), str(row["variant"]), int(row["draw"])


def searches(scale: str, path: Path = TABLE) -> dict[tuple[str, str], Search]:
    """What every search at one scale gave, by (variant, corpus)."""
    found: dict[tuple[str, str], list[dict[str, str]]] = {}
    for row in read_trials(path):
        if row["scale"] == scale:
            found.setdefault((row["variant"], row["corpus"]), []).append(row)
    return {pair: _search(rows) for pair, rows in found.items()}


def _search(rows: list[dict[str, str]]) -> Search:
    bits = {int(row["draw"]): float(row["validation_bits_per_byte"]) for row in rows if row["validation_bits_per_byte"]}
    best = min(bits, key=lambda draw: bits[draw]) if bits else None
    chosen = next((row for row in rows if best is not None and int(row["draw"]) == best), {})
    settings = {name: value for name, value in chosen.items() if name.startswith(SETTINGS) and value}
    return Search(len(rows), bits.get(0), None if best is None else bits[best], best, settings)
