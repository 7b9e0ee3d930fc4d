"""A study: it takes finished cells and nothing else, renders alone, and says what it does not have."""

import json
import os
import re
import shutil
import tarfile
from pathlib import Path

import pandas as pd
import pytest
import yaml

from bdh.project.errors import HatcheryError
from bdh.report.study.gather import add, pack
from bdh.report.study.outcome import recipe_inputs, summarise_study
from bdh.report.study.page import render_study
from bdh.report.study.plan import StudyError, load_study
from bdh.report.study.readme import draw_study, with_study
from tests.support.report_fixtures import write_diverged
from tests.support.study_project import PLAN, make_project, make_study, snapshot, study_params, write_yaml

COMMIT = "c" * 40
ROW = {"variant", "corpus", "seed", "recipe", "split", "nats_per_token", "bits_per_byte", "steps", "gpu_seconds"}
ROW |= {"commit", "machine", "joules", "parameters", "refit", "carry_nats_per_token", "missing"}


@pytest.fixture
def study(tmp_path, monkeypatch):
    folder = make_study(tmp_path / "repository")
    monkeypatch.chdir(tmp_path / "repository")
    return folder


def take(study, source):
    return add(load_study(study), source, COMMIT)


def summary_of(study):
    """The summary alone, without pages."""
    found = load_study(study)
    inputs = {recipe: recipe_inputs(found, recipe) for recipe in found.recipes}
    return summarise_study(found, {recipe: own for recipe, own in inputs.items() if own is not None})


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A rendered study with cells of both recipes; the files around it as they were before."""
    root = tmp_path_factory.mktemp("finished")
    study = make_study(root / "repository")
    (root / "repository/mlflow.db").write_bytes(b"store")
    (root / "repository/dvc.lock").write_text("schema: '2.0'\n")
    (study.parent / "summary.json").write_text("{}")
    before = snapshot(root / "repository", ".")
    take(study, make_project(root / "a", cells=[("bdh", 0), ("bdh", 1), ("transformer", 0)]))
    take(study, make_project(root / "b", "tuned", cells=[("bdh", 0), ("bdh", 1)], stages=("train", "hebbian")))
    write_run_record(study / "tuned/reports/run/train/bdh-sample_calls-0.json")
    here = Path.cwd()
    os.chdir(root / "repository")
    render_study(load_study(study))
    os.chdir(here)
    return root, study, before


def write_run_record(path):
    times = {"started": "2026-11-27T10:45:45.000+00:00", "ended": "2026-11-27T10:46:15.500+00:00"}
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"run_id": "r", "experiment_id": "1"} | times))


def test_study_summary_has_a_row_per_cell_and_a_reason_for_every_other(finished):
    root, study, _ = finished
    summary = json.loads((study / "summary.json").read_text())
    assert [(r["recipe"], r["variant"], r["seed"]) for r in summary["rows"]] == [
        ("reference", "bdh", 0), ("reference", "bdh", 1), ("reference", "transformer", 0),
        ("tuned", "bdh", 0), ("tuned", "bdh", 1),
    ]  # fmt: skip
    assert all(row.keys() >= ROW for row in summary["rows"])
    assert {(r["recipe"], r["variant"], r["seed"]): r["reason"] for r in summary["not_run"]} == {
        ("reference", "transformer", 1): "not run",
        ("tuned", "eq8", 0): "recipe: tuned.gpu.sample_calls has no settings for eq8",
        ("tuned", "eq8", 1): "recipe: tuned.gpu.sample_calls has no settings for eq8",
    }
    row = summary["rows"][3]
    held_out = json.loads((root / "b/data/results/hebbian/bdh-sample_calls-0.json").read_text())["arms"]
    assert row["nats_per_token"] == held_out["static"]["nats_per_token"]
    assert row["carry_nats_per_token"] == held_out["carry"]["nats_per_token"]
    assert row["commit"] == COMMIT
    assert row["steps"] == 300
    assert row["gpu_seconds"] == 41.2
    assert row["missing"] == {"frontier": "not run"}
    assert row["stage_seconds"] == {"train": 30.5}


def test_study_page_has_recipes_side_by_side_and_names_what_is_missing(finished):
    """One key in two recipes was one run: the page of one recipe took the other's numbers."""
    root, study, _ = finished
    page = (study / "index.html").read_text()
    for text in ("test, reference", "test, tuned", "tuned minus reference", "verdict, tuned"):
        assert text in page
    assert "tuned/bdh-sample_calls-0: frontier: not run" in page
    assert "reference/transformer-sample_calls-1: not run" in page
    own = (study / "tuned/index.html").read_text()
    files = set(re.findall(r'href="((?!#)[^"]+)"', own))
    assert "reports/train/bdh-sample_calls-0.json" in files
    assert [name for name in files if not (study / "tuned" / name).is_file()] == []
    assert "tuned/bdh-sample_calls-0: frontier: not run" in own
    assert "reference/" not in own
    table = pd.read_csv(study / "results.csv")
    levels = table.groupby("recipe")["hebbian/arms/static/bits_per_byte"].first()
    assert table["recipe"].tolist() == ["reference"] * 3 + ["tuned"] * 2
    assert levels["reference"] == json.loads((study / "summary.json").read_text())["rows"][0]["bits_per_byte"]
    ledger = json.loads((study / "claims.json").read_text())["rows"]
    assert {row["recipe"] for row in ledger} == {"reference", "tuned"}
    assert len(ledger) == 32
    assert all(
        (root / "repository" / path).exists() for row in ledger for path in row["evidence"] if "scaling" not in path
    )


