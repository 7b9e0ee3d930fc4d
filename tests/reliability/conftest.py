"""What the files of this folder share: a project that nobody disturbed, and copies of it."""

import shutil
import signal
import time
from itertools import count

import pytest

from bdh.project.processes import lives
from tests.reliability.disturbed import results, small, stage_below, stage_name, wait
from tests.support.project import Project

signal.signal(signal.SIGINT, signal.default_int_handler)
"""Ignored where the tests run in the background of a shell; what they start would ignore Ctrl-C too."""


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory):
    """A finished project, its results, and how many seconds each stage took; `fresh` beside it is where it began."""
    project = small(tmp_path_factory.mktemp("undisturbed"))
    shutil.copytree(project.folder, project.folder.parent / "fresh", symlinks=True)
    running, seconds = project.start("dvc", "repro"), {}
    while running.poll() is None:
        if (stage := stage_below(running.pid)) is not None:
            name, began = stage_name(stage), time.monotonic()
            wait(lambda stage=stage: not lives(stage), seconds=600)
            seconds[name] = time.monotonic() - began
        time.sleep(0.02)
    assert running.returncode == 0, running.stdout.read()
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
