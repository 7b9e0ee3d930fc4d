"""Tracking as a stage sees it: what arrives, what happens on errors, kills and outages, and what it costs."""

import ast
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from bdh.project.errors import shown
from bdh.tracking.identity import alive, process_tags
from bdh.tracking.runs import sweep
from bdh.tracking.store import StoreError, open_store, sqlite_path, store_uri
from tests.support.tracked_project import ROOT, TrackedProject

pytestmark = pytest.mark.slow

KEY = "bdh-sample_plays-0"
TRAIN = ("stages.train", "bdh", "sample_plays", "0")


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return TrackedProject(tmp_path_factory.mktemp("stages") / "project")


@pytest.fixture(scope="module")
def store(project):
    return open_store(f"sqlite:///{project.folder / 'mlflow.db'}")


@pytest.fixture(scope="module")
def trained(project):
    """Output of one training."""
    return project.run(*TRAIN)


def run_named_by_pointer(project, store, stage="train"):
    return store.client.get_run(project.pointer(stage)["run_id"])


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.1)
    return found


def killable_training(project):
    """A training that waits after its third validation, and its process id."""
    (project.folder / "waiting").unlink(missing_ok=True)
    process = project.start(*TRAIN, TOY_STOP="wait")
    wait_for((project.folder / "waiting").exists)
    return process


def test_tracking_training_arrives_whole(project, store, trained):
    run = run_named_by_pointer(project, store)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == f"train@{KEY}"
    assert run.data.params["train.steps"] == str(project.read_params()["scales"]["laptop"]["train"]["steps"])
    assert (
        run.data.metrics["validation/bits_per_byte"]
        == json.loads((project.folder / f"data/results/train/{KEY}.json").read_text())["validation/bits_per_byte"]
    )
    assert run.data.metrics["timing/seconds"] == 1.5
    assert run.data.metrics["system/process_memory_megabytes"] > 1
    expected = {"variant": "bdh", "corpus": "sample_plays", "seed": "0", "scale": "laptop", "dvc.stage": f"train@{KEY}"}
    assert expected.items() <= run.data.tags.items()
    assert {"git.dirty", "mlflow.source.git.commit", "process.host", "process.pid", "dvc.params_sha"} <= set(
        run.data.tags
    )
    artifacts = {item.path for item in store.client.list_artifacts(run.info.run_id, "samples")}
    assert artifacts == {"samples/samples.json"}


def test_tracking_same_step_is_one_point(project, store, trained):
    run = run_named_by_pointer(project, store)
    points = store.client.get_metric_history(run.info.run_id, "curves/train_nats")
    assert [point.step for point in points] == [0, 10, 20, 30, 40, 50]


def test_tracking_dataset_is_found_by_its_digest(project, store, trained):
    run = run_named_by_pointer(project, store)
    (given,) = run.inputs.dataset_inputs
    assert (given.dataset.name, given.dataset.digest) == ("sample_plays", "d" * 36)
    assert run.info.run_id in [found.info.run_id for found in store.search(f"dataset.digest = '{'d' * 36}'")]


def test_tracking_stage_itself_never_imports_mlflow_and_is_quiet(trained):
    assert trained.returncode == 0  # the stage asserts that mlflow is not imported
    assert trained.stderr == ""


def test_tracking_is_the_only_importer_of_mlflow():
    for path in [*(ROOT / "bdh").rglob("*.py"), *(ROOT / "stages").rglob("*.py")]:
        names = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names.add(node.module or "")
        if not path.is_relative_to(ROOT / "bdh/tracking"):
            assert not any(name.split(".")[0] == "mlflow" for name in names), path


def test_tracking_evaluation_is_a_child_and_its_headlines_stand_on_the_model(project, store, trained):
    project.run("stages.hebbian", "bdh", "sample_plays", "0")
    parent, child = run_named_by_pointer(project, store), run_named_by_pointer(project, store, "hebbian")
    report = json.loads((project.folder / f"data/results/hebbian/{KEY}.json").read_text())
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert parent.info.status == "FINISHED"
    for arm in ("static", "carry"):
        assert parent.data.metrics[f"test/bits_per_byte/{arm}"] == report["arms"][arm]["bits_per_byte"]
        assert parent.data.metrics[f"test/perplexity/{arm}"] == report["arms"][arm]["perplexity"]
    assert "test/bits_per_byte/observe" not in parent.data.metrics
    assert len(store.client.get_metric_history(child.info.run_id, "static/bits_per_byte")) == 1
    assert not any("by_year" in name for name in child.data.metrics)


