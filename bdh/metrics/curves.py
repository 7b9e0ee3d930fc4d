"""The long table of curves of one run: metric, x, y, series."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from bdh.files import replacing

COLUMNS = ("metric", "x", "y", "series")


def save(path: Path, points: list[dict[str, Any]]) -> None:
    """Write the points in their order."""
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        table.writeheader()
        table.writerows(points)
