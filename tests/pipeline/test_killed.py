"""A pipeline that is killed: nothing is left running, the run is closed, and the next one goes on."""

import signal

import pytest

from tests.support.project import Project

pytestmark = [pytest.mark.pipeline, pytest.mark.slow, pytest.mark.timeout(1500)]
KEY = "bdh-sample_plays-0"
LONG = {"steps": 100_000, "validate_every": 20, "checkpoint_every": 50_000, "patience": 1.0}
GOING_ON = "going on from the checkpoint"


def kill(project, process, how):
    if how == "Ctrl-C":
        project.kill_group(process, signal.SIGINT)
    else:
        process.send_signal(signal.SIGKILL if how == "SIGKILL to dvc" else signal.SIGTERM)
    said = process.stdout.read()
    process.wait(timeout=60)
    project.wait_until_quiet()
    return said


def test_pipeline_killed_repro_leaves_no_orphan_and_resumes(tmp_path):
    """One training killed in every way in turn; its only checkpoints are those that the kills make it write."""
    project = Project(tmp_path / "killed")
    project.make_small(["bdh"], ["sample_plays"])
    project.set(**{"scales.laptop.train": project.read_params()["scales"]["laptop"]["train"] | LONG})
    last = None
    for how in ("SIGKILL to dvc", "SIGTERM to dvc", "Ctrl-C"):
        running = project.start("dvc", "repro")
        if last is not None:
            assert f"{GOING_ON} of step {last} of 100000" in project.read_until(running, GOING_ON), how
        for _ in range(2):
            assert "tokens/s" in project.read_until(running, "tokens/s"), how
        said = kill(project, running, how)
        steps = [int(path.name) for path in (project.folder / "data/checkpoints" / KEY).glob("*/[0-9]*")]
        assert steps, (how, said)
        assert last is None or max(steps) > last, (how, said)
        last = max(steps)
        project.wait_until(lambda: "RUNNING" not in project.mlflow_runs())
        assert project.mlflow_runs() == ["KILLED"], how
        assert not (project.folder / f"data/checkpoints/{KEY}.owner.json").exists(), how
    running = project.start("dvc", "repro")
    assert f"{GOING_ON} of step {last} of 100000" in project.read_until(running, GOING_ON)
    kill(project, running, "Ctrl-C")
