"""Several pieces of a pipeline at a time on one machine: packed by memory and time, stopped and gone on with cleanly.

A piece (`Work`) is one `dvc repro --single-item` of some stages. Pieces start when what they rest on is done and a GPU
has room for them, the ones that finish chains first, else the longest first. One that fails stops nothing but what
rests on it; one that ran out of memory is tried again alone. A stop (a time limit, Ctrl-C, SIGTERM) asks the stages
themselves, so that a training writes its checkpoint; if this process is killed outright, the kernel tells its children.
"""

from __future__ import annotations

import ctypes
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

import psutil

from bdh.commands.console import say

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


@dataclass
class Outcome:
    """Names of pieces that are done, what failed and why, and what was left when it was stopped."""

    done: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)
    stopped: bool = False


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

    `told` is called with every line of progress, `finished` with the name of every piece that is done.
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
    ) -> None:
        self.waiting = sorted(works, key=lambda work: (not work.urgent, -work.seconds))
        self.count, self.jobs, self.cards, self.told, self.finished = len(works), jobs, cards, told, finished
        self.end = None if limit_s is None else time.monotonic() + limit_s
        self.running: dict[str, tuple[Work, subprocess.Popen[bytes], list[str], float]] = {}
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
            except KeyboardInterrupt:
                self._stop("as asked")
        return self.outcome

    def _start_what_fits(self) -> None:
        for work in list(self.waiting):
            if len(self.running) >= self.jobs:
                return
            if not work.after <= set(self.outcome.done):
                continue
            alone = work.name in self._again
            if alone and self.running:
                continue
            gpus = self.cards.take(work.gpus, work.memory)
            if gpus is not None:
                self.waiting.remove(work)
                self._start(work, gpus)
                if alone:
                    return

    def _start(self, work: Work, gpus: list[str]) -> None:
        environment = os.environ | {JOBS: str(self.jobs)} | ({"CUDA_VISIBLE_DEVICES": ",".join(gpus)} if gpus else {})
        with (LOGS / f"{work.name}.log").open("wb") as log:
            child = subprocess.Popen(
                work.command, stdout=log, stderr=log, env=environment, start_new_session=True, preexec_fn=die_with_us()
            )
        self.running[work.name] = work, child, gpus, time.monotonic()
        threading.Thread(target=self._watch, args=(work.name, child), daemon=True).start()

    def _watch(self, name: str, child: subprocess.Popen[bytes]) -> None:
        child.wait()
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
        work, child, gpus, began = self.running.pop(name)
        self.cards.give(gpus, work.memory)
        seconds = time.monotonic() - began
        if child.returncode == 0:
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
        self.outcome.failed[name] = f"ended with {child.returncode}: {reason.strip()}"
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
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.SIG_IGN)
        if self.running:
            self.told(f"{why}: {len(self.running)} pieces are stopped, trainings after a checkpoint")
        for _, child, _, _ in self.running.values():
            for process in stages_of(child.pid):
                with suppress(psutil.Error):
                    process.terminate()
        end = time.monotonic() + GRACE_S
        for name, (_, child, _, _) in list(self.running.items()):
            try:
                child.wait(max(0.1, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                for process in [*_family(child.pid), psutil.Process(child.pid)]:
                    with suppress(psutil.Error):
                        process.kill()
                child.wait()
            if child.returncode == 0:
                self.outcome.done.append(name)
        finished = {*self.outcome.done, *self.outcome.failed}
        names = [*self.running, *(work.name for work in self.waiting)]
        self.outcome.left = [name for name in names if name not in finished]


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
    library = ctypes.CDLL(None)
    return lambda: library.prctl(DEATH_SIGNAL, signal.SIGTERM)


@contextmanager
def terminable() -> Iterator[None]:
    """Inside, SIGTERM is a KeyboardInterrupt, in the main thread; elsewhere nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
