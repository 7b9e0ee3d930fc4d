"""The stage `train` on several processes as a user meets it: files, signals, dying ranks, exit codes."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from filelock import FileLock
from safetensors.numpy import load_file
from typer.testing import CliRunner

from stages.train import app
from tests.support.stage_project import make_project, start

pytestmark = pytest.mark.slow
KEY = "bdh-sample_plays-0"
LONG = {"steps": 100_000, "validate_every": 20, "checkpoint_every": 20, "patience": 1.0, "devices": 2}
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "stages.train")
FAILING = """
import os, sys
from bdh.project.errors import reported
from bdh.training.distributed.launch import launch
from bdh.training.distributed.worker import is_worker, joined
from bdh.project.processes import stoppable

@reported
def main():
    if not is_worker():
        launch(2, [__file__], "toy-toy-0")
        return
    with stoppable() as stop, joined(stop, "cpu") as group:
        group.sum([1.0])
        if group.rank == 1:
            raise ValueError("boom")
        group.sum([1.0])

main()
"""


@pytest.fixture(autouse=True)
def _untracked(monkeypatch):
    monkeypatch.setenv("BDH_TRACKING", "off")


def descendants(process):
    """Every process below the stage, so that one left behind is found."""
    return psutil.Process(process.pid).children(recursive=True)


def ranks(process):
    """The worker processes, rank 0 first."""
    found = []
    for child in descendants(process):
        rank = child.environ().get("RANK")
        if rank is not None and "stages.train" in child.cmdline():
            found.append((int(rank), child))
    return [child for _, child in sorted(found, key=lambda pair: pair[0])]


def read_until(process, words):
    seen = []
    for line in process.stderr:
        seen.append(line)
        if words in line:
            return seen
    raise AssertionError(f"no line with {words!r}:\n{''.join(seen)}")


def all_gone(processes, seconds=30):
    end = time.monotonic() + seconds
    while any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in processes):
        assert time.monotonic() < end, f"left behind: {processes}"
        time.sleep(0.1)


def written(folder):
    """Files under a project, those of the tracking store aside."""
    paths = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    return {path for path in paths if not path.startswith(("m.db", "mlruns"))}


def kept(folder):
    return sorted(int(path.name) for path in (folder / "data/checkpoints" / KEY).glob("*/[0-9]*"))


def test_parallel_stage_gives_what_one_process_gives_from_one_writer(tmp_path, monkeypatch):
    still = {"dropout": 0.0}
    alone, two = make_project(tmp_path / "alone", model=still), make_project(tmp_path / "two", model=still, devices=2)
    process = start(two, tracking="on")
    monkeypatch.chdir(alone)
    assert CliRunner().invoke(app, ["bdh", "sample_plays", "0"]).exit_code == 0
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    assert errors.count("step 4/12") == errors.count("step 12/12") == 1
    assert written(two) == written(alone)
    ours, theirs = (load_file(f / "data/runs" / KEY / "model.safetensors") for f in (two, alone))
    for name, tensor in ours.items():
        np.testing.assert_allclose(tensor, theirs[name], rtol=2e-3, atol=2e-5)
    one, other = (json.loads((f / f"data/results/train/{KEY}.json").read_text()) for f in (two, alone))
    assert one["validation/nats_per_token"] == pytest.approx(other["validation/nats_per_token"], rel=1e-5)
    assert one["tokens_seen"] == other["tokens_seen"]
    timing = [json.loads((f / f"data/results/timing/{KEY}.json").read_text()) for f in (two, alone)]
    assert [part["devices"] for part in timing] == [2, 1]
    with sqlite3.connect(two / "m.db") as connection:
        assert connection.execute("SELECT status FROM runs").fetchall() == [("FINISHED",)]
        noted = dict(connection.execute("SELECT key, value FROM params WHERE key LIKE '%devices%'"))
    assert noted == {"devices": "2", "train.devices": "2"}


def test_parallel_stage_ends_cleanly_and_goes_on(tmp_path):
    folder = make_project(tmp_path, **LONG)
    last = 0
    for how in ("a rank is killed", "the stage is asked to stop", "the stage is killed"):
        process = start(folder)
        if last:
            seen = read_until(process, "going on from the checkpoint")
            assert f"checkpoint of step {last} of" in seen[-1]
        for _ in range(2):
            read_until(process, "tokens/s")
        workers, family = ranks(process), descendants(process)
        assert len(workers) == 2
        if how == "a rank is killed":
            workers[1].kill()
        else:
            process.send_signal(signal.SIGTERM if "asked" in how else signal.SIGKILL)
        errors = process.stderr.read()
        code = process.wait(60)
        all_gone(family)
        assert kept(folder)[-1] > last, how
        last = kept(folder)[-1]
        assert not (folder / f"data/checkpoints/{KEY}.owner.json").exists() or how == "a rank is killed"
        lines = [line for line in errors.splitlines() if line.startswith("error")]
        if how == "a rank is killed":
            assert code == 2
            assert len(lines) == 1, errors
            assert f"{KEY}: rank 1 of the training was ended by SIGKILL" in lines[0]
            assert f"the checkpoint of step {last} is kept" in lines[0]
            assert "Traceback" not in errors
        else:
            assert code == (143 if "asked" in how else -signal.SIGKILL)
            assert not lines
            assert "Traceback" not in errors


def test_parallel_error_of_all_ranks_is_one_line_under_a_users_torchrun(tmp_path):
    folder = make_project(tmp_path)
    (folder / "data/checkpoints").mkdir(parents=True)
    with FileLock(folder / f"data/checkpoints/{KEY}.lock"):
        process = start(folder, *TORCHRUN, "bdh", "sample_plays", "0")
        _, errors = process.communicate(timeout=200)
    assert process.returncode != 0
    assert errors.count("error: ") == 1, errors
    assert f"error: {KEY} is being trained by another process" in errors


def test_parallel_training_that_diverges_ends_well_on_all_ranks(tmp_path):
    folder = make_project(tmp_path, learning_rate=100.0, weight_decay=1e6, warmup_steps=0)
    process = start(folder, *TORCHRUN, "bdh", "sample_plays", "0")
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    assert errors.count("warning: bdh") == 1
    assert f"warning: {KEY}: diverged at step 2: the loss is nan" in errors
    assert json.loads((folder / f"data/results/train/{KEY}.json").read_text())["diverged"]["step"] == 2


def test_parallel_error_of_one_rank_names_it(tmp_path):
    script = tmp_path / "failing.py"
    script.write_text(FAILING)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[3])}
    done = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-1] == (
        "error: toy-toy-0: rank 1 of the training failed: ValueError: boom; there is no checkpoint yet"
    )
    assert 'raise ValueError("boom")' in done.stderr


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ({"devices": 3}, "train.batch_size: 4 streams cannot be split evenly over 3 devices"),
        ({"accumulate": 3}, "train.batch_size: 4 streams cannot be split evenly over 1 devices x 3"),
        ({"devices": 0}, "train.devices"),
        ({"devices": "both"}, "train.devices"),
    ],
    ids=["odd devices", "odd accumulate", "none", "word"],
)
def test_parallel_bad_settings_are_one_line_before_anything_starts(tmp_path, monkeypatch, train, message):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("stages.train.launch", lambda *args: pytest.fail("started processes"))
    monkeypatch.chdir(make_project(tmp_path, **train))
    result = CliRunner().invoke(app, ["bdh", "sample_plays", "0"])
    assert result.exit_code == 2
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
