"""The record table and the cost of the study in README.md, from docs/records.csv and the study's summary.

python -m benchmarks.records

A record is one row of docs/records.csv: date, track, value as it is shown, unit, n (seeds or rounds), settings, commit
of the code, and where the number is: `file`, as it stands now or `at` an older commit; `select`, the values that its
rows have; `field`. Several rows (seeds) give their mean. The last row of a track is its record.
"""

from __future__ import annotations

import csv
import json
import subprocess
import textwrap
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.tables import short

RECORDS, PAGE, SUMMARY = Path("docs/records.csv"), Path("README.md"), Path("reports/reference/summary.json")


LOWER_IS_BETTER = ("bits per byte", "bytes")


class RecordError(Exception):
    """A record and the file it names do not agree."""


def records() -> list[dict[str, str]]:
    """Rows of docs/records.csv, in its order."""
    with RECORDS.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def measured(record: dict[str, str]) -> list[dict[str, Any]]:
    """The rows of a record's file that it is made of; none where this clone lacks the commit `at`."""
    if record["at"]:
        name = f"{record['at']}:{record['file']}"
        done = subprocess.run(["git", "show", name], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            return []
        text = done.stdout
    else:
        text = Path(record["file"]).read_text(encoding="utf-8")
    wanted = dict(pair.split("=", 1) for pair in record["select"].split(";"))
    found = [row for row in json.loads(text)["rows"] if all(str(row[key]) == value for key, value in wanted.items())]
    found = [row for row in found if row[record["field"]] is not None]
    if not found:
        raise RecordError(f"{RECORDS}: {record['track']}: {record['file']} has no row with {record['select']}")
    return found


def number(record: dict[str, str]) -> str | None:
    """The value as the file gives it, written as the table writes it; None where the commit is not here."""
    rows = measured(record)
    if not rows:
        return None
    value = fmean(row[record["field"]] for row in rows)
    return f"{value:.3f}" if record["unit"] == "bits per byte" else short(value)


def table() -> str:
    """One line per record, the best of a track in bold; n counts seeds, or rounds of a measurement."""
    rows = records()
    last = {row["track"]: row for row in rows}
    lines = ["| track | record | settings | n | date | commit | where the number is |", "|---|---|---|---|---|---|---|"]
    for row in rows:
        value = f"**{row['value']}**" if row is last[row["track"]] else row["value"]
        where = f"[{Path(row['file']).stem}]({row['file']})"
        if row["at"]:
            where += f" at {row['at']}"
        cells = [row["track"], f"{value} {row['unit']}", row["settings"], row["n"], row["date"], row["commit"], where]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def cost() -> str:
    """What the trainings of the study took, one by one."""
    summary = json.loads(SUMMARY.read_text(encoding="utf-8"))
    cells, hours = summary["cells"], [row["gpu_seconds"] / 3600 for row in summary["rows"] if row["gpu_seconds"]]
    machines = ", ".join(axis(summary, "machine"))
    told = (
        f"{cells['run']} of {cells['planned']} planned cells have been run, on {', '.join(axis(summary, 'corpus'))}. "
        f"Their trainings took {sum(hours):.2f} GPU-hours ({machines}), {fmean(hours):.2f} each, with several on a "
        f"card at a time. At that mean the whole plan is {fmean(hours) * cells['planned']:.0f} GPU-hours, "
        "evaluations and searches not counted; other corpora and variants may take longer."
    )
    return textwrap.fill(told, 116)


def axis(summary: dict[str, Any], name: str) -> list[str]:
    """What the rows of a summary have under `name`."""
    return sorted({row[name] for row in summary["rows"]})


def with_records(page: str) -> str:
    """The page with everything between its markers made anew."""
    for name, text in (("records", table()), ("cost", cost())):
        start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
        before, rest = page.split(start)
        page = f"{before}{start}\n{text}\n{end}{rest.split(end)[1]}"
    return page


if __name__ == "__main__":
    PAGE.write_text(with_records(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
