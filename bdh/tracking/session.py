"""What a stage sees of tracking: a Tracker inside a `with tracked(...)` block, and never an error.

A second process does the writing (see `writer`); messages go to it through a thread, so that a call costs microseconds.
The first problem becomes one line on standard error, and the stage goes on.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import bdh
from bdh.project.errors import one_line
from bdh.project.files import write_json
from bdh.tracking.mirror import is_number, pointer_path
from bdh.tracking.runs import RESUME_FILE, Opening, opening_message
from bdh.tracking.store import prepare_environment

SWITCH = "BDH_TRACKING"
PATIENCE_S = {"FINISHED": 180.0, "FAILED": 45.0, "KILLED": 20.0}
SIGNAL_EXITS = range(129, 160)
ADVICE = "the work goes on; `bdh sync` fills the store in later"


class Tracker:
    """One MLflow run that is being written; every method may be called when MLflow is unreachable.

    `run_id` is None until the store has made the run, and for ever when tracking failed.
    """

    run_id: str | None = None
    experiment_id: str | None = None

    def log_metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        """Record numbers, non-finite ones left out."""
        self._send(op="metrics", values=_finite(values), step=step, at_ms=_now_ms())

    def log_history(self, rows: Sequence[Mapping[str, float]]) -> None:
        """Record curves: each row has `step` and any number of metrics; steps already recorded are skipped.

        They stand under `curves/` (losses, learning rate, gradient norm) and `curves_inside/` (all others).
        """
        self._send(op="history", rows=[_finite(row) for row in rows], at_ms=_now_ms())

    def log_dataset(self, name: str, digest: str, source: str, context: str) -> None:
        """Record an input dataset; `digest` at most 36 characters."""
        self._send(op="dataset", name=name, digest=digest, source=source, context=context)

    def log_file(self, path: Path, folder: str = "") -> None:
        """Copy a file into the run's artifacts."""
        self._send(op="file", path=str(Path(path).absolute()), folder=folder)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Add tags."""
        self._send(op="tags", values={str(name): str(value) for name, value in tags.items()})

    def _send(self, **message: Any) -> None:
        """A tracker without a store forgets."""


class WritingTracker(Tracker):
    """A Tracker with a writing process behind it."""

    def __init__(self) -> None:
        """Start the writing process."""
        self.complete = False
        self._warned = False
        self._outbox: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._process = _start_writer()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        threading.Thread(target=self._feed, args=(self._process.stdin,), daemon=True).start()
        self._listener = threading.Thread(target=self._listen, args=(self._process.stdout,), daemon=True)
        self._listener.start()

    def open(self, opening: Opening) -> None:
        """Say what the run is."""
        self._send(**opening_message(opening))

    def close(self, status: str) -> None:
        """Say how the work ended and wait, for a bounded time, until it is written."""
        self._send(op="end", status=status)
        self._outbox.put(None)
        self._listener.join(PATIENCE_S[status])
        if self._listener.is_alive():
            self.warn(f"MLflow has not answered for {PATIENCE_S[status]:.0f} s")
            self._process.kill()
        elif self._process.wait() != 0 and not self._warned:
            self.warn(f"the writing process ended with exit code {self._process.returncode}")

    def warn(self, problem: str) -> None:
        """One line on standard error, for the first problem only."""
        if not self._warned:
            self._warned = True
            sys.stderr.write(f"warning: tracking: {problem}; {ADVICE}\n")
            sys.stderr.flush()

    def _send(self, **message: Any) -> None:
        self._outbox.put(json.dumps(message, default=str))

    def _feed(self, pipe: IO[str]) -> None:
        with suppress(OSError, ValueError):
            while (line := self._outbox.get()) is not None:
                pipe.write(line + "\n")
                pipe.flush()
        with suppress(OSError):
            pipe.close()

    def _listen(self, pipe: IO[str]) -> None:
        for line in pipe:
            event = json.loads(line)
            match event["event"]:
                case "run":
                    self.experiment_id, self.run_id = event["experiment_id"], event["run_id"]
                case "problem":
                    self.warn(event["message"])
                case "done":
                    self.complete = event["complete"]
                    return


def _now_ms() -> int:
    return int(time.time() * 1000)


def _finite(values: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers among values, as floats; NumPy and torch scalars are numbers too."""
    found = {}
    for name, value in values.items():
        with suppress(TypeError, ValueError):
            number = float(value)
            if is_number(number):
                found[str(name)] = number
    return found