def test_study_renders_the_same_bytes_from_its_folder_alone(finished, tmp_path, monkeypatch):
    """No weights, no corpus, no pipeline around it, on another machine."""
    root, study, _ = finished
    monkeypatch.chdir(tmp_path)
    shutil.copytree(study, "reports/reference")
    shutil.copytree(root / "repository/benchmarks", "benchmarks")
    made = ("index.html", "summary.json", "tuned/index.html", "results.csv", "tuned/claims.csv")
    for name in made:
        (Path("reports/reference") / name).unlink()
    render_study(load_study(Path("reports/reference")))
    for name in ("index.html", "summary.json", "results.csv", "tuned/index.html"):
        assert (Path("reports/reference") / name).read_bytes() == (study / name).read_bytes()
    assert not list(study.rglob("*.safetensors"))


def test_study_leaves_the_default_comparison_alone(finished):
    root, _, before = finished
    assert snapshot(root / "repository", ".") == before
    assert {"mlflow.db", "dvc.lock", "params.yaml", "reports/summary.json"} <= before.keys()


def test_study_takes_cells_twice_without_a_change(study, tmp_path):
    project = make_project(tmp_path / "a", cells=[("bdh", 0)])
    assert take(study, project) == (["reference/bdh-sample_calls-0: train, hebbian, frontier"], [])
    first = snapshot(study, "reference")
    assert take(study, project)[1] == []
    assert snapshot(study, "reference") == first
    assert list(yaml.safe_load((study / "reference/dvc.lock").read_text())["stages"]) == [
        "frontier@bdh-sample_calls-0", "hebbian@bdh-sample_calls-0", "train@bdh-sample_calls-0",
    ]  # fmt: skip


def test_study_takes_what_came_back_in_a_tar_as_from_the_folder(study, tmp_path):
    project = make_project(tmp_path / "work/reference", cells=[("bdh", 0)])
    assert pack(load_study(study), tmp_path / "work", tmp_path / "cells.tgz") > 8
    with tarfile.open(tmp_path / "cells.tgz") as archive:
        assert not [name for name in archive.getnames() if name.endswith(("safetensors", "npy"))]
    assert len(take(study, tmp_path / "cells.tgz")[0]) == 1
    packed = snapshot(study, "reference")
    take(study, project)
    assert snapshot(study, "reference") == packed


def edit_report(project):
    path = project / "data/results/train/bdh-sample_calls-0.json"
    path.write_text(path.read_text().replace('"best_step": 300', '"best_step": 30'))


def edit_params(project):
    raw = study_params()
    raw["scales"]["gpu"]["train"]["steps"] = 7
    write_yaml(project / "params.yaml", raw | {"variants": ["bdh"], "seeds": [0]})


def edit_manifest(project):
    (project / "data/code/train/bdh.json").write_text("{}")


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (edit_report, "train: data/results/train/bdh-sample_calls-0.json is not the file that dvc.lock names"),
        (edit_params, "train: it ran with another scales.gpu than params.yaml beside it says"),
        (edit_manifest, "train: data/code/train/bdh.json is not the file that dvc.lock names"),
        (lambda project: (project / "dvc.lock").unlink(), "train: dvc.lock has no entry of it"),
    ],
)
def test_study_refuses_a_result_that_is_not_what_the_pipeline_recorded(study, tmp_path, edit, reason):
    project = make_project(tmp_path / "a", cells=[("bdh", 0)])
    edit(project)
    taken, refused = take(study, project)
    assert taken == []
    assert len(refused) == 1
    assert reason in refused[0]
    assert not (study / "reference").exists()


