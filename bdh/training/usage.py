"""What a training costs: seconds, tokens per second and peak memory, summed over the processes that it took."""

from __future__ import annotations

import resource
import sys
import time

import torch

MIB = 2**20


class Usage:
    """Clocks of one training; `train_s` counts optimizer steps only, `seconds` also validations and checkpoints."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.train_s = 0.0
        self._seconds_before = 0.0
        self._peak_before = 0.0
        self._started = time.perf_counter()
        self._step_clock: float | None = None

    def step_begins(self) -> None:
        """Start the clock of the steps unless it runs."""
        if self._step_clock is None:
            self._step_clock = time.perf_counter()

    def steps_end(self) -> None:
        """Stop the clock of the steps; the device must have finished them."""
        if self._step_clock is not None:
            self.train_s += time.perf_counter() - self._step_clock
            self._step_clock = None

    def report(self) -> dict[str, float]:
        """train_s, seconds, peak_memory_mib (of the GPU, or resident memory of the process on a CPU)."""
        return {
            "train_s": self.train_s,
            "seconds": self._seconds_before + time.perf_counter() - self._started,
            "peak_memory_mib": max(self._peak_before, peak_memory_mib(self.device)),
        }

    def restore(self, report: dict[str, float]) -> None:
        """Add what earlier processes reported."""
        self.train_s = report["train_s"]
        self._seconds_before = report["seconds"]
        self._peak_before = report["peak_memory_mib"]


def peak_memory_mib(device: torch.device) -> float:
    """Most memory held so far: allocated on the GPU, or resident on the host when `device` is a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / MIB
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / MIB
