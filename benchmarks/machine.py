"""What machine a number was measured on, and how a time is taken."""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

FILES = ("reference", "text", "checkpoint", "peer_curves")


def describe(device: str = "cpu") -> dict[str, Any]:
    """Processor, cores, Python, torch and the GPU if one is used."""
    import torch

    model = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:  # noqa: PTH123
            model = next((line.split(":")[1].strip() for line in file if line.startswith("model name")), model)
    except OSError:
        pass
    found = {
        "processor": model,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    if device.startswith("cuda"):
        found["gpu"] = torch.cuda.get_device_name()
    return found


def seconds_each(work: Callable[[], object], *, repeats: int, warmup: int, device: str = "cpu") -> list[float]:
    """Seconds of every one of `repeats` calls after `warmup` calls, the device synchronised around each."""
    import torch

    def wait() -> None:
        if device.startswith("cuda"):
            torch.cuda.synchronize()

    for _ in range(warmup):
        work()
    times = []
    for _ in range(repeats):
        wait()
        start = time.perf_counter()
        work()
        wait()
        times.append(time.perf_counter() - start)
    return times


def summary(times: list[float]) -> dict[str, float | int]:
    """Median and spread of a list of seconds."""
    return {"median_s": statistics.median(times), "min_s": min(times), "max_s": max(times), "n": len(times)}


def recorded(options: argparse.Namespace) -> dict[str, Any]:
    """The options that a number depends on; of files their names, since their folders are one machine's own."""
    kept = {name: value for name, value in vars(options).items() if name not in ("out", "commit")}
    return kept | {name: Path(kept[name]).name for name in FILES if kept.get(name)}
