"""Load of the machine and of the training process, under MLflow's own metric names (`system/...`)."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any

import psutil

FIRST_INTERVAL_S = 1.0
SAMPLES_PER_INTERVAL = 60
LONGEST_INTERVAL_S = 60.0
MEGA = 1e6


class Sampler:
    """Samples every second at first, then ever more rarely, so that a week of training stays a few thousand points."""

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
