"""Several pieces of a pipeline at a time on one machine: packed by memory and time, stopped and gone on with cleanly.

A piece (`Work`) is one `dvc repro --single-item` of some stages. Pieces start when what they rest on is done and a GPU
has room for them, the ones that finish chains first, else the longest first. One that fails stops nothing but what
rests on it; one that ran out of memory is tried again alone. A stop (a time limit, Ctrl-C, SIGTERM) asks the stages
themselves, so that a training writes its checkpoint; if this process is killed outright, the kernel tells its children.
"""

from __future__ import annotations

import ctypes
import functools
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import psutil

from bdh.commands.console import say
from bdh.project.processes import SIGNALS, Stopped

LOGS = Path("data/logs")
OUT_OF_MEMORY = ("OutOfMemoryError", "out of memory")
GRACE_S = 90.0
SHORTEST_S = 5.0
DEATH_SIGNAL = 1
JOBS = "HATCHERY_JOBS"
"""Environment variable that tells stages how many share the machine's cores (`bdh.frontier.parallel.SHARING`)."""


@dataclass(frozen=True)
class Work:
    """One piece: its name, its command, the pieces it rests on, and what it takes.

    gpus: a number or `all`. memory: MiB on each of them. seconds: about how long. urgent: it finishes what others have
    begun, or others rest on it.
    """

    name: str
    command: tuple[str, ...]
    after: frozenset[str] = frozenset()
    gpus: int | str = 1
    memory: float = 0.0
    seconds: float = 60.0
    urgent: bool = False


class Piece(Protocol):
    """A piece that was started: what the schedule asks of it."""

    @property
    def returncode(self) -> int | None:
        """The exit code; None before the end."""

    def wait(self) -> int:
        """Wait for its end; the exit code."""

    def ask_to_stop(self) -> None:
        """Ask its stages to stop, trainings after a checkpoint."""

    def see_off(self, end: float) -> None:
        """Wait until `end` (of the monotonic clock), then end it by force."""


Starter = Callable[[Sequence[tuple[Work, list[str]]]], list[Piece]]
"""Starts pieces that can start now, each with the GPUs that it may use."""


@dataclass
class Outcome:
    """Names of pieces that are done, what failed and why, and what was left when it was stopped (by which signal)."""

    done: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)
    stopped: bool = False
    signum: int | None = None