def test_study_refuses_other_settings_and_cells_without_a_plan(study, tmp_path):
    cells = [("bdh", 0), ("eq8", 0)]
    project = make_project(tmp_path / "a", cells=cells, **{"scales.gpu.train.steps": 7})
    taken, refused = take(study, project)
    assert taken == []
    assert refused == [
        "reference/bdh-sample_calls-0: train: train.steps was 7, the study says 3000",
        f"reference/eq8-sample_calls-0: not in the plan; name it in {study}/study.yaml first",
    ]


def test_study_drops_results_whose_settings_have_changed_since(study, tmp_path):
    """Rows of an older protocol stood beside those of the new one."""
    take(study, make_project(tmp_path / "a", cells=[("bdh", 0)]))
    write_yaml(study / "params.yaml", study_params(**{"hebbian.damping": 0.5}))
    row = summary_of(study)["rows"][0]
    reason = "run with other settings: hebbian.damping was 0.99, the study says 0.5"
    assert row["nats_per_token"] is None
    assert row["missing"] == {"hebbian": reason}
    write_yaml(study / "params.yaml", study_params(**{"scales.gpu.train.steps": 7}))
    summary = summary_of(study)
    assert summary["rows"] == []
    assert summary["not_run"][0]["reason"] == "run with other settings: train.steps was 3000, the study says 7"
    render_study(load_study(study))
    assert "No cell was run yet." in (study / "index.html").read_text()


def test_study_keeps_samples_only_of_texts_with_a_licence(study, tmp_path):
    project = make_project(tmp_path / "a", cells=[("bdh", 0)])
    take(study, project)
    assert (study / "reference/data/runs/bdh-sample_calls-0/samples.json").exists()
    (study / "reference/data/runs/bdh-sample_calls-0/samples.json").unlink()
    stats = project / "data/tokens/sample_calls/stats.json"
    stats.write_text(stats.read_text().replace("MIT", "not established; for measuring only"))
    take(study, project)
    assert not (study / "reference/data/runs/bdh-sample_calls-0/samples.json").exists()


def test_study_shows_a_training_that_diverged(study, tmp_path):
    take(study, make_project(tmp_path / "a", cells=[("bdh", 0), ("transformer", 0)]))
    home, key = study / "reference", "transformer-sample_calls-0"
    write_diverged(home, key)
    shutil.copytree(home / "data/results", home / "reports", dirs_exist_ok=True)
    row = summary_of(study)["rows"][1]
    assert row["bits_per_byte"] is None
    assert row["missing"]["train"].startswith("diverged at step 40")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("reference/reports/train/bdh-sample_calls-0.json", "[]"),
        ("reference/reports/history/bdh-sample_calls-0.csv", "a,b\n1,2\n"),
        ("reference/reports/floors/sample_calls.json", '{"corpus": "sample_plays"}'),
        ("study.yaml", "cells: [{recipe: best}]"),
    ],
)
def test_study_with_a_file_of_another_shape_is_one_line_that_names_it(study, tmp_path, name, text):
    take(study, make_project(tmp_path / "a", cells=[("bdh", 0)]))
    (study / name).write_text(text)
    with pytest.raises(HatcheryError, match=str(name).replace(".", r"\.")) as error:
        render_study(load_study(study))
    assert "\n" not in str(error.value)


def test_study_plan_names_what_params_do_not_have(tmp_path):
    group = PLAN["cells"][0] | {"variants": ["bdhh"]}
    study = make_study(tmp_path, PLAN | {"cells": [group]})
    with pytest.raises(StudyError, match="variant 'bdhh' has no section in"):
        load_study(study)


def test_study_readme_and_picture_are_made_of_the_summary(finished):
    _, study, _ = finished
    summary = json.loads((study / "summary.json").read_text())
    text = with_study("before\n<!-- study -->\nold\n<!-- /study -->\nafter\n", summary)
    assert text.startswith("before\n<!-- study -->\n| corpus")
    assert text.endswith("<!-- /study -->\nafter\n")
    assert "old" not in text
    assert "| sample_calls | `bdh` |" in text
    assert "(n 2)" in text
    with pytest.raises(StudyError, match="no place for the study"):
        with_study("nothing", summary)
    assert draw_study(summary) == draw_study(summary)
    assert draw_study(summary | {"title": "other"}) != draw_study(summary)
