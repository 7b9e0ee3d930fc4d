"""The process that writes to MLflow beside a stage, so that a stage waits neither for imports nor for a slow store.

`python -m bdh.tracking.writer PID` reads one JSON message per line from standard input and answers in the same way:
`run` with the ids, `problem` with one line, `done` at the end. When the stage's process disappears, even by SIGKILL,
the input ends and the run is closed as KILLED. An outage keeps the messages; they are tried again now and then and once
more at the end. The writer also samples the load of the machine and of the stage, under MLflow's own metric names.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from bdh.project.errors import HatcheryError
from bdh.tracking.record import Record
from bdh.tracking.runs import Opening, add_history, begin, describe, mirror_everything, opening_from
from bdh.tracking.store import Store, open_store, short

FIRST_INTERVAL_S = 1.0
SAMPLES_PER_INTERVAL = 60
LONGEST_INTERVAL_S = 60.0
TICK_S = 0.5
FLUSH_EVERY_S = 2.0
FIRST_RETRY_S = 15.0
LONGEST_RETRY_S = 300.0
REFUSALS = ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS", "PERMISSION_DENIED")
MEGA = 1e6
Message = Mapping[str, Any]


class Sampler:
    """Samples the load every second at first, then ever more rarely: a week of training is a few thousand points."""

    def __init__(self, pid: int) -> None:
        """Watch the process `pid` beside the machine."""
        self._pid = pid
        self._taken = 0
        self._due = time.monotonic()
        self._gpus: list[Any] | None = None
        psutil.cpu_percent()

    def due(self) -> bool:
        """Whether it is time for a sample."""
        return time.monotonic() >= self._due

    def sample(self) -> dict[str, float]:
        """One sample; a part that cannot be measured is left out."""
        doublings = self._taken // SAMPLES_PER_INTERVAL
        self._due = time.monotonic() + min(FIRST_INTERVAL_S * 2**doublings, LONGEST_INTERVAL_S)
        self._taken += 1
        memory = psutil.virtual_memory()
        found = {
            "system/cpu_utilization_percentage": psutil.cpu_percent(),
            "system/system_memory_usage_megabytes": memory.used / MEGA,
            "system/system_memory_usage_percentage": memory.percent,
        }
        with suppress(psutil.Error):
            found["system/process_memory_megabytes"] = psutil.Process(self._pid).memory_info().rss / MEGA
        return found | self._gpu_sample()

    def _gpu_sample(self) -> dict[str, float]:
        try:
            import pynvml
        except ImportError:
            return {}
        found: dict[str, float] = {}
        with suppress(pynvml.NVMLError):
            if self._gpus is None:
                self._gpus = []
                pynvml.nvmlInit()
                self._gpus = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
            for index, gpu in enumerate(self._gpus):
                memory = pynvml.nvmlDeviceGetMemoryInfo(gpu)
                name = f"system/gpu_{index}"
                found[f"{name}_memory_usage_megabytes"] = float(memory.used) / MEGA
                found[f"{name}_memory_usage_percentage"] = 100 * float(memory.used) / float(memory.total)
                found[f"{name}_utilization_percentage"] = float(pynvml.nvmlDeviceGetUtilizationRates(gpu).gpu)
                found[f"{name}_power_usage_watts"] = pynvml.nvmlDeviceGetPowerUsage(gpu) / 1000
        return found


class Writer:
    """Carries out messages in order; what the store cannot take now waits."""

    def __init__(self, emit: Callable[[dict[str, Any]], None]) -> None:
        """Answer through `emit`."""
        self._emit = emit
        self._waiting: deque[Message] = deque()
        self._opening: Opening | None = None
        self._tags: dict[str, str] = {}
        self._store: Store | None = None
        self._record: Record | None = None
        self._sampler: Sampler | None = None
        self._interrupted = False
        self._retry_at = 0.0
        self._pause = FIRST_RETRY_S
        self._flushed_at = time.monotonic()

    def receive(self, message: Message) -> None:
        """Take one message."""
        if message["op"] == "start":
            self._opening = opening_from(message)
            self._tags = describe(self._opening)
            self._sampler = Sampler(self._opening.pid)
            self._waiting.append({"op": "params", "values": self._opening.params})
        else:
            self._waiting.append(message)

    def tick(self) -> None:
        """Do what is due, unless the store has just failed."""
        if time.monotonic() >= self._retry_at:
            self._attempt(self._advance)

    def end(self, status: str) -> bool:
        """Write everything, close the run with `status` and say whether the store has it all."""
        written = self._attempt(lambda: self._advance(flush=True)) and self._attempt(lambda: self._finish(status))
        if not written:
            self._attempt(lambda: self._close("KILLED" if status == "FINISHED" else status))
        return written

    def _attempt(self, work: Callable[[], object]) -> bool:
        try:
            work()
        except Exception as error:
            self._interrupted = True
            self._retry_at = time.monotonic() + self._pause
            self._pause = min(2 * self._pause, LONGEST_RETRY_S)
            self._problem(short(error))
            return False
        self._interrupted = False
        self._pause = FIRST_RETRY_S
        return True

    def _problem(self, line: str) -> None:
        self._emit({"event": "problem", "message": line})

    def _advance(self, flush: bool = False) -> None:
        if self._store is None:
            self._store = open_store()
        if self._opening is not None and self._record is None:
            self._record = begin(self._store, self._opening, self._tags)
            self._emit({"event": "run", "run_id": self._record.run_id, "experiment_id": self._store.experiment_id})
        elif self._interrupted and self._record is not None:
            self._record.reload()
        while self._waiting:
            self._apply_or_drop(self._waiting[0])
            self._waiting.popleft()
        if self._record is not None:
            if self._sampler is not None and self._sampler.due():
                self._record.sample(self._sampler.sample(), int(time.time() * 1000))
            if flush or time.monotonic() >= self._flushed_at + FLUSH_EVERY_S:
                self._record.flush()
                self._flushed_at = time.monotonic()

    def _apply_or_drop(self, message: Message) -> None:
        """A message that the store refuses for what it says would be refused again: report it and go on."""
        try:
            self._apply(message)
        except (HatcheryError, FileNotFoundError, IsADirectoryError) as error:
            self._problem(short(error))
        except Exception as error:
            if getattr(error, "error_code", None) not in REFUSALS:
                raise
            self._problem(short(error))

    def _apply(self, message: Message) -> None:
        if message["op"] == "champions":
            from bdh.tracking.champions import crown

            assert self._store is not None
            crown(self._store, message["summary"])
            return
        record = self._record
        assert record is not None, "messages about a run follow its start"
        match message["op"]:
            case "metrics":
                record.add(message["values"], message["step"], message["at_ms"])
            case "history":
                add_history(record, message["rows"], message["at_ms"])
            case "dataset":
                record.add_dataset(message["name"], message["digest"], message["source"], message["context"])
            case "file":
                record.add_file(Path(message["path"]), message["folder"])
            case "params":
                record.set_params(message["values"])
            case "tags":
                record.set_tags(message["values"])

    def _finish(self, status: str) -> None:
        if status == "FINISHED" and self._record is not None and self._opening is not None:
            mirror_everything(self._record, self._opening)
        self._close(status)

    def _close(self, status: str) -> None:
        if self._record is not None:
            self._record.end(status)


def listen(inbox: queue.SimpleQueue[Message]) -> None:
    """Put every message of standard input into `inbox`, then one that says that there is no more."""
    for line in sys.stdin:
        inbox.put(json.loads(line))
    inbox.put({"op": "end", "status": "KILLED"})


def next_message(inbox: queue.SimpleQueue[Message], stage_pid: int) -> Message | None:
    """The next message, None when none came in time; a stage that is gone has been killed.

    The pipe alone does not tell: children that the stage has forked may hold its other end open.
    """
    try:
        return inbox.get(timeout=TICK_S)
    except queue.Empty:
        return {"op": "end", "status": "KILLED"} if os.getppid() != stage_pid else None


def serve(stage_pid: int, emit: Callable[[dict[str, Any]], None]) -> None:
    """Write until the stage says how it ended, or disappears."""
    inbox: queue.SimpleQueue[Message] = queue.SimpleQueue()
    threading.Thread(target=listen, args=(inbox,), daemon=True).start()
    writer = Writer(emit)
    while True:
        message = next_message(inbox, stage_pid)
        if message is not None and message["op"] == "end":
            emit({"event": "done", "complete": writer.end(message["status"])})
            return
        if message is not None:
            writer.receive(message)
        if inbox.empty():
            writer.tick()


def main() -> None:
    """Serve the stage whose process id is the only argument."""
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def emit(event: dict[str, Any]) -> None:
        with suppress(OSError):  # a stage that is gone listens no more
            answers.write(json.dumps(event) + "\n")
            answers.flush()

    try:
        serve(int(sys.argv[1]), emit)
    except Exception as error:
        emit({"event": "problem", "message": short(error)})
        os._exit(1)
    os._exit(0)  # everything is written; taking an interpreter with MLflow in it apart costs a second


if __name__ == "__main__":
    main()
