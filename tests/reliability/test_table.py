"""The committed table: every fault that the suite knows, each recovered from every time; the page shows the same."""

import pytest

from tests.reliability import faults


@pytest.fixture
def rows():
    if not faults.FILE.exists():
        pytest.skip("docs/reliability.json is not measured yet: python -m tests.reliability.table")
    return faults.read_rows()


def test_table_has_every_fault_and_none_that_was_lost(rows):
    """Catches a fault that was added without its row, and a row of a run in which something was lost."""
    assert [row["fault"] for row in rows] == list(faults.FAULTS)
    assert all(row["injected"] == row["recovered"] == row["identical"] > 0 for row in rows), rows


def test_table_has_enough_kills(rows):
    signals = ("SIGKILL", "SIGTERM", "Ctrl-C")
    assert sum(row["injected"] for row in rows if row["fault"].startswith(signals)) >= 60


def test_page_shows_the_table(rows):
    assert faults.page_of(rows) in faults.PAGE.read_text(encoding="utf-8")


def test_every_fault_belongs_to_a_file_that_injects_it():
    for fault, file in faults.FAULTS.items():
        source = (faults.ROOT / f"tests/reliability/{file}.py").read_text(encoding="utf-8")
        assert f'"{fault}"' in source or " of a" in fault or " of dvc" in fault or " of bdh" in fault, fault