class Cards:
    """The GPUs of a machine: who uses which, and how much memory (MiB) is promised on each.

    memory: free memory of every GPU; without it no more than ceil(jobs / GPUs) pieces use one.
    """

    def __init__(self, memory: Mapping[str, float | None], jobs: int) -> None:
        self.memory = dict(memory)
        self.users = dict.fromkeys(memory, 0)
        self.promised = dict.fromkeys(memory, 0.0)
        self.room = -(-jobs // len(memory)) if memory else 0

    def take(self, wanted: int | str, memory: float = 0.0) -> list[str] | None:
        """`wanted` GPUs (`all`, or more than there are: every one) in the order of the machine, the emptiest chosen.

        None where they have no room now; an empty GPU has room for everything.
        """
        count = len(self.users) if wanted == "all" else min(int(wanted), len(self.users))
        free = [gpu for gpu in self.users if self._fits(gpu, memory)]
        if len(free) < count:
            return None
        chosen = sorted(free, key=lambda gpu: (self.users[gpu], self.promised[gpu]))[:count]
        for gpu in chosen:
            self.users[gpu] += 1
            self.promised[gpu] += memory
        return [gpu for gpu in self.users if gpu in chosen]

    def give(self, gpus: Sequence[str], memory: float = 0.0) -> None:
        """Hand GPUs back."""
        for gpu in gpus:
            self.users[gpu] -= 1
            self.promised[gpu] -= memory

    def _fits(self, gpu: str, memory: float) -> bool:
        whole = self.memory[gpu]
        if self.users[gpu] == 0:
            return True
        return self.users[gpu] < self.room if whole is None else self.promised[gpu] + memory <= whole


class Schedule:
    """Runs pieces until all are done, failed or stopped.

    `told` is called with every line of progress, `finished` with the name of every piece that is done. `start` starts
    pieces; by default as processes of this machine.
    """

    def __init__(
        self,
        works: Sequence[Work],
        jobs: int,
        cards: Cards,
        *,
        limit_s: float | None = None,
        told: Callable[[str], None] = say,
        finished: Callable[[str], None] = lambda name: None,
        start: Starter | None = None,
    ) -> None:
        self.waiting = sorted(works, key=lambda work: (not work.urgent, -work.seconds))
        self.count, self.jobs, self.cards, self.told, self.finished = len(works), jobs, cards, told, finished
        self.end = None if limit_s is None else time.monotonic() + limit_s
        self.start = start or functools.partial(start_here, jobs)
        self.running: dict[str, tuple[Work, Piece, list[str], float]] = {}
        self.outcome = Outcome()
        self._ended: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._again: dict[str, Work] = {}
        LOGS.mkdir(parents=True, exist_ok=True)

    def run(self) -> Outcome:
        """Everything, one call."""
        with terminable():
            try:
                while self.waiting or self.running:
                    self._start_what_fits()
                    if not self.running:
                        self._give_up_waiting()
                        continue
                    if not self._wait():
                        self._stop("the time is up")
                        break
            except Stopped as stopped:
                self.outcome.signum = stopped.signum
                self._stop("as asked")
        return self.outcome

    def _start_what_fits(self) -> None:
        chosen: list[tuple[Work, list[str]]] = []
        for work in list(self.waiting):
            if len(self.running) + len(chosen) >= self.jobs:
                break
            if not work.after <= set(self.outcome.done):
                continue
            alone = work.name in self._again
            if alone and (self.running or chosen):
                continue
            gpus = self.cards.take(work.gpus, work.memory)
            if gpus is not None:
                self.waiting.remove(work)
                chosen.append((work, gpus))
                if alone:
                    break
        for (work, gpus), piece in zip(chosen, self.start(chosen) if chosen else [], strict=True):
            self.running[work.name] = work, piece, gpus, time.monotonic()
            threading.Thread(target=self._watch, args=(work.name, piece), daemon=True).start()

    def _watch(self, name: str, piece: Piece) -> None:
        piece.wait()
        self._ended.put(name)

    def _wait(self) -> bool:
        """Wait for the end of one piece; False when the time is up before."""
        left = None if self.end is None else max(0.0, self.end - time.monotonic())
        try:
            name = self._ended.get(timeout=left)
        except queue.Empty:
            return False
        self._finish(name)
        return True

    def _finish(self, name: str) -> None:
        work, piece, gpus, began = self.running.pop(name)
        self.cards.give(gpus, work.memory)
        seconds = time.monotonic() - began
        if piece.returncode == 0:
            self.outcome.done.append(name)
            self.finished(name)
            self.told(f"{len(self.outcome.done)}/{self.count} {name} {seconds:.0f} s; {self._left()}")
            return
        text = (LOGS / f"{name}.log").read_text(encoding="utf-8", errors="replace")
        if any(word in text for word in OUT_OF_MEMORY) and name not in self._again and self.count > 1:
            self._again[name] = work
            self.waiting.append(work)
            self.told(f"{name} ran out of memory after {seconds:.0f} s; it is tried again alone")
            return
        lines = [line for line in text.splitlines() if line.strip()]
        reason = next(
            (line for line in reversed(lines) if line.startswith("error:")), lines[-1] if lines else "no word"
        )
        self.outcome.failed[name] = f"ended with {piece.returncode}: {reason.strip()}"
        self.told(f"failed: {name} {self.outcome.failed[name]}; {self._left()}")

    def _left(self) -> str:
        """How many pieces are left, and about how long they take."""
        now = time.monotonic()
        rest = [work.seconds for work in self.waiting]
        rest += [max(SHORTEST_S, work.seconds - (now - began)) for work, _, _, began in self.running.values()]
        if not rest:
            return "none left"
        seconds = max(max(rest), sum(rest) / min(self.jobs, len(rest)))
        shown = f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
        return f"{len(rest)} left, about {shown}"

    def _give_up_waiting(self) -> None:
        """Nothing runs and nothing could start: what waits rests on something that failed."""
        for work in self.waiting:
            lost = sorted(work.after - set(self.outcome.done))
            self.outcome.failed[work.name] = f"not run: it rests on {', '.join(lost)}"
        self.waiting.clear()

    def _stop(self, why: str) -> None:
        """Ask every running stage to stop, wait, then end what is still there; no second signal interrupts that."""
        self.outcome.stopped = True
        ignore_signals()
        if self.running:
            self.told(f"{why}: {len(self.running)} pieces are stopped, trainings after a checkpoint")
        for _, piece, _, _ in self.running.values():
            piece.ask_to_stop()
        end = time.monotonic() + GRACE_S
        for name, (_, piece, _, _) in list(self.running.items()):
            piece.see_off(end)
            if piece.returncode == 0:
                self.outcome.done.append(name)
        finished = {*self.outcome.done, *self.outcome.failed}
        names = [*self.running, *(work.name for work in self.waiting)]
        self.outcome.left = [name for name in names if name not in finished]


class Process:
    """A piece as a process of this machine."""

    def __init__(self, child: subprocess.Popen[bytes]) -> None:
        """Of a process that was started."""
        self.child = child

    @property
    def returncode(self) -> int | None:
        """Its exit code, None while it runs."""
        return self.child.returncode

    def wait(self) -> int:
        """Wait for its end."""
        return self.child.wait()

    def ask_to_stop(self) -> None:
        """Ask the stages below it."""
        ask_to_stop(self.child)

    def see_off(self, end: float) -> None:
        """Wait until `end`, then kill it with all below it."""
        see_off(self.child, end)


def start_here(jobs: int, works: Sequence[tuple[Work, list[str]]]) -> list[Piece]:
    """Start pieces as processes in this folder, `jobs` of which share the machine."""
    pieces: list[Piece] = []
    for work, gpus in works:
        environment = os.environ | {JOBS: str(jobs)} | ({"CUDA_VISIBLE_DEVICES": ",".join(gpus)} if gpus else {})
        with (LOGS / f"{work.name}.log").open("wb") as log:
            child = subprocess.Popen(
                work.command, stdout=log, stderr=log, env=environment, start_new_session=True, preexec_fn=die_with_us()
            )
        pieces.append(Process(child))
    return pieces


def stages_of(pid: int) -> list[psutil.Process]:
    """The stages below a process; the process itself where there is none."""
    found = []
    for process in _family(pid):
        with suppress(psutil.Error):
            if any(word.startswith("stages.") for word in process.cmdline()):
                found.append(process)
    if found:
        return found
    try:
        return [psutil.Process(pid)]
    except psutil.Error:
        return []


def _family(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.Error:
        return []


def die_with_us() -> Callable[[], None] | None:
    """Where the kernel can do it: a child gets SIGTERM when the thread that started it is gone."""
    if sys.platform != "linux":
        return None
    library, parent = ctypes.CDLL(None), os.getpid()

    def prepare() -> None:
        library.prctl(DEATH_SIGNAL, signal.SIGTERM)
        if os.getppid() != parent:  # it was killed before the kernel was told
            os._exit(128 + signal.SIGTERM)

    return prepare


def ask_to_stop(child: subprocess.Popen[bytes]) -> None:
    """Ask the stages below a process, or the process itself where there is none, to stop."""
    for process in stages_of(child.pid):
        with suppress(psutil.Error):
            process.terminate()


def see_off(child: subprocess.Popen[bytes], end: float) -> None:
    """Wait for a process until `end` (of the monotonic clock); then kill it with all below it."""
    try:
        child.wait(max(0.1, end - time.monotonic()))
    except subprocess.TimeoutExpired:
        for process in [*_family(child.pid), psutil.Process(child.pid)]:
            with suppress(psutil.Error):
                process.kill()
        child.wait()


def run_in_foreground(command: Sequence[str]) -> int:
    """Run a command to its end and return its exit code.

    A signal asks the stages below it to stop, waits for them, and raises Stopped; if this process is killed outright,
    the kernel tells the command.
    """
    with terminable():
        child = subprocess.Popen(command, preexec_fn=die_with_us())
        try:
            return child.wait()
        except Stopped:
            ignore_signals()
            ask_to_stop(child)
            see_off(child, time.monotonic() + GRACE_S)
            raise


def ignore_signals() -> None:
    """No second signal interrupts a clean stop."""
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)


@contextmanager
def terminable() -> Iterator[None]:
    """Inside, a signal raises Stopped in the main thread; elsewhere nothing changes.

    SIGINT too where it was ignored at the start, as a shell's background job has it; SIGHUP stays ignored (`nohup`).
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, _: object) -> None:
        raise Stopped(number)

    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number, handler in before.items():
        if number != signal.SIGHUP or handler is not signal.SIG_IGN:
            signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