def _start_writer() -> subprocess.Popen[str]:
    """The writing process, in a session of its own so that Ctrl-C leaves it the time to close the run."""
    prepare_environment()
    package = str(Path(bdh.__file__).parents[1])
    paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "bdh.tracking.writer", str(os.getpid())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        encoding="utf-8",
        env=environment,
        start_new_session=True,
    )


_active: WritingTracker | None = None
_prepared: WritingTracker | None = None


def prepare() -> None:
    """Start the writing process now, so that it imports MLflow while the stage imports what it needs itself."""
    global _prepared
    if _prepared is None and wanted():
        _prepared = _take_prepared()


def wanted() -> bool:
    """Whether this process tracks at all."""
    return os.environ.get(SWITCH, "on") != "off" and _is_first()


def _is_first() -> bool:
    """Of the processes of one distributed training only the first tracks."""
    return os.environ.get("RANK", "0").strip("0") == ""  # what is no number is refused by whoever trains


def _take_prepared() -> WritingTracker | None:
    """The process that waits for work, else a new one; None, with the warning, when none can be started."""
    global _prepared
    taken, _prepared = _prepared, None
    try:
        return taken or WritingTracker()
    except OSError as error:
        sys.stderr.write(f"warning: tracking: no process can be started ({one_line(error)}); {ADVICE}\n")
        return None


@contextmanager
def tracked(
    stage: str, key: str, *, params: Mapping[str, Any], tags: Mapping[str, str], resume_folder: Path | None = None
) -> Iterator[Tracker]:
    """One run of a stage. `train` runs stand alone; other stages are children of the train run of the same key.

    On success writes `run/<stage>/<key>.json` among the results: run_id and experiment_id (None when tracking failed).
    `resume_folder` keeps the run id of an unfinished run so that a resumed stage goes on in the same run.
    An exception closes the run as FAILED, Ctrl-C or a signal as KILLED. `BDH_TRACKING=off` does without MLflow;
    of the processes of one distributed training only the first (`RANK` 0) tracks.
    """
    global _active
    since = time.time()
    if not wanted():
        yield Tracker()
        if _is_first():
            point(stage, key, Tracker(), since)
        return
    if resume_folder is not None:
        resume_folder.mkdir(parents=True, exist_ok=True)
    tracker = _take_prepared()
    if tracker is None:
        yield Tracker()
        point(stage, key, Tracker(), since)
        return
    tracker.open(Opening(stage, key, params, tags, os.getpid(), since, resume_folder))
    _active, outer = tracker, _active
    try:
        yield tracker
    except BaseException as error:
        tracker.close(_status(error))
        raise
    finally:
        _active = outer
    tracker.close("FINISHED")
    point(stage, key, tracker if tracker.complete else Tracker(), since)
    _forget(resume_folder)


def point(stage: str, key: str, tracker: Tracker, since: float) -> None:
    """Write down which run the results of a stage come from, and when they were made."""
    times = {name: datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")
             for name, at in (("started", since), ("ended", time.time()))}  # fmt: skip
    ids = {"run_id": tracker.run_id, "experiment_id": tracker.experiment_id}
    write_json(pointer_path(stage, key), ids | times)


def _status(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return "KILLED" if error.code in SIGNAL_EXITS else "FAILED"
    return "KILLED" if isinstance(error, KeyboardInterrupt | GeneratorExit) else "FAILED"


def _forget(resume_folder: Path | None) -> None:
    """Remove the note of the unfinished run, and the folder if nothing else was in it."""
    if resume_folder is not None:
        (resume_folder / RESUME_FILE).unlink(missing_ok=True)
        with suppress(OSError):
            resume_folder.rmdir()


def update_champions(summary: Mapping[str, Any]) -> None:
    """Let the alias `champion` of every corpus follow the best held-out bits per byte of a comparison.

    Weights are not copied: a version points to the DVC output. Like all tracking it warns and never fails.
    """
    if not wanted():
        return
    if _active is not None:
        _active._send(op="champions", summary=summary)
        return
    alone = _take_prepared()
    if alone is not None:
        alone._send(op="champions", summary=summary)
        alone.close("FINISHED")
