"""A pipeline that is killed: nothing is left running, and the next one goes on."""

import signal

import pytest

from tests.support.project import Project

pytestmark = [pytest.mark.pipeline, pytest.mark.slow, pytest.mark.timeout(1500)]


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
    project.wait_until(lambda: "RUNNING" not in project.mlflow_runs())
