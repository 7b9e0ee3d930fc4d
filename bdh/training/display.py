"""How far a training is, on stderr: a bar on a terminal, a line per validation anywhere else."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Row = Mapping[str, float | int | None]


class Display:
    """Lines; a stream that has gone away (the terminal closed) is no reason to stop."""

    def __init__(self, key: str, total: int, stream: TextIO | None = None) -> None:
        self.key, self.total = key, total
        self.stream = stream or sys.stderr
        self.first_step: int | None = None
        self.started = time.monotonic()

    def advance(self, step: int, train_nats: float | None) -> None:
        """Optimizer step `step` is done; `train_nats` is its loss if it is known yet."""
        if self.first_step is None:
            self.first_step = step - 1
            self.started = time.monotonic()

    def validated(self, row: Row, tokens_per_s: float | None) -> None:
        """Show a row of the history."""
        self.note(summary(row, self.total, tokens_per_s) + self._remaining(int(row["step"] or 0)))

    def note(self, text: str) -> None:
        """Show one line."""
        with suppress(OSError, ValueError):
            self.stream.write(f"{self.key}: {text}\n")
            self.stream.flush()

    def close(self) -> None:
        """Leave the terminal as it was."""

    def _remaining(self, step: int) -> str:
        if self.first_step is None or step <= self.first_step or step >= self.total:
            return ""
        seconds = (time.monotonic() - self.started) / (step - self.first_step) * (self.total - step)
        return f", about {duration(seconds)} left"


class SilentDisplay(Display):
    """Nothing: of the ranks of one training only the first speaks."""

    def note(self, text: str) -> None:
        """Say nothing."""


class BarDisplay(Display):
    """A progress bar, with validations as lines above it."""

    def __init__(self, key: str, total: int, stream: TextIO | None = None) -> None:
        super().__init__(key, total, stream)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[loss]}"),
            TimeRemainingColumn(),
        )
        self.progress = Progress(*columns, console=Console(file=self.stream), transient=True)
        self.task = self.progress.add_task(key, total=total, loss="")
        self.progress.start()

    def advance(self, step: int, train_nats: float | None) -> None:
        """Move the bar."""
        super().advance(step, train_nats)
        loss = "" if train_nats is None else f"train {train_nats:.3f}"
        with suppress(OSError, ValueError):
            self.progress.update(self.task, completed=step, loss=loss)

    def note(self, text: str) -> None:
        """Show one line above the bar."""
        with suppress(OSError, ValueError):
            self.progress.console.print(f"{self.key}: {text}", highlight=False, markup=False, soft_wrap=True)

    def close(self) -> None:
        """Remove the bar."""
        with suppress(OSError, ValueError):
            self.progress.stop()


def make_display(key: str, total: int, speaks: bool = True) -> Display:
    """A bar when stderr is a terminal, lines otherwise; nothing unless this process `speaks`."""
    if not speaks:
        return SilentDisplay(key, total)
    return BarDisplay(key, total) if sys.stderr.isatty() else Display(key, total)


def summary(row: Row, total: int, tokens_per_s: float | None) -> str:
    """One line about a row of the history."""
    parts = [f"step {row['step']}/{total}"]
    if row.get("train_nats") is not None:
        parts.append(f"train {row['train_nats']:.4f}")
    validation = f"validation {row['validation_nats']:.4f}"
    if row.get("validation_nats_average") is not None:
        validation += f" (average {row['validation_nats_average']:.4f})"
    parts.append(f"{validation} nats/token")
    if tokens_per_s:
        parts.append(f"{tokens_per_s:,.0f} tokens/s")
    return ", ".join(parts)


def duration(seconds: float) -> str:
    """Seconds as `45 s`, `3 min 20 s` or `2 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
