"""Jobs of submitit: clones with the edits of the head, a clean stop, preemption, and a real Slurm if there is one."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from bdh.commands import executors
from bdh.commands.executors import Chain, ExecutorError, Submitter, clone_of, remove_clone
from tests.support.tracked_project import TrackedProject

submitit = pytest.importorskip("submitit", reason="submitit is not installed (pip install 'hatchery[cluster]')")
BDH = [sys.executable, "-m", "bdh"]
STAGE = """
import signal, sys, time
from pathlib import Path

def stop(*_):
    Path("checkpoint").touch()
    sys.exit(143)

signal.signal(signal.SIGTERM, stop)
if not Path("checkpoint").exists():
    Path("started").touch()
    time.sleep(600)
"""


def git(folder, *words):
    names = {f"GIT_{who}_{what}": "t@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    subprocess.run(["git", *words], cwd=folder, check=True, capture_output=True, env=os.environ | names)


@pytest.fixture
def inner(tmp_path, monkeypatch):
    """A project that is a folder of a larger repository."""
    folder = tmp_path / "large/inner"
    (folder / ".dvc").mkdir(parents=True)
    (folder / ".dvc/config").write_text("")
    for name in ("kept", "edited", "deleted"):
        (folder / name).write_text(name)
    git(folder.parent, "init", "-q")
    git(folder.parent, "add", "-A")
    git(folder.parent, "commit", "-qm", "start")
    (folder / "edited").write_text("anew")
    (folder / "deleted").unlink()
    (folder / "added").mkdir()
    (folder / "added/new file").write_text("new")
    monkeypatch.chdir(folder)
    return folder


def contents(folder):
    files = [path for path in folder.rglob("*") if path.is_file() and ".dvc" not in path.parts]
    return {str(path.relative_to(folder)): path.read_text() for path in files}


def test_clone_has_the_edits_that_are_here_and_keeps_its_checkpoints(inner):
    """A job that ran the commit, not the edited settings, would be cached under other settings."""
    clone = clone_of("a", inner / "cache")
    expected = {"kept": "kept", "edited": "anew", "added/new file": "new"}
    assert contents(clone) == expected
    assert f"dir = {inner / 'cache'}" in (clone / ".dvc/config.local").read_text()
    (clone / "checkpoint").write_text("step 3")
    (inner / "edited").write_text("once more")
    assert clone_of("a", inner / "cache") == clone
    assert contents(clone) == expected | {"edited": "once more", "checkpoint": "step 3"}
    remove_clone(clone)
    assert not clone.exists()


def test_clone_without_a_commit_is_refused_in_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    with pytest.raises(ExecutorError, match="needs a repository with a commit"):
        clone_of("a", tmp_path)


def stage_in(folder):
    """A chain whose stage writes a checkpoint when it is asked to stop, and ends at once where it finds one."""
    (folder / "clone/stages").mkdir(parents=True)
    (folder / "clone/stages/slow.py").write_text(STAGE)
    return Chain((sys.executable, "-m", "stages.slow"), folder / "clone", folder / "log", {"PYTHONPATH": "."})


def test_chain_stops_at_a_checkpoint_when_the_file_appears(tmp_path):
    chain = stage_in(tmp_path)

    def ask():
        while not (tmp_path / "clone/started").exists():
            time.sleep(0.05)
        chain.stop.touch()

    threading.Thread(target=ask).start()
    assert chain() == 143
    assert (tmp_path / "clone/checkpoint").exists()


@pytest.fixture
def submitter(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(executors, "_cache", lambda: tmp_path / "cache")
    return lambda cluster: Submitter(1, 1, cluster)


def test_preempted_job_writes_a_checkpoint_and_goes_on(tmp_path, submitter):
    """SIGUSR2 is what Slurm sends before a job's time ends: the stage must hear of it, and the job start again."""

    def preempt(job):
        for task in psutil.Process(int(job.job_id)).children():
            task.send_signal(signal.SIGUSR2)

    goes_on_after_preemption(submitter("local"), tmp_path, preempt)


def goes_on_after_preemption(submitter, folder, preempt):
    chain = stage_in(folder)
    job = submitter.executor.submit(chain)
    end = time.monotonic() + 120
    while not (folder / "clone/started").exists() and time.monotonic() < end:
        time.sleep(0.1)
    preempt(job)
    assert job.result() == 0
    assert (folder / "clone/checkpoint").exists()


def test_submitter_says_what_is_wrong_in_one_line(tmp_path, submitter):
    with pytest.raises(ExecutorError, match="write NAME=VALUE"):
        Submitter(1, 1, "local", ["partition"])
    with pytest.raises(ExecutorError, match=r"submitit: .*pbs"):
        submitter("pbs")
    with pytest.raises(ExecutorError, match="--slurm belong to"):
        executors.starter("local", 1, 1, None, ["partition=gpu"])


def reports_of(project):
    """What a comparison consists of, without run ids and times."""
    folder = project.folder / "reports"
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    kept = [path for path in files if not {"run", "timing"} & set(path.relative_to(folder).parts)]
    return {str(path.relative_to(folder)): path.read_bytes() for path in kept}


