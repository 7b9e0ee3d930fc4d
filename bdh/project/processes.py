"""How a stage ends when someone wants it to: signals, and the death of the `dvc` process that started it.

DVC starts a stage through a shell, in the order dvc -> shell -> stage. When dvc alone is killed, the stage would train
on as an orphan. The watch therefore looks at the processes between the stage and the dvc that started it, and at
nothing above: a terminal that closes behind `nohup dvc repro &`, or the shell that started a stage by hand, is not our
business. (The kernel's parent-death signal would not do: it fires when the *thread* that started us ends, and a shell
may stand between.)
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

import psutil

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
STAGE_VARIABLE = "DVC_STAGE"
POLL_S = 1.0


class Stopped(SystemExit):
    """A signal asked this program to stop; leaves with 128 + the signal's number (143 SIGTERM, 130 Ctrl-C)."""

    def __init__(self, signum: int) -> None:
        super().__init__(128 + signum)
        self.signum = signum


class Stop:
    """Whether someone asked this program to stop, and what happens then."""

    def __init__(self) -> None:
        self.requested: int | None = None
        self._deferrals = 0
        self._callbacks: list[Callable[[], None]] = []

    def request(self, signum: int, frame: FrameType | None = None) -> None:
        """Note the signal and raise Stopped, at once unless deferred. Later signals change nothing."""
        if self.requested is not None:
            return
        self.requested = signum
        for callback in self._callbacks:
            callback()
        if self._deferrals == 0:
            raise Stopped(signum)
        _write_line(f"{signal.Signals(signum).name}: stopping after this step; the next run goes on from there")

    def when_requested(self, callback: Callable[[], None]) -> None:
        """Call `callback` from the signal handler; it must be short and must not raise."""
        self._callbacks.append(callback)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Inside the block a signal is only noted in `requested`; Stopped is raised when the block has ended."""
        self._deferrals += 1
        try:
            yield
        finally:
            self._deferrals -= 1
        if self._deferrals == 0:
            self.leave()

    def leave(self) -> None:
        """Raise Stopped if someone asked for it."""
        if self.requested is not None:
            raise Stopped(self.requested)


@contextmanager
def stoppable(poll_s: float = POLL_S) -> Iterator[Stop]:
    """Turn SIGTERM, SIGINT, SIGHUP and the death of the dvc that started us into Stopped inside the block.

    A signal that was ignored when we started (`nohup`, a shell's background job) stays ignored. Handlers can be set
    in the main thread only; in any other the block runs without them.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    kept = {}
    for signum in SIGNALS:
        if signal.getsignal(signum) is not signal.SIG_IGN:
            kept[signum] = signal.signal(signum, stop.request)
    over = threading.Event()
    chain = starters()
    if chain:
        threading.Thread(target=_watch, args=(chain, poll_s, over), name="parent watch", daemon=True).start()
    try:
        yield stop
    finally:
        over.set()
        for signum, handler in kept.items():
            signal.signal(signum, handler)


def as_child(parent: int, poll_s: float = POLL_S) -> None:
    """In a forked process: end at a signal, as its parent would not, and with the parent (its number)."""
    for signum in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which ends its children

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(poll_s)
        os._exit(1)

    threading.Thread(target=watch, name="parent watch", daemon=True).start()


def starters() -> list[psutil.Process]:
    """The processes between this one and the dvc that started it, dvc last; empty when no dvc did.

    DVC names the stage in the environment of what it starts, so dvc is the nearest ancestor that was itself started
    without that variable (or with another stage's).
    """
    stage = os.environ.get(STAGE_VARIABLE)
    if stage is None:
        return []
    chain: list[psutil.Process] = []
    try:
        for ancestor in psutil.Process().parents():
            chain.append(ancestor)
            if ancestor.environ().get(STAGE_VARIABLE) != stage:
                return chain if _is_dvc(ancestor) else []
    except psutil.Error:
        return []
    return []


def _is_dvc(process: psutil.Process) -> bool:
    """False for a shell in which someone exported the variable by hand."""
    return process.name().lstrip("-") not in {"sh", "bash", "dash", "zsh", "fish", "ksh"}


def lives(process: psutil.Process) -> bool:
    """True while this very process (not a later one with the same number) runs; a zombie does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _watch(chain: list[psutil.Process], poll_s: float, over: threading.Event) -> None:
    while not over.wait(poll_s):
        if not all(lives(process) for process in chain):
            _write_line("the dvc process that started this stage is gone")
            os.kill(os.getpid(), signal.SIGTERM)
            return


def _write_line(text: str) -> None:
    """A line on stderr, written past Python's buffers because it may come from a signal handler."""
    with suppress(OSError, ValueError):
        os.write(sys.stderr.fileno(), f"{text}\n".encode())
