"""`bdh study` as a user types it: rows run in a copy of the project, and their results come into the study."""

import json

import pytest
import yaml

from tests.support.project import SMALL_TRAIN, Project
from tests.support.study_project import snapshot, write_yaml
from tests.support.tracked_project import TrackedProject

ROW = "reference/bdh-sample_plays-0"
PLAN = {
    "title": "Small",
    "cells": [{"recipe": "reference", "variants": ["bdh"], "corpora": ["sample_plays"], "seeds": [0, 1]}],
}
NAMES = ("params.yaml", "reports", "data/README.md", "dvc.yaml")


def plan_study(folder, raw):
    write_yaml(folder / "reports/reference/params.yaml", raw)
    write_yaml(folder / "reports/reference/study.yaml", PLAN)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A repository with stages that take milliseconds, and a study of two cells without results."""
    project = TrackedProject(tmp_path_factory.mktemp("study") / "project")
    plan_study(project.folder, project.read_params())
    project.write_params(project.read_params() | {"scale": "gpu"})
    return project


@pytest.mark.timeout(600)
def test_study_row_runs_in_a_copy_with_the_settings_of_the_study(project):
    """The project's own settings, results and store must neither be used nor changed."""
    before = snapshot(project.folder, *NAMES)
    done = project.run("bdh", "study", "run", ROW)
    assert ROW in done.stdout
    work = project.folder / "data/study/reference/reference"
    assert json.loads((work / "data/runs/bdh-sample_plays-0/config.json").read_text())["train"]["steps"] == 200
    assert not (work / "data/runs/bdh-sample_plays-1").exists()
    assert (work / "data/results/frontier/bdh-sample_plays-0.json").exists()
    assert not (work / "reports/summary.json").exists()
    assert snapshot(project.folder, *NAMES) == before
    assert not (project.folder / "mlflow.db").exists()
    assert not (project.folder / "dvc.lock").exists()
    assert (work / "mlflow.db").exists()
    assert yaml.safe_load((work / "params.yaml").read_text())["seeds"] == [0]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("run", "bdh-sample_plays-0"), "is no row of reports/reference; did you mean reference/bdh-sample_plays-0?"),
        (("run", "--seed", "7"), "no row of reports/reference has all that was asked for"),
        (("render", "--study", "reports"), "reports/study.yaml is missing"),
        (("add", "nowhere"), "is neither a folder nor a tar file"),
    ],
)
def test_study_mistakes_are_one_line(project, words, line):
    done = project.run("bdh", "study", *words, check=False)
    assert done.returncode == 2
    assert line in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.pipeline
@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_study_takes_what_the_real_stages_wrote(tmp_path):
    """From an empty study to a row of its summary, with two commands."""
    project = Project(tmp_path / "clone")
    project.make_small(["bdh"], ["sample_plays"])
    plan_study(project.folder, project.read_params())
    project.run("bdh", "study", "run", ROW)
    told = project.run("bdh", "study", "add", "data/study/reference").stdout
    assert f"{ROW}: train, hebbian, frontier" in told
    assert "1 cells taken, 0 refused" in told
    summary = json.loads((project.folder / "reports/reference/summary.json").read_text())
    assert summary["cells"] == {"planned": 2, "run": 1, "not_run": 1}
    row = summary["rows"][0]
    assert row["steps_done"] == SMALL_TRAIN["steps"]
    assert row["stage_seconds"].keys() == {"train", "hebbian", "frontier"}
    assert row["nats_per_token"] > 0
