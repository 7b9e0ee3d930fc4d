"""Files of a finished project that were changed behind its back: noticed before they are believed, and made again.

What the readers of single files say: tests/inputs/places.py (our own files), tests/training/test_checkpoints.py.
"""

import json
import os
import subprocess
import sys

import pytest

from bdh.project.lockfile import release_dead_locks
from tests.reliability.disturbed import results
from tests.reliability.faults import record
from tests.support.tracked_project import UNWANTED, finished_project

pytestmark = pytest.mark.slow
KEY = "bdh-sample_plays-0"
FAULT = "damaged file of the project"
PLACES = ("data/results", "data/raw", "data/tokens", "data/runs", "data/hebbian", "data/twins", "reports")
"""Folders of results; what is under reports/ is made of the others."""


@pytest.fixture
def copy(tmp_path_factory, tmp_path, monkeypatch):
    project = finished_project(tmp_path_factory).copy_to(tmp_path / "copy")
    for name in UNWANTED:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("BDH_TRACKING", "off")
    project.environment["BDH_TRACKING"] = "off"
    return project


def files_under(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size > 1)


def flip(path):
    """Change one bit and no size."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)


def test_every_result_that_was_changed_is_made_again(copy):
    """One bit of one file in every folder of results; tracked pointers belong to `bdh audit`."""
    before, damaged = results(copy), []
    for place in PLACES:
        found = [path for path in files_under(copy.folder / place) if str(path.relative_to(copy.folder)) in before]
        if found:
            flip(found[0])
            damaged.append(found[0])
    assert len(damaged) >= 6
    assert results(copy) != before
    copy.repro()
    assert results(copy) == before
    assert copy.repro() == set()
    record(FAULT, injected=len(damaged), recovered=len(damaged), identical=len(damaged))


@pytest.mark.parametrize("text", ["", '{"read": {"a": [{"pid"'], ids=["empty", "half"])
def test_list_of_dvc_locks_that_was_cut_is_forgotten(tmp_path, text):
    """DVC rewrites it in place: after a kill there, every command ended with "JSON structure is corrupted"."""
    (tmp_path / "rwlock").write_text(text)
    release_dead_locks(tmp_path)
    assert not (tmp_path / "rwlock").exists()


def test_locks_of_dead_processes_are_released_and_those_of_a_living_dvc_kept(tmp_path):
    """The number of a killed dvc is another process's by now: whoever wrote its paths was told that they are busy."""
    (tmp_path / "dvc").write_text("import time; print(flush=True); time.sleep(60)")
    alive = subprocess.Popen([sys.executable, str(tmp_path / "dvc")], stdout=subprocess.PIPE)
    alive.stdout.readline()
    mine, dead, dvc = ({"pid": pid, "cmd": "dvc repro"} for pid in (os.getpid(), 2**30, alive.pid))
    held = {"read": {"a": [mine, dvc], "b": [dead]}, "write": {"c": dead, "d": dvc}}
    (tmp_path / "rwlock").write_text(json.dumps(held))
    release_dead_locks(tmp_path)
    alive.kill()
    alive.wait()
    assert json.loads((tmp_path / "rwlock").read_text()) == {"read": {"a": [dvc]}, "write": {"d": dvc}}


@pytest.mark.parametrize("keep", [0, 0.5], ids=["empty", "half"])
def test_lock_that_was_cut_names_the_way_back_and_the_way_leads_there(copy, keep):
    lock = copy.folder / "dvc.lock"
    before, whole = results(copy), lock.read_bytes()
    lock.write_bytes(whole[: int(len(whole) * keep)])
    for command in (("repro",), ("audit",), ("sync",)):
        told = copy.run("bdh", *command, check=False)
        if keep and told.returncode == 0:
            break  # what is left can be read, and DVC finds the rest in its run cache
        assert told.returncode == 2
        (line,) = told.stderr.strip().splitlines()
        assert "rm dvc.lock" in line
    else:
        lock.unlink()
    assert copy.repro() <= {"code", "compare"}, "nothing dear is computed again that the run cache has"
    assert results(copy) == before
    record(FAULT, recovered=1, identical=1)
