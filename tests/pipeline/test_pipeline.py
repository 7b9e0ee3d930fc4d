"""The whole pipeline on small settings, as a user runs it: repro, change, change back, edit, kill, resume."""

import json

import pytest

from tests.support.project import Project

pytestmark = [pytest.mark.pipeline, pytest.mark.slow, pytest.mark.timeout(1500)]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    project = Project(tmp_path_factory.mktemp("pipeline"))
    project.make_small(["bdh", "transformer"], ["sample_plays"])
    project.first_output = project.repro().stdout
    return project


def test_pipeline_ends_with_a_page_that_shows_every_run(finished):
    page = (finished.folder / "reports/index.html").read_text(encoding="utf-8")
    summary = json.loads((finished.folder / "reports/summary.json").read_text(encoding="utf-8"))
    for variant in ("bdh", "transformer"):
        assert variant in page
        assert variant in json.dumps(summary)
    assert "sample_plays" in page
    floors = json.loads((finished.folder / "reports/floors/sample_plays.json").read_text(encoding="utf-8"))
    hebbian = json.loads((finished.folder / "reports/hebbian/bdh-sample_plays-0.json").read_text(encoding="utf-8"))
    assert (floors["tokens"], floors["bytes"]) == (hebbian["tokens"], hebbian["bytes"]), "the same targets"
    assert "the strongest n-gram model" in page
    strongest = floors["floors"][floors["chosen"]["strongest"]]["bits_per_byte"]
    assert summary["corpora"]["sample_plays"]["floors"]["strongest_bits_per_byte"] == strongest


def test_pipeline_second_repro_does_nothing_and_says_so(finished):
    again = finished.repro().stdout
    assert finished.stages_run(again) == set()
    assert "Data and pipelines are up to date." in again


def test_pipeline_every_mlflow_run_is_finished(finished):
    states = finished.mlflow_runs()
    assert len(states) == 2 * 3 + 1
    assert set(states) == {"FINISHED"}


def test_pipeline_one_value_reruns_one_variant_and_back_restores_it(finished):
    runs_before = len(finished.mlflow_runs())
    report = finished.folder / "reports/train/bdh-sample_plays-0.json"
    before = report.read_bytes()
    finished.set(**{"variant.bdh.train": {"learning_rate": 0.001}})
    changed = finished.stages_run(finished.repro().stdout)
    stages = {f"{stage}@bdh-sample_plays-0" for stage in ("train", "hebbian", "frontier")}
    assert changed == stages | {"code", "compare"}
    assert report.read_bytes() != before
    runs_changed = len(finished.mlflow_runs())
    assert runs_changed == runs_before + 4
    finished.set(**{"variant.bdh": {}})
    assert finished.stages_run(finished.repro().stdout) == {"compare"}, "it is cheap, and writes what git keeps"
    assert report.read_bytes() == before
    assert len(finished.mlflow_runs()) == runs_changed + 1


def test_pipeline_edit_of_one_variant_reruns_that_variant_only(finished):
    file = finished.folder / "bdh/models/transformer.py"
    source = file.read_text(encoding="utf-8")
    try:
        file.write_text(source + "\n\n# a remark\n", encoding="utf-8")
        assert finished.stages_run(finished.repro().stdout) == {"code"}
        file.write_text(source + "\n\nSPARE = 0\n", encoding="utf-8")
        ran = finished.stages_run(finished.repro().stdout)
    finally:
        file.write_text(source, encoding="utf-8")
    assert {name for name in ran if name.startswith("train@")} == {"train@transformer-sample_plays-0"}
    assert not {name for name in ran if "bdh" in name}
    assert finished.stages_run(finished.repro().stdout) <= {"code", "compare"}


def test_pipeline_twin_clone_gives_identical_metrics(finished, tmp_path):
    twin = Project(tmp_path / "twin")
    twin.make_small(["bdh", "transformer"], ["sample_plays"])
    twin.repro()
    for folder in ("floors", "train", "hebbian", "frontier", "history"):
        for file in sorted((finished.folder / "reports" / folder).iterdir()):
            assert (twin.folder / "reports" / folder / file.name).read_bytes() == file.read_bytes(), file.name
    assert (twin.folder / "reports/summary.json").read_bytes() == (
        finished.folder / "reports/summary.json"
    ).read_bytes()


def test_pipeline_variant_that_diverges_is_a_row_and_stops_nothing(finished):
    """`dvc repro` ended at the training that diverged, and no page was made for the others."""
    before = json.loads((finished.folder / "reports/summary.json").read_text(encoding="utf-8"))
    finished.set(**{"variant.transformer.train": {"learning_rate": 100.0, "weight_decay": 1e6}})
    try:
        ran = finished.stages_run(finished.repro().stdout)
        assert finished.stages_run(finished.repro().stdout) == set(), "a run that diverged is not tried again"
        page = (finished.folder / "reports/index.html").read_text(encoding="utf-8")
        summary = json.loads((finished.folder / "reports/summary.json").read_text(encoding="utf-8"))
    finally:
        finished.set(**{"variant.transformer.train": {}})
        finished.repro()
    assert ran == {f"{stage}@transformer-sample_plays-0" for stage in ("train", "hebbian", "frontier")} | {
        "code",
        "compare",
    }
    assert ">diverged at step " in page
    assert summary["runs"] == {"expected": 2, "complete": 1, "diverged": 1}
    bits = [found["corpora"]["sample_plays"]["variants"]["bdh"]["test_bits_per_byte"] for found in (before, summary)]
    assert bits[0] == bits[1]