def test_tracking_evaluation_without_its_parent_stands_alone(project, store, trained, tmp_path):
    other = project.copy_to(tmp_path / "copy")
    other.run("stages.frontier", "bdh", "sample_plays", "0")
    alone = open_store(f"sqlite:///{other.folder / 'mlflow.db'}").client.get_run(other.pointer("frontier")["run_id"])
    assert alone.info.status == "FINISHED"
    assert "mlflow.parentRunId" not in alone.data.tags
    assert alone.data.tags["parent_missing"] == project.pointer()["run_id"]


@pytest.mark.parametrize(("wish", "status"), [("raise", "FAILED"), ("exit", "KILLED")])
def test_tracking_error_in_the_block_closes_the_run(project, store, trained, wish, status):
    before = project.pointer()
    done = project.run(*TRAIN, check=False, TOY_STOP=wish)
    assert done.returncode != 0
    newest = next(store.search(f"tags.`dvc.stage` = 'train@{KEY}'"))
    assert newest.info.status == status
    assert project.pointer() == before
    note = project.folder / f"data/checkpoints/{KEY}/fingerprint/mlflow.json"
    assert json.loads(note.read_text())["run_id"] == newest.info.run_id
    note.unlink()


def test_tracking_sigkill_closes_the_run_and_the_next_start_goes_on_in_it(project, store, trained):
    process = killable_training(project)
    (running,) = store.search("attributes.status = 'RUNNING'")
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    run_id = running.info.run_id
    wait_for(lambda: store.client.get_run(run_id).info.status == "KILLED")
    killed_with = store.client.get_metric_history(run_id, "curves/train_nats")
    assert [point.step for point in killed_with] == [0, 10, 20]
    project.run(*TRAIN)
    assert project.pointer()["run_id"] == run_id
    resumed = store.client.get_run(run_id)
    assert (resumed.info.status, resumed.data.tags["resumed"]) == ("FINISHED", "1")
    assert resumed.data.tags["process.pid"] != str(process.pid)
    points = store.client.get_metric_history(run_id, "curves/train_nats")
    assert [point.step for point in points] == [0, 10, 20, 30, 40, 50]
    assert not (project.folder / f"data/checkpoints/{KEY}/fingerprint").exists()


def test_tracking_sweeper_closes_what_a_power_cut_left_running(project, store, trained):
    process = killable_training(project)
    writers = psutil.Process(process.pid).children(recursive=True)
    (running,) = store.search("attributes.status = 'RUNNING'")
    assert sweep(store) == []
    for victim in [*writers, psutil.Process(process.pid)]:
        victim.kill()
    process.communicate()
    assert store.client.get_run(running.info.run_id).info.status == "RUNNING"
    assert sweep(store) == [running.info.run_id]
    assert store.client.get_run(running.info.run_id).info.status == "KILLED"
    (project.folder / f"data/checkpoints/{KEY}/fingerprint/mlflow.json").unlink()


def test_tracking_process_is_known_by_number_start_and_host():
    tags = process_tags(os.getpid())
    assert alive(tags) is True
    assert alive(tags | {"process.started": "12.0"}) is False
    assert alive(tags | {"process.pid": "999999999"}) is False
    assert alive(tags | {"process.host": "elsewhere"}) is None
    assert alive({}) is None


@pytest.mark.parametrize("uri", ["http://127.0.0.1:9", "file:///tmp/anything"], ids=["dead port", "no store"])
def test_tracking_outage_is_one_warning_and_the_work_goes_on(project, tmp_path, uri):
    other = project.copy_to(tmp_path / "copy")
    done = other.run(*TRAIN, MLFLOW_TRACKING_URI=uri)
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("warning: tracking: ")
    assert uri.split("//")[1].split("/")[0] in line
    pointer = other.pointer()
    assert (pointer["run_id"], pointer["experiment_id"]) == (None, None)
    assert (other.folder / f"data/results/train/{KEY}.json").exists()


@pytest.mark.parametrize("environment", [{"BDH_TRACKING": "off"}, {"RANK": "1"}], ids=["switched off", "second rank"])
def test_tracking_can_be_absent(project, tmp_path, environment):
    other = project.copy_to(tmp_path / "copy")
    (other.folder / f"data/results/run/train/{KEY}.json").unlink(missing_ok=True)
    other.run(*TRAIN, **environment)
    assert not (other.folder / "mlflow.db").exists()
    assert (other.folder / f"data/results/run/train/{KEY}.json").exists() == ("BDH_TRACKING" in environment)


