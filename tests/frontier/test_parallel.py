"""Processes side by side: they end, whatever the stage's own handlers say, and a dead one is one line."""

import os
import signal
import subprocess
import sys
import time
from functools import partial

import psutil
import pytest

from bdh.frontier.parallel import each
from bdh.project.errors import HatcheryError
from bdh.project.processes import Stopped, stoppable

linux = pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux alone")


@linux
def test_processes_end_while_signals_are_deferred():
    """A pool that ends its processes by SIGTERM waited for ever: they had the handlers of the stage, which defer it."""
    with stoppable() as stop, stop.deferred():
        for _ in range(5):
            assert each([partial(pow, 2, power) for power in range(5)], 2) == [1, 2, 4, 8, 16]
            handlers = each([partial(signal.getsignal, signal.SIGTERM)] * 2, 2)
            assert handlers == [signal.SIG_DFL] * 2
    assert not psutil.Process().children()


@linux
def test_process_that_is_killed_is_one_line():
    """A process that the system ended for memory left the stage waiting for its answer."""
    with pytest.raises(HatcheryError, match=r"ended from outside .*frontier\.jobs: 1"):
        each([partial(os.kill, 0, 0), lambda: os.kill(os.getpid(), signal.SIGKILL)], 2)


@linux
def test_processes_end_at_once_when_the_stage_is_stopped():
    """They ran their work to its end, minutes after Ctrl-C (here longer than a test may take)."""
    with pytest.raises(Stopped), stoppable():
        each([partial(time.sleep, 900), lambda: os.kill(os.getppid(), signal.SIGTERM), partial(time.sleep, 900)], 2)
    assert not psutil.Process().children()


ORPHANS = """
import os, time
from functools import partial
from bdh.frontier.parallel import each
each([partial(time.sleep, 60), lambda: (print(os.getpid(), flush=True), time.sleep(60))], 2)
"""


@linux
def test_processes_end_with_a_killed_parent():
    """They went on as orphans."""
    with subprocess.Popen([sys.executable, "-c", ORPHANS], stdout=subprocess.PIPE, text=True) as parent:
        child = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    child.wait(20)
