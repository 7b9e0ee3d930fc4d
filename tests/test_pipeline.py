"""The whole pipeline on small settings, as a user runs it: repro, change, change back, edit, kill, resume."""

import itertools
import json
import signal
import sqlite3

import pytest

from tests.project import Project
from tests.shared import shared

pytestmark = [pytest.mark.pipeline, pytest.mark.slow, pytest.mark.timeout(1500)]


def mlflow_runs(project):
    with sqlite3.connect(project.folder / "mlflow.db") as store:
        return [state for (state,) in store.execute("select status from runs where lifecycle_stage = 'active'")]


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


def test_pipeline_second_repro_does_nothing_and_says_so(finished):
    again = finished.repro().stdout
    assert finished.stages_run(again) == set()
    assert "Data and pipelines are up to date." in again


def test_pipeline_every_mlflow_run_is_finished(finished):
    states = mlflow_runs(finished)
    assert len(states) == 2 * 3 + 1
    assert set(states) == {"FINISHED"}


def test_pipeline_one_value_reruns_one_variant_and_back_restores_it(finished):
    runs_before = len(mlflow_runs(finished))
    report = finished.folder / "reports/train/bdh-sample_plays-0.json"
    before = report.read_bytes()
    finished.set(**{"variant.bdh.train": {"learning_rate": 0.001}})
    changed = finished.stages_run(finished.repro().stdout)
    assert changed == {f"{stage}@bdh-sample_plays-0" for stage in ("train", "hebbian", "frontier")} | {"compare"}
    assert report.read_bytes() != before
    runs_changed = len(mlflow_runs(finished))
    assert runs_changed == runs_before + 4
    finished.set(**{"variant.bdh.train": {}})
    assert finished.stages_run(finished.repro().stdout) == set()
    assert report.read_bytes() == before
    assert len(mlflow_runs(finished)) == runs_changed


def test_pipeline_edit_of_one_variant_reruns_that_variant_only(finished):
    file = finished.folder / "bdh/models/transformer.py"
    source = file.read_text(encoding="utf-8")
    file.write_text(source + "\n", encoding="utf-8")
    try:
        ran = finished.stages_run(finished.repro().stdout)
    finally:
        file.write_text(source, encoding="utf-8")
    assert {name for name in ran if name.startswith("train@")} == {"train@transformer-sample_plays-0"}
    assert not {name for name in ran if "bdh" in name}
    assert finished.stages_run(finished.repro().stdout) <= {"code"}


def test_pipeline_twin_clone_gives_identical_metrics(finished, tmp_path):
    twin = Project(tmp_path / "twin")
    twin.make_small(["bdh", "transformer"], ["sample_plays"])
    twin.repro()
    for folder in ("train", "hebbian", "frontier", "history"):
        for file in sorted((finished.folder / "reports" / folder).iterdir()):
            assert (twin.folder / "reports" / folder / file.name).read_bytes() == file.read_bytes(), file.name
    assert (twin.folder / "reports/summary.json").read_bytes() == (
        finished.folder / "reports/summary.json"
    ).read_bytes()


@pytest.mark.parametrize(
    ("number", "whole_group"),
    [(signal.SIGKILL, False), (signal.SIGTERM, False), (signal.SIGINT, True)],
    ids=["SIGKILL to dvc", "SIGTERM to dvc", "Ctrl-C"],
)
def test_pipeline_killed_repro_leaves_no_orphan_and_resumes(tmp_path, number, whole_group):
    project = Project(tmp_path / "killed")
    project.make_small(["bdh"], ["sample_plays"])
    train = project.read_params()["scales"]["laptop"]["train"]
    project.set(**{"scales.laptop.train": train | {"steps": 3000, "checkpoint_every": 5, "patience": 1000}})
    running = project.start("dvc", "repro")
    project.wait_for("data/checkpoints/bdh-sample_plays-0/*/*/rest.json")
    if whole_group:
        project.kill_group(running, number)
    else:
        running.send_signal(number)
    running.wait(timeout=60)
    project.wait_until_quiet()
    again = project.start("dvc", "repro")
    seen = project.read_until(again, "going on from the checkpoint")
    project.kill_group(again, signal.SIGINT)
    again.wait(timeout=60)
    project.wait_until_quiet()
    assert "going on from the checkpoint" in seen, seen
    project.wait_until(lambda: "RUNNING" not in mlflow_runs(project))


def test_pipeline_runs_on_the_real_corpora(tmp_path):
    mirror = shared("corpora")
    project = Project(tmp_path / "real", {"BDH_CORPORA_MIRROR": str(mirror)})
    project.set(variants=["bdh", "transformer"], corpora=["shakespeare", "transcripts"], device="cpu")
    project.set(**{"hebbian.laptop.max_tokens": 4096, "frontier.laptop.max_tokens": 1024, "frontier.twins": 1})
    project.repro()
    tokens = json.loads((project.folder / "data/tokens/transcripts/stats.json").read_text(encoding="utf-8"))
    assert tokens["tokenizer"]["vocab_size"] == 50257
    for variant, corpus in itertools.product(("bdh", "transformer"), ("shakespeare", "transcripts")):
        report = project.folder / f"reports/hebbian/{variant}-{corpus}-0.json"
        hebbian = json.loads(report.read_text(encoding="utf-8"))
        assert hebbian["arms"]["static"]["bits_per_byte"] < hebbian["unigram_bits_per_byte"], (variant, corpus)
