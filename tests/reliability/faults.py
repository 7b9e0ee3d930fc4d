"""The faults that are injected, what came of each, and the table of them: docs/reliability.json and its page."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from typing import Any

from tests.support.project import ROOT

FILE = ROOT / "docs/reliability.json"
PAGE = ROOT / "docs/reliability.md"
BEGIN, END = "<!-- table: written by `python -m tests.reliability.table` -->", "<!-- end of the table -->"

FAULTS: dict[str, str] = {
    "SIGKILL of a stage": "test_kills",
    "SIGTERM of a stage": "test_kills",
    "Ctrl-C of a stage": "test_kills",
    "SIGKILL of dvc": "test_kills",
    "SIGTERM of dvc": "test_kills",
    "Ctrl-C of dvc": "test_kills",
    "SIGKILL of bdh repro": "test_kills",
    "SIGTERM of bdh repro": "test_kills",
    "Ctrl-C of bdh repro": "test_kills",
    "SIGKILL of a rank of a training": "test_ranks",
    "SIGTERM of a rank of a training": "test_ranks",
    "Ctrl-C of a rank of a training": "test_ranks",
    "two nodes instead of one process": "test_ranks",
    "power cut: the last writes cut short": "test_machine",
    "disk full": "test_machine",
    "folder that cannot be written to": "test_machine",
    "memory limit": "test_machine",
    "tracking: server that dies, refuses or is slow": "test_tracking",
    "tracking: server of another version": "test_tracking",
    "tracking: database locked, cut short or deleted": "test_tracking",
    "tracking: eight stages at once on an empty store": "test_tracking",
    "tracking: PostgreSQL server that is stopped": "test_postgres",
    "damaged file of the project": "test_damage",
}
"""Every kind of fault, and the file of this folder whose tests inject it."""

_seen: dict[str, Counter[str]] = {}


def record(fault: str, *, injected: int = 1, recovered: int = 0, identical: int = 0) -> None:
    """Count faults of a kind: how many were injected, recovered from, and gave the results of an undisturbed run."""
    assert fault in FAULTS, fault
    _seen.setdefault(fault, Counter()).update(injected=injected, recovered=recovered, identical=identical)


def seen() -> list[dict[str, Any]]:
    """The rows of this process, in the order of FAULTS."""
    return [{"fault": fault, **_seen[fault]} for fault in FAULTS if fault in _seen]


def read_rows() -> list[dict[str, Any]]:
    """The rows of the committed table."""
    return json.loads(FILE.read_text(encoding="utf-8"))["rows"] if FILE.exists() else []


def page_of(rows: Iterable[dict[str, Any]]) -> str:
    """The table of the page."""
    lines = ["| fault | injected | recovered | identical |", "|---|---|---|---|"]
    lines += [f"| {row['fault']} | {row['injected']} | {row['recovered']} | {row['identical']} |" for row in rows]
    return "\n".join([BEGIN, *lines, END])


def write(rows: list[dict[str, Any]]) -> None:
    """Write the table and the page around it."""
    FILE.write_text(json.dumps({"rows": rows}, indent=1) + "\n", encoding="utf-8")
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    PAGE.write_text(before + page_of(rows) + rest.split(END)[1], encoding="utf-8")
