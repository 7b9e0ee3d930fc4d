"""A small project that is disturbed, beside one that nobody disturbed."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from bdh.project.lockfile import lock_damage
from tests.support.project import Project

VARIANT, CORPUS = "bdh", "sample_plays"
KEY, SHAPE = f"{VARIANT}-{CORPUS}-0", f"{VARIANT}-{CORPUS}"
STAGES = {
    "code": "code",
    "fetch": f"fetch@{CORPUS}",
    "tokenize": f"tokenize@{CORPUS}",
    "floors": f"floors@{CORPUS}",
    "train": f"train@{KEY}",
    "hebbian": f"hebbian@{KEY}",
    "twins": f"twins@{SHAPE}",
    "frontier": f"frontier@{KEY}",
    "compare": "compare",
}
"""Every stage in the order of the pipeline, and its name for DVC."""
MEASURED = {"timing", "run", "logs", "checkpoints"}
"""Folders of times, of run ids and of what is left aside: they differ between any two runs."""
LEFT_OVER = ("*.partial", "*.new", "*.tmp")
QUIET_S = 90.0


def small(folder: Path) -> Project:
    """A project of one variant on one corpus whose stages take a second each beside their imports."""
    project = Project(folder)
    project.make_small([VARIANT], [CORPUS])
    project.set(**{"frontier.twins": 2})
    return project


def results(project: Project) -> dict[str, str]:
    """sha256 of every result under data/ and reports/ by its path; times, run ids and checkpoints are none."""
    found = {}
    for top in ("data", "reports"):
        for path in sorted((project.folder / top).rglob("*")):
            inside = path.relative_to(project.folder)
            if path.is_file() and not MEASURED & set(inside.parts) and path.name not in ("README.md", ".gitignore"):
                found[str(inside)] = _digest(path)
    return found


def _digest(path: Path) -> str:
    """Of the page and the provenance, which say when they were made, that they are there; of tables no times."""
    if path.name in ("index.html", "provenance.json"):
        return "made"
    if path.parent.name == "metrics":
        numbers = {name: value for name, value in json.loads(path.read_text()).items() if name != "tokens_per_s"}
        return hashlib.sha256(json.dumps(numbers).encode()).hexdigest()
    if path.name == "results.csv":
        with path.open(encoding="utf-8", newline="") as file:
            rows = [
                {name: value for name, value in row.items() if "timing/" not in name} for row in csv.DictReader(file)
            ]
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()
    return hashlib.sha256(path.read_bytes()).hexdigest()


def differing(project: Project, reference: dict[str, str]) -> list[str]:
    """Results of a project that are not those of the undisturbed one."""
    return [path for path, digest in results(project).items() if reference.get(path) != digest]


def processes(project: Project) -> list[psutil.Process]:
    """Every living process that works in the project's folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and Path(process.cwd()).is_relative_to(project.folder):
                found.append(process)
        except psutil.Error:
            continue
    return found


def stage_below(pid: int) -> psutil.Process | None:
    """The stage that a command is running."""
    try:
        below = psutil.Process(pid).children(recursive=True)
    except psutil.Error:
        return None
    for process in below:
        try:
            if any(word.startswith("stages.") for word in process.cmdline()) and "sh" not in process.name():
                return process
        except psutil.Error:
            continue
    return None


def stage_name(process: psutil.Process) -> str:
    """`train` of a process that runs `python -m stages.train ...`."""
    return next(word.removeprefix("stages.") for word in process.cmdline() if word.startswith("stages."))


def wait(condition: Callable[[], object], seconds: float = QUIET_S) -> bool:
    """Whether `condition()` came true in time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def check_quiet(project: Project) -> None:
    """No orphan, and no MLflow run that is said to be running."""
    assert wait(lambda: not processes(project)), [process.cmdline() for process in processes(project)]
    if (project.folder / "mlflow.db").exists():
        assert "RUNNING" not in project.mlflow_runs()


def check_clean(project: Project) -> None:
    """What every project must be after its faults: done, audited, no orphan, no lock and no half-made file."""
    assert project.stages_run(project.run("bdh", "repro").stdout) == set()
    audited = project.run("bdh", "audit", check=False)
    assert audited.returncode == 0, audited.stdout + audited.stderr
    check_quiet(project)
    here = [project.folder.glob, (project.folder / "data").rglob, (project.folder / "reports").rglob]
    left = [path for look in here for pattern in LEFT_OVER for path in look(pattern)]
    assert not left
    rwlock = project.folder / ".dvc/tmp/rwlock"
    holders = json.loads(rwlock.read_text() or "{}") if rwlock.exists() else {}
    assert not any(holders.values()), holders


def mend_lock(project: Project) -> None:
    """Where dvc was killed while it wrote dvc.lock, do what the project then says: remove it."""
    lock = project.folder / "dvc.lock"
    if lock_damage(lock) is not None:
        told = project.run("bdh", "repro", check=False)
        assert told.returncode == 2
        assert "rm dvc.lock" in told.stderr
        lock.unlink()


def end(process: object, number: int, group: bool) -> None:
    """Send a signal, as a terminal does (to the group) or as `kill` does."""
    try:
        if group:
            os.killpg(process.pid, number)
        else:
            os.kill(process.pid, number)
    except ProcessLookupError:
        return


SIGNALS = {"SIGKILL": signal.SIGKILL, "SIGTERM": signal.SIGTERM, "Ctrl-C": signal.SIGINT}
