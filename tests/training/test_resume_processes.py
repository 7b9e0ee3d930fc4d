"""Signals and the watch over the dvc process, with real processes: a stage stops when it should and only then."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from bdh.project.processes import Stop, Stopped, lives, starters, stoppable

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
STAGE = """
import os, sys, time
from pathlib import Path
from bdh.project.processes import stoppable
folder = Path(sys.argv[1])
try:
    with stoppable(poll_s=0.1) as stop, stop.deferred():
        (folder / "pid.new").write_text(str(os.getpid()))
        (folder / "pid.new").rename(folder / "pid")
        end = time.monotonic() + 60
        while stop.requested is None and time.monotonic() < end:
            time.sleep(0.01)
        (folder / "checkpoint").write_text(str(stop.requested))
except SystemExit as error:
    (folder / "exit").write_text(str(error.code))
    raise
"""
DVC = """
import os, signal, subprocess, sys
shell = sys.argv[1:]
process = subprocess.Popen(shell, env={**os.environ, "DVC_STAGE": "train@toy"})
signal.signal(signal.SIGINT, signal.SIG_IGN)
process.communicate()
"""


@pytest.fixture
def chain(tmp_path):
    """Start shell -> dvc -> shell -> stage; returns (outermost process, function that finds pids by role)."""
    started = []
    (tmp_path / "stage.py").write_text(STAGE)
    (tmp_path / "dvc.py").write_text(DVC)

    def start(*command, **options):
        environment = {k: v for k, v in os.environ.items() if k != "DVC_STAGE"} | {"PYTHONPATH": str(ROOT)}
        process = subprocess.Popen(command, env=environment, cwd=tmp_path, stderr=subprocess.DEVNULL, **options)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
    if (tmp_path / "pid").exists() and psutil.pid_exists(stage_pid(tmp_path)):
        os.kill(stage_pid(tmp_path), signal.SIGKILL)


def stage_pid(folder):
    """Wait for the stage and return its pid."""
    wait_for(lambda: (folder / "pid").exists())
    return int((folder / "pid").read_text())


def wait_for(condition, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "nothing happened in time"
        time.sleep(0.02)


def ended(folder):
    """True when the stage wrote its checkpoint and left with SIGTERM's exit code."""
    return (folder / "exit").exists() and (folder / "exit").read_text() == "143"


def still_runs(folder, seconds=1.0):
    """True when the stage lives on over ten polls of its watch."""
    time.sleep(seconds)
    return lives(psutil.Process(stage_pid(folder))) and not (folder / "checkpoint").exists()


STAYING = "{python} stage.py . ; true"
REPLACED = "exec {python} stage.py ."


@pytest.mark.parametrize("shell", [STAYING, REPLACED], ids=["shell-stays", "shell-execs"])
@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM], ids=["SIGKILL", "SIGTERM"])
def test_watch_stops_the_stage_when_dvc_dies(chain, tmp_path, shell, signum):
    dvc = chain(sys.executable, "dvc.py", "sh", "-c", shell.format(python=sys.executable))
    stage_pid(tmp_path)
    dvc.send_signal(signum)
    dvc.wait()
    wait_for(lambda: ended(tmp_path))
    assert (tmp_path / "checkpoint").read_text() == str(int(signal.SIGTERM))


def test_watch_stops_the_stage_while_dvc_is_a_zombie(chain, tmp_path):
    dvc = chain(sys.executable, "dvc.py", "sh", "-c", STAYING.format(python=sys.executable))
    stage_pid(tmp_path)
    dvc.kill()
    wait_for(lambda: ended(tmp_path))


def test_watch_stops_the_stage_when_the_shell_between_dies(chain, tmp_path):
    chain(sys.executable, "dvc.py", "sh", "-c", STAYING.format(python=sys.executable))
    shell = psutil.Process(stage_pid(tmp_path)).parent()
    assert shell.name() in ("sh", "dash", "bash")
    shell.kill()
    wait_for(lambda: ended(tmp_path))


def test_watch_ignores_what_started_dvc(chain, tmp_path):
    inner = f"{sys.executable} dvc.py sh -c '{STAYING.format(python=sys.executable)}'"
    terminal = chain("sh", "-c", f"nohup setsid {inner} & wait")
    stage_pid(tmp_path)
    terminal.kill()
    terminal.wait()
    assert still_runs(tmp_path)


@pytest.mark.parametrize(
    "command",
    [
        "nohup {python} stage.py . & wait",
        "setsid {python} stage.py . & wait",
        "{python} stage.py . & wait",
        "export DVC_STAGE=train@toy; {python} stage.py . & wait",
    ],
    ids=["nohup", "setsid", "background", "variable-exported-by-hand"],
)
def test_watch_ignores_a_shell_that_started_the_stage_by_hand(chain, tmp_path, command):
    terminal = chain("sh", "-c", command.format(python=sys.executable))
    stage_pid(tmp_path)
    terminal.kill()
    terminal.wait()
    assert still_runs(tmp_path)


@pytest.mark.parametrize(
    ("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)], ids=lambda v: str(v)
)
def test_signal_ends_the_stage_with_its_code(chain, tmp_path, signum, code):
    process = chain(sys.executable, "stage.py", ".")
    stage_pid(tmp_path)
    process.send_signal(signum)
    assert process.wait(timeout=20) == code
    assert (tmp_path / "checkpoint").read_text() == str(int(signum))


def test_signal_that_nohup_ignores_stays_ignored(chain, tmp_path):
    process = chain("nohup", sys.executable, "stage.py", ".")
    stage_pid(tmp_path)
    process.send_signal(signal.SIGHUP)
    assert still_runs(tmp_path)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == 143


def test_starters_without_dvc_are_none(monkeypatch):
    monkeypatch.delenv("DVC_STAGE", raising=False)
    assert starters() == []


def test_stop_raises_at_once_outside_a_deferral():
    def wait():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1)

    with stoppable() as stop, pytest.raises(Stopped) as caught:
        wait()
    assert caught.value.code == 143
    assert stop.requested == signal.SIGTERM


def test_stop_is_deferred_to_the_end_of_the_block_and_later_signals_change_nothing():
    reached, called = [], []
    stop = Stop()
    stop.when_requested(lambda: called.append(1))

    def block():
        with stop.deferred():
            stop.request(signal.SIGINT)
            stop.request(signal.SIGTERM)
            reached.append(1)

    with pytest.raises(Stopped) as caught:
        block()
    assert (reached, called, caught.value.code) == ([1], [1], 130)
    stop.request(signal.SIGTERM)


def test_stoppable_puts_the_handlers_back():
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with stoppable():
        assert signal.getsignal(signal.SIGTERM) != before[0]
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
