"""No metric calls noise significant more often than its level says; the documented rates are the measured ones."""

import json
from pathlib import Path

import pytest

from benchmarks.calibration import LEVEL, most, tables, with_tables
from benchmarks.controls import CONTROLS, NULL, PLANTED, fires

ROOT = Path(__file__).resolve().parents[2]
FOUND = json.loads((ROOT / "docs/calibration.json").read_text())
CHEAP = {"tmi": 8, "sps": 16, "sec": 40, "mcl": 12, "degrees": 10, "state_graph": 8}
METRICS = tuple(CHEAP)


@pytest.mark.parametrize("control", [one for one in CONTROLS if one[1] == NULL], ids=lambda one: f"{one[0]}: {one[2]}")
def test_calibration_noise_is_called_significant_no_more_often_than_the_level_says(control):
    n = CHEAP[control[0]]
    assert sum(fires(control, 1000 + seed) for seed in range(n)) / n <= most(n)


@pytest.mark.parametrize("metric", METRICS)
def test_calibration_each_metric_sees_a_planted_structure(metric):
    control = next(one for one in CONTROLS if one[:2] == (metric, PLANTED))
    assert any(fires(control, 1000 + seed) for seed in range(4))


def test_calibration_bound_is_that_of_a_binomial():
    assert most(200) == pytest.approx(21 / 200)
    assert most(10_000) < 0.06


def test_calibration_file_has_nulls_and_planted_structure_of_every_metric():
    rows = FOUND["rows"]
    assert {(row["metric"], row["control"], row["name"]) for row in rows} == set(CONTROLS)
    assert {row["metric"] for row in rows if row["control"] == NULL} == set(METRICS)
    for row in rows:
        assert row["n"] >= 100
        assert 0.0 <= row["rate"] <= 1.0
        assert row["control"] == PLANTED or row["rate"] <= most(row["n"], LEVEL)
    for metric in METRICS:
        assert max(row["rate"] for row in rows if (row["metric"], row["control"]) == (metric, PLANTED)) > 0.5


def test_calibration_tables_of_the_page_are_those_of_the_file():
    page = (ROOT / "docs/metrics.md").read_text()
    assert with_tables(page, FOUND) == page
    assert all(table in page for table in tables(FOUND).values())


def test_calibration_reference_protocol_shows_its_artefacts_and_ours_does_not():
    rows = FOUND["artefacts"]
    q = [row["reference_protocol"] for row in rows if row["metric"] == "tmi"]
    h = [row["reference_protocol"] for row in rows if row["metric"] == "sps"]
    assert q[0] > 0.75
    assert q[-1] < 0.08
    assert q == sorted(q, reverse=True)
    assert min(h) > 0.9
    assert max(abs(row["ours"]) for row in rows) < 0.05
