"""Progress on stderr: a bar on a terminal, else a line once in a while."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from bdh.project.errors import visible

LINE_EVERY_S = 30.0


@contextmanager
def bytes_progress(what: str, total: int | None, done: int = 0) -> Iterator[Callable[[int], None]]:
    """Yield a function that is told how many bytes more are done; `total` None when it is not known."""
    what = visible(what)
    console = Console(stderr=True)
    if console.is_terminal:
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
            task = progress.add_task(what, total=total, completed=done)
            yield lambda more: progress.update(task, advance=more)
    else:
        yield _Lines(what, total, done).advance


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """While something runs that tells nothing of its progress: a line every LINE_EVERY_S seconds, how long it takes."""
    done = threading.Event()
    started = time.monotonic()

    def speak() -> None:
        while not done.wait(LINE_EVERY_S):
            sys.stderr.write(f"{what}: {time.monotonic() - started:.0f} s\n")
            sys.stderr.flush()

    speaker = threading.Thread(target=speak, daemon=True)
    speaker.start()
    try:
        yield
    finally:
        done.set()
        speaker.join()


class _Lines:
    """One line on stderr every LINE_EVERY_S seconds, none for what is done sooner."""

    def __init__(self, what: str, total: int | None, done: int) -> None:
        """Start with `done` of `total` bytes."""
        self.what = what
        self.total = total
        self.done = done
        self.said = time.monotonic()

    def advance(self, more: int) -> None:
        """Count `more` bytes and say so when it is time."""
        self.done += more
        if time.monotonic() - self.said >= LINE_EVERY_S:
            self.said = time.monotonic()
            share = f" of {self.total / 1e6:.0f}" if self.total else ""
            sys.stderr.write(f"{self.what}: {self.done / 1e6:.0f}{share} MB\n")
            sys.stderr.flush()
