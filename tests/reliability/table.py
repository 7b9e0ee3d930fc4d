"""Inject every fault and write the table: docs/reliability.json and docs/reliability.md.

    python -m tests.reliability.table                # all of them
    python -m tests.reliability.table test_kills     # one file; the rows of the others stay

Rows are written only when every test of a file ran and passed.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.reliability import faults


class Skipped:
    """Notices tests that were skipped: a row of a part of the faults would say too much."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.skipped:
            self.names.append(report.nodeid)


def main() -> None:
    """Run the files that are named, or all; exit with pytest's code, 1 where a fault is missing."""
    wanted = sys.argv[1:] or sorted(set(faults.FAULTS.values()))
    here, skipped = Path(__file__).parent, Skipped()
    code = pytest.main(["-m", "long or not long", "-q", *(str(here / f"{name}.py") for name in wanted)], [skipped])
    rows = {row["fault"]: row for row in faults.seen()}
    missing = [fault for fault, file in faults.FAULTS.items() if file in wanted and fault not in rows]
    if code or skipped.names or missing:
        sys.stderr.write(f"nothing is written; skipped: {skipped.names}; not injected: {missing}\n")
        sys.exit(code or 1)
    known = {row["fault"]: row for row in faults.read_rows()} | rows
    faults.write([known[fault] for fault in faults.FAULTS if fault in known])


if __name__ == "__main__":
    main()