def toy(folder):
    project = TrackedProject(folder, variants=("bdh", "transformer"), BDH_TRACKING="off")
    project.write_params(project.read_params() | {"seeds": [0, 1]})
    return project


@pytest.fixture(scope="module")
def sequential(tmp_path_factory):
    project = toy(tmp_path_factory.mktemp("sequential") / "project")
    project.run("bdh", "repro")
    return reports_of(project)


def runs_as_jobs(project, sequential, *words):
    """No cell twice, the same bytes as one after the other, nothing left behind."""
    done = project.run("bdh", "repro", "--executor", "submitit", *words)
    assert reports_of(project) == sequential
    ran = [line for log in (project.folder / "data/logs").glob("*.log") for line in log.read_text().splitlines()]
    stages = [line for line in ran if line.startswith("> python -m stages.")]
    assert sorted(stages) == sorted(set(stages))
    assert len(stages) == 1 + 2 + 3 * 4, "floors, twins of two shapes, three stages of four runs"
    assert list((project.folder / "data/clones").iterdir()) == []
    assert "stages.train" not in done.stdout, "the head found everything in the run cache"


@pytest.mark.long
def test_jobs_of_this_machine_give_what_a_sequential_run_gives(tmp_path, sequential):
    runs_as_jobs(toy(tmp_path / "project"), sequential, "--cluster", "local", "--jobs", "3")


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """Debian's Slurm on this machine alone, with one node."""
    if os.getuid() != 0 or not all(map(shutil.which, ("slurmctld", "slurmd", "munged", "sbatch"))):
        pytest.skip("needs root and Debian's slurmctld, slurmd, slurm-client and munge")
    folder = tmp_path_factory.mktemp("slurm")
    host = os.uname().nodename.split(".")[0]
    (folder / "slurm.conf").write_text(
        f"ClusterName=test\nSlurmctldHost={host}(127.0.0.1)\nSlurmUser=root\nAuthType=auth/munge\n"
        "ProctrackType=proctrack/linuxproc\nTaskPlugin=task/none\nMpiDefault=none\nReturnToService=2\n"
        f"StateSaveLocation={folder}/state\nSlurmdSpoolDir={folder}/spool\n"
        f"SlurmctldPidFile={folder}/ctld.pid\nSlurmdPidFile={folder}/d.pid\n"
        f"SlurmctldLogFile={folder}/ctld.log\nSlurmdLogFile={folder}/d.log\n"
        "SlurmctldPort=16817\nSlurmdPort=16818\nSelectType=select/cons_tres\nSelectTypeParameters=CR_CPU\n"
        "AccountingStorageType=accounting_storage/none\nJobAcctGatherType=jobacct_gather/none\n"
        f"NodeName={host} NodeAddr=127.0.0.1 CPUs={os.cpu_count()} State=UNKNOWN\n"
        f"PartitionName=test Nodes={host} Default=YES MaxTime=INFINITE State=UP\n"
    )
    (folder / "state").mkdir()
    (folder / "spool").mkdir()
    key = Path("/etc/munge/munge.key")
    if not key.exists():
        key.write_bytes(os.urandom(1024))
        shutil.chown(key, "munge")
        key.chmod(0o400)
    Path("/run/munge").mkdir(exist_ok=True)
    shutil.chown("/run/munge", "munge")
    subprocess.run(["su", "-s", "/bin/sh", "munge", "-c", "/usr/sbin/munged"], check=False, capture_output=True)
    before = os.environ.get("SLURM_CONF")
    os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
    for program in ("slurmctld", "slurmd"):
        subprocess.run([program, "-f", str(folder / "slurm.conf")], check=True)
    end = time.monotonic() + 60
    while b"idle" not in subprocess.run(["sinfo", "-h", "-o", "%t"], capture_output=True, check=False).stdout:
        if time.monotonic() > end:
            pytest.skip(f"Slurm does not start here: {(folder / 'ctld.log').read_text()[-300:]}")
        time.sleep(0.5)
    yield folder
    for name in ("d.pid", "ctld.pid"):
        os.kill(int((folder / name).read_text()), signal.SIGTERM)
    os.environ.pop("SLURM_CONF") if before is None else os.environ.update(SLURM_CONF=before)


@pytest.mark.long
def test_slurm_gives_what_a_sequential_run_gives(tmp_path, sequential, slurm):
    project = toy(tmp_path / "project")
    project.environment["SLURM_CONF"] = os.environ["SLURM_CONF"]
    runs_as_jobs(project, sequential, "--cluster", "slurm", "--slurm", "gpus_per_node=0", "--jobs", "3")
    scripts = list((project.folder / "data/logs/jobs").glob("*_submission.sh"))
    assert any("--array" in script.read_text() for script in scripts)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_slurm_queues_a_preempted_job_again(tmp_path, submitter, slurm):
    goes_on_after_preemption(submitter("slurm"), tmp_path, lambda job: job._interrupt())
