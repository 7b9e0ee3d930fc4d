"""The plot of weight changes: maps pooled, scaled by the root mean square change, damaged files named."""

import json
import math
from pathlib import Path

import pytest

from bdh.project.errors import RunError
from bdh.report.data.inputs import load_inputs
from bdh.report.page import render_page
from bdh.report.plots.training import change_shares, synapse_panels
from tests.support.report_fixtures import Axes, dump, write_everything

AXES = Axes(variants=("slim_hebbian", "slim_backprop"), corpora=("sample_plays",))
EDGES = [-2.0, -1.0, 0.0, 1.0, 2.0]


@pytest.fixture
def root(tmp_path, monkeypatch):
    write_everything(tmp_path, AXES)
    monkeypatch.chdir(tmp_path)
    changes = {
        "blocks.0.w_q": {"edges": EDGES, "counts": [0, 10, 20, 10], "rms": 0.5, "pruned": 0},
        "blocks.0.w_1": {"edges": EDGES, "counts": [0, 0, 50, 10], "rms": 1.0, "pruned": 4},
    }
    dump(tmp_path / "data/runs/slim_hebbian-sample_plays-0/weight_changes.json", changes)
    return tmp_path


def test_weight_changes_of_all_maps_are_pooled_and_scaled(root):
    run = load_inputs(AXES).of("sample_plays", "slim_hebbian")[0]
    rms = math.sqrt((40 * 0.25 + 60 * 1.0) / 100)
    places, shares = change_shares(run)
    assert shares == [0.1, 0.7, 0.2]
    assert places == pytest.approx([-0.5 / rms, 0.5 / rms, 1.5 / rms])


def test_weight_changes_are_plotted_for_those_who_recorded_them(root):
    inputs = load_inputs(AXES)
    (panel,) = synapse_panels(inputs, "sample_plays")
    assert [curve.label for curve in panel.curves] == ["slim_hebbian"]
    assert 'id="sample_plays-weight-changes"' in render_page(inputs)


def test_weight_changes_of_nothing_that_moved_give_no_line(root):
    still = {"blocks.0.w_q": {"edges": EDGES, "counts": [0, 5, 0, 0], "rms": 0.0, "pruned": 0}}
    Path("data/runs/slim_backprop-sample_plays-0/weight_changes.json").write_text(json.dumps(still), encoding="utf-8")
    assert change_shares(load_inputs(AXES).of("sample_plays", "slim_backprop")[0]) is None


def test_weight_changes_with_different_bins_name_the_file(root):
    file = Path("data/runs/slim_hebbian-sample_plays-0/weight_changes.json")
    changes = json.loads(file.read_text(encoding="utf-8"))
    changes["blocks.0.w_1"]["edges"] = [2 * edge for edge in EDGES]
    file.write_text(json.dumps(changes), encoding="utf-8")
    with pytest.raises(RunError, match=r"slim_hebbian-sample_plays-0/weight_changes\.json is damaged"):
        synapse_panels(load_inputs(AXES), "sample_plays")
