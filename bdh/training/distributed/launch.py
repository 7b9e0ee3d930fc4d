"""How many processes a training gets; starts them on this machine with torchrun's own agent, and ends them all when one
fails."""

from __future__ import annotations

import dataclasses
import logging
import os
import signal
import sys
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException, Std
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from bdh.params import Train
from bdh.project.errors import DeviceError, HatcheryError
from bdh.project.files import CHECKPOINTS
from bdh.training.distributed.worker import LAUNCHED, LOST_EXIT


def processes(settings: Train, gpus: int) -> int:
    """Processes for `train.devices` on a machine that shows `gpus` GPUs to us (0: compute on the CPU).

    `all` is every GPU, or one process on a CPU; on a CPU any number may be asked for by name. What trains nothing
    needs one. Raises DeviceError when more GPUs are asked for than there are.
    """
    if settings.regime == "none":
        return 1
    if settings.devices == "all":
        return max(1, gpus)
    if gpus and settings.devices > gpus:
        raise DeviceError(
            f"train.devices: {settings.devices} were asked for and {gpus} can be used here; lower it, set it to "
            "all, or make more GPUs visible"
        )
    return settings.devices


SIGNALS = ("SIGTERM", "SIGINT", "SIGHUP")
SIGNAL_EXITS = range(129, 160)


class RankError(HatcheryError):
    """One process of a distributed training has failed."""


def launch(size: int, arguments: list[str], key: str) -> None:
    """Run `python ARGUMENTS` in `size` processes on this machine, the output of rank 0 on ours; return at their end.

    SIGTERM, SIGINT and SIGHUP (unless ignored, as under nohup) are passed on and raise SystemExit(128 + number) when
    all processes have ended. Raises RankError, one line that names the rank and its reason, when one fails: all
    others are ended then, and the last checkpoint of run `key` stays.
    """
    for name in [name for name in logging.root.manager.loggerDict if name.startswith("torch.distributed")]:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    handled = [name for name in SIGNALS if signal.getsignal(getattr(signal, name)) is not signal.SIG_IGN]
    with tempfile.TemporaryDirectory(prefix="bdh-ranks-") as folder, _environment(handled):
        try:
            elastic_launch(_config(size, folder, handled), sys.executable)(*arguments)
        except SignalException as error:
            raise SystemExit(128 + int(error.sigval)) from None
        except ChildFailedError as error:
            _report(error.failures, key)


def _config(size: int, folder: str, handled: list[str]) -> LaunchConfig:
    logs = DefaultLogsSpecs(log_dir=folder, redirects=dict.fromkeys(range(1, size), Std.ALL))
    config: dict[str, Any] = {
        "min_nodes": 1,
        "max_nodes": 1,
        "nproc_per_node": size,
        "logs_specs": logs,
        "run_id": uuid.uuid4().hex,
        "rdzv_backend": "c10d",
        "rdzv_endpoint": "localhost:0",
        "local_addr": "localhost",
        "max_restarts": 0,
        "monitor_interval": 0.1,
        "signals_to_handle": ",".join(handled),
    }
    known = {field.name for field in dataclasses.fields(LaunchConfig)}
    return LaunchConfig(**{name: value for name, value in config.items() if name in known})


@contextmanager
def _environment(handled: list[str]) -> Iterator[None]:
    """Variables for the agent and its workers; gloo stays on the loopback, for all processes are on this machine."""
    before = dict(os.environ)
    os.environ |= {LAUNCHED: "1", "TORCHELASTIC_SIGNALS_TO_HANDLE": ",".join(handled)}
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    try:
        yield
    finally:
        os.environ.clear()
        os.environ |= before


def _report(failures: dict[int, ProcessFailure], key: str) -> None:
    """Raise what the failed ranks amount to: a signal that ended all, or RankError about the one that failed first."""
    causes = {r: f for r, f in failures.items() if f.exitcode != LOST_EXIT and f.exitcode not in SIGNAL_EXITS}
    if not causes:
        signals = [failure.exitcode for failure in failures.values() if failure.exitcode in SIGNAL_EXITS]
        if signals:
            raise SystemExit(signals[0])
        causes = failures
    rank = min(causes, key=lambda r: (causes[r].timestamp, r))
    told: Any = causes[rank].message
    if isinstance(told, dict):
        if told["extraInfo"].get("everyone"):
            raise RankError(told["message"])
        if told["extraInfo"]["py_callstack"].startswith("Traceback"):
            sys.stderr.write(told["extraInfo"]["py_callstack"])
    raise RankError(f"{key}: rank {rank} of the training {_reason(causes[rank], told)}{kept(key)}")


def _reason(failure: ProcessFailure, told: Any) -> str:
    if isinstance(told, dict):
        return f"failed: {told['message']}"
    if failure.exitcode < 0:
        hint = " (has memory run out?)" if failure.exitcode == -signal.SIGKILL else ""
        return f"was ended by {failure.signal_name()}{hint}"
    return f"ended with exit code {failure.exitcode}"


def kept(key: str, root: Path = CHECKPOINTS) -> str:
    """Half a sentence about the newest checkpoint of run `key`."""
    steps = [int(path.name) for path in root.glob(f"{key}/*/*") if path.name.isdigit()]
    if not steps:
        return "; there is no checkpoint yet"
    return f"; the checkpoint of step {max(steps)} is kept, the same command goes on from there"
