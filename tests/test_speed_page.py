"""docs/speed.md shows what benchmarks/results holds."""

import argparse
from pathlib import Path

import pytest

from benchmarks.machine import recorded
from benchmarks.tables import curves, ratios, reservoirs, short, with_tables

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def here(monkeypatch):
    monkeypatch.chdir(ROOT)


def test_speed_tables_of_the_page_are_those_of_the_results():
    page = (ROOT / "docs/speed.md").read_text(encoding="utf-8")
    assert with_tables(page) == page
    assert all(table in page for table in (ratios(), reservoirs(), curves()))


@pytest.mark.parametrize(
    ("value", "text"), [(231928.8, "232 k"), (9.647e9, "9.65 G"), (0.0123, "0.0123"), (12.0, "12")]
)
def test_speed_numbers_have_three_digits(value, text):
    assert short(value) == text


def test_speed_options_name_no_folder():
    options = argparse.Namespace(out="/a/b.json", commit="c", reference="/p/bdh.py", text=None, steps=3)
    assert recorded(options) == {"reference": "bdh.py", "text": None, "steps": 3}
