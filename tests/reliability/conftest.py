"""What the files of this folder share: a project that nobody disturbed, and copies of it."""

import shutil
import time
from itertools import count

import pytest

from tests.reliability.disturbed import STAGES, results, small, stage_below, wait
from tests.support.project import Project


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory):
    """A finished project, its results, and how long each stage took: its process alone, the whole command."""
    project = small(tmp_path_factory.mktemp("undisturbed"))
    seconds = {}
    for stage, name in STAGES.items():
        began = time.monotonic()
        running = project.start("dvc", "repro", "--single-item", name)
        wait(lambda running=running: stage_below(running.pid) or running.poll() is not None)
        there = time.monotonic()
        said = running.communicate()[0]
        assert running.returncode == 0, said
        seconds[stage] = (time.monotonic() - there, time.monotonic() - began)
    assert project.stages_run(project.repro().stdout) == set()
    return project, results(project), seconds


@pytest.fixture
def copy_of_undisturbed(undisturbed, tmp_path):
    """A function that copies the finished project into a new folder, or into one that is given."""
    project, numbers = undisturbed[0], count()

    def copy(folder=None):
        folder = folder or tmp_path / f"copy{next(numbers)}"
        shutil.copytree(project.folder, folder, symlinks=True, dirs_exist_ok=True)
        return Project.there(folder)

    return copy
