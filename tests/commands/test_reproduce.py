"""`bdh reproduce`: a run made again from its commit and settings, from files and from MLflow alone."""

import json
import subprocess

import pytest
import yaml

from bdh.commands.reproduce import difference, numbers, verdicts
from tests.support.tracked_project import TrackedProject

KEY = "bdh-sample_plays-0"


def git(project, *words):
    names = {f"GIT_{who}_{what}": "t@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    environment = project.environment | names
    subprocess.run(["git", *words], cwd=project.folder, check=True, capture_output=True, env=environment)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project whose run was made with an edit of params.yaml that is in no commit; later commits change the code."""
    made = TrackedProject(tmp_path_factory.mktemp("reproduce") / "project")
    git(made, "add", "-A")
    git(made, "commit", "-qm", "as it was")
    path = made.folder / "params.yaml"
    path.write_text(path.read_text().replace("learning_rate: 0.003", "learning_rate: 0.004"))
    made.run("dvc", "repro")
    stage = made.folder / "stages/toy.py"
    stage.write_text(stage.read_text().replace("value - 0.05", "value - 0.10"))
    git(made, "add", "-A")
    git(made, "commit", "-qm", "other code")
    return made


def test_reproduce_takes_commit_and_settings_of_then(project):
    """Today's code or settings would give other numbers; the head's params.yaml would hide that the patch is lost."""
    done = project.run("bdh", "reproduce", KEY)
    assert "is reproduced" in done.stdout
    assert "all equal" in done.stdout
    assert list((project.folder / "data/reproduced").iterdir()) == []


def test_reproduce_says_what_differs_and_fails(project):
    path = project.folder / f"data/results/hebbian/{KEY}.json"
    kept = path.read_text()
    found = json.loads(kept)
    found["arms"]["static"] |= {"nats_per_token": found["arms"]["static"].get("nats_per_token", 1.0) * 1.5}
    try:
        path.unlink()
        path.write_text(json.dumps(found))
        done = project.run("bdh", "reproduce", KEY, check=False)
    finally:
        path.write_text(kept)
    assert done.returncode == 1
    assert "is not reproduced: a loss differs by more than 0.01" in done.stdout


def test_reproduce_needs_no_more_than_the_mlflow_run(project):
    run_id = json.loads((project.folder / f"data/results/run/train/{KEY}.json").read_text())["run_id"]
    done = project.run("bdh", "reproduce", run_id)
    assert "is reproduced" in done.stdout


def test_reproduce_refuses_what_no_commit_holds(project):
    path = project.folder / f"data/results/origin/frontier/{KEY}.json"
    kept = path.read_text()
    try:
        path.unlink()
        path.write_text(json.dumps(json.loads(kept) | {"uncommitted": ["bdh/models/mine.py"]}))
        done = project.run("bdh", "reproduce", KEY, check=False)
    finally:
        path.write_text(kept)
    assert done.returncode == 2
    assert "edits that are in no commit (bdh/models/mine.py)" in done.stderr


def test_origin_names_commit_patch_and_releases(project):
    found = json.loads((project.folder / f"data/results/origin/train/{KEY}.json").read_text())
    assert len(found["commit"]) == 40
    assert found["uncommitted"] == []
    assert "+      learning_rate: 0.004" in found["params_patch"]
    assert {"torch", "numpy", "python", "processor"} <= found["environment"].keys()
    assert (project.folder / f"reports/origin/train/{KEY}.json").exists()
    assert yaml.safe_load((project.folder / "dvc.yaml").read_text())


def test_difference_of_numbers_by_their_path():
    assert dict(numbers({"a": [1, {"b": 2.0}], "c": True, "d": "3"})) == {"a/0": 1.0, "a/1/b": 2.0}
    assert dict(verdicts({"tmi": {"verdict": "above its null", "value": 1.0}, "n": 2})) == {"tmi": "above its null"}
    assert difference(2.0, 1.0) == 0.5
    assert difference(0.0, 0.0) == 0.0
    assert difference(None, 1.0) == float("inf")