@pytest.mark.parametrize(
    ("uri", "told"),
    [
        ("http://127.0.0.1:9", "does not answer"),
        ("http://", "names no host"),
        ("http://host:port", "no valid port"),
        ("s3://bucket/runs", "no database and no server"),
        ("sqlite:////dev/null/mlflow.db", "File exists"),
        ("postgresql://me:secret@127.0.0.1:9/runs", "does not answer"),
        ("postgresql://me:a/secret@127.0.0.1:9/runs", ""),
        ("http://me:a@secret@127.0.0.1:9", "does not answer"),
        ("http://127.0.0.1:9/?token=secret", "does not answer"),
    ],
)
def test_store_that_cannot_be_used_is_one_line_without_password(uri, told, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(StoreError) as caught:
        open_store(uri)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "secret" not in shown(uri)


def test_store_locked_by_another_program_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr("bdh.tracking.store.SECONDS_TO_CONNECT", 0.2)
    database = tmp_path / "mlflow.db"
    with sqlite3.connect(database) as other:
        other.execute("CREATE TABLE t (x)")
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StoreError, match="locked"):
            open_store(f"sqlite:///{database}")


def test_store_that_is_no_database_says_what_to_do(tmp_path):
    database = tmp_path / "mlflow.db"
    database.write_text("this is text, and long enough to be looked at as a database " * 4)
    with pytest.raises(StoreError, match="bdh sync"):
        open_store(f"sqlite:///{database}")


def test_store_removed_after_a_kill_leaves_no_log_behind_that_damages_the_next(tmp_path):
    """`rm mlflow.db; bdh sync` gave "database disk image is malformed"."""
    database = tmp_path / "mlflow.db"
    uri, script = f"sqlite:///{database}", "import os, sys; from bdh.tracking.store import open_store"
    script += "; s = open_store(sys.argv[1]); s.client.create_run(s.experiment_id); os._exit(9)"
    subprocess.run([sys.executable, "-c", script, uri], check=False)
    assert (tmp_path / "mlflow.db-wal").stat().st_size > 0
    database.unlink()
    assert list(open_store(uri).search()) == []


def test_store_brings_a_deleted_experiment_back(tmp_path):
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    store = open_store(uri)
    store.client.delete_experiment(store.experiment_id)
    again = open_store(uri)
    assert again.experiment_id == store.experiment_id
    assert again.client.get_experiment(again.experiment_id).lifecycle_stage == "active"


@pytest.mark.parametrize("name", ["a%20b", "what?x=1", "c#d", "Größe und 100 %"])
def test_store_lies_in_a_folder_of_any_name(name, tmp_path, monkeypatch):
    """Catches an address in which `%20`, `?` and `#` mean something else: the database was made outside the project."""
    folder = tmp_path / name
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    opened = open_store()
    run = opened.client.create_run(opened.experiment_id)
    opened.client.log_text(run.info.run_id, "hello", "note.txt")
    assert sqlite_path(store_uri()) == folder / "mlflow.db"
    assert {path.name for path in tmp_path.iterdir()} == {name}
    assert (folder / "mlflow.db").is_file()
    assert [path.read_text() for path in folder.rglob("note.txt")] == ["hello"]


def test_store_moves_with_its_folder(tmp_path):
    before, after = tmp_path / "before", tmp_path / "after"
    store = open_store(f"sqlite:///{before / 'mlflow.db'}")
    run_id = store.client.create_run(store.experiment_id).info.run_id
    store.client.log_text(run_id, "to be", "note.txt")
    before.rename(after)
    moved = open_store(f"sqlite:///{after / 'mlflow.db'}")
    assert moved.get_run(run_id).info.artifact_uri == f"{(after / 'mlruns').as_uri()}/{run_id}/artifacts"
    assert [item.path for item in moved.client.list_artifacts(run_id)] == ["note.txt"]
    assert moved.client.get_experiment(moved.experiment_id).artifact_location == (after / "mlruns").as_uri()


def test_store_is_kept_beside_the_original_repository(monkeypatch, tmp_path):
    from bdh.tracking.store import store_uri

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.chdir(tmp_path)
    assert store_uri() == f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("DVC_ROOT", "/original")
    assert store_uri() == f"sqlite:///{Path('/original/mlflow.db')}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server:5000")
    assert store_uri() == "http://server:5000"


def test_tracking_prepared_process_serves_the_next_run(project, tmp_path):
    other = project.copy_to(tmp_path / "copy")
    code = (
        "from bdh import tracking\n"
        "tracking.prepare()\n"
        "with tracking.tracked('train', 'a-b-0', params={}, tags={}) as tracker:\n"
        "    tracker.log_metrics({'loss': 1.0, 'nothing': None, 'nan': float('nan')}, step=2)\n"
        "print(tracker.run_id)\n"
    )
    (other.folder / "prepared.py").write_text(code)
    done = other.run("prepared")
    assert done.stderr == ""
    run = open_store(f"sqlite:///{other.folder / 'mlflow.db'}").client.get_run(done.stdout.strip())
    assert run.info.status == "FINISHED"
    assert run.data.metrics["loss"] == 1.0
    assert "nothing" not in run.data.metrics
