"""A stage ends with the dvc that started it, from its first moment, and leaves nothing half made behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]
DVC = """
import os, subprocess, sys
child = subprocess.Popen([sys.executable, "-m", "stages.slow"], env=os.environ | {"DVC_STAGE": "slow"})
print(child.pid, flush=True)
child.wait()
"""
STAGE = """
import time
from pathlib import Path
from bdh.corpora.provenance import replacing_folder
with replacing_folder(Path("made")) as partial:
    (partial / "half").touch()
    Path("started").touch()
    while True:
        time.sleep(0.1)
"""


@pytest.fixture
def stage(tmp_path):
    """A stage that takes no part in `stoppable`, and the program in the place of dvc that started it."""
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages/__init__.py").write_text((ROOT / "stages/__init__.py").read_text())
    (tmp_path / "stages/slow.py").write_text(STAGE)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("DVC", "HATCHERY"))}
    environment["PYTHONPATH"] = f"{tmp_path}{os.pathsep}{ROOT}"
    dvc = subprocess.Popen([sys.executable, "-c", DVC], cwd=tmp_path, env=environment, stdout=subprocess.PIPE)
    child = psutil.Process(int(dvc.stdout.readline()))
    end = time.monotonic() + 60
    while not (tmp_path / "started").exists():
        assert child.is_running()
        assert time.monotonic() < end
        time.sleep(0.05)
    yield dvc, child
    for process in (dvc, child):
        if process.is_running() if process is child else process.poll() is None:
            process.kill()


def test_stage_without_a_watch_of_its_own_ends_when_dvc_is_killed(stage, tmp_path):
    """fetch, tokenize, floors, code and compare ran on as orphans."""
    dvc, child = stage
    dvc.kill()
    dvc.wait()
    psutil.wait_procs([child], timeout=30)
    assert not child.is_running()
    assert not [path.name for path in tmp_path.iterdir() if path.name in ("made", ".made.partial")]


def test_stage_that_is_asked_to_end_says_so_and_removes_what_is_half_made(stage, tmp_path):
    dvc, child = stage
    child.send_signal(signal.SIGTERM)
    dvc.wait(timeout=30)
    assert not child.is_running()
    assert not (tmp_path / ".made.partial").exists()
