"""MCL beside the dense baseline: difference and interval of two shares, and where the page says so."""

import json

import pytest

from bdh.report.data.inputs import load_inputs
from bdh.report.tables.frontier import baseline_notes, difference, frontier_tables
from tests.support.report_fixtures import Axes, write_everything

CORPUS = "sample_calls"


def with_mcl(tmp_path, shares):
    axes = Axes(corpora=(CORPUS,))
    write_everything(tmp_path, axes)
    for variant, (value, low, high) in shares.items():
        path = tmp_path / f"data/results/frontier/{variant}-{CORPUS}-0.json"
        report = json.loads(path.read_text())
        report["mcl"] = report["sps"] | {"value": value, "ci_low": low, "ci_high": high}
        path.write_text(json.dumps(report))
    return load_inputs(axes)


def test_report_mcl_difference_is_newcombes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    inputs = with_mcl(tmp_path, {"bdh": (56 / 70, 0.6916, 0.8773), "transformer": (48 / 80, 0.4906, 0.7002)})
    gap = difference(inputs.of(CORPUS, "bdh"), inputs.of(CORPUS, "transformer"), "mcl")
    assert gap.value == pytest.approx(0.2)
    assert (gap.low, gap.high) == pytest.approx((0.0524, 0.3339), abs=2e-3)


def test_report_mcl_table_names_the_dense_baseline(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    inputs = with_mcl(tmp_path, {"bdh": (0.3, 0.25, 0.35), "transformer": (0.1, 0.08, 0.13)})
    table = next(table for table in frontier_tables(inputs, CORPUS) if table.name == f"{CORPUS}-mcl")
    assert any("dense baseline transformer" in note and "bdh" in note for note in table.notes)
    assert {row.title for row in table.rows} == {"bdh", "transformer"}


def test_report_mcl_without_a_baseline_says_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert baseline_notes(with_mcl(tmp_path, {"bdh": (0.3, 0.25, 0.35)}), CORPUS, "mcl") == []
