"""A process that torchrun started: how it joins the others, and how it ends with or without them.

torchrun (ours, see `launch`, or a user's own over several nodes) puts RANK, WORLD_SIZE and the address of a store into
the environment. A worker ends by itself when torchrun is gone, so nothing is left behind.
"""

from __future__ import annotations

import json
import os
import re
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed

from bdh.project.errors import EXIT_CODE, HatcheryError, explain_os_error, one_line, shown
from bdh.project.processes import Stop
from bdh.training.distributed.group import ALONE, ProcessGroup

LAUNCHED = "BDH_LAUNCHED"
"""Set by our own launcher, which then says what went wrong; under a user's torchrun the rank says it itself."""
LOST_EXIT = 75
LOST_WAIT_S = 10.0
FIRST_WAIT_S = 120.0
ORPHAN_GRACE_S = 60.0
TIMEOUT = timedelta(minutes=30)
DONE = "bdh/first_is_done"
LOST_WORDS = ("gloo", "nccl", "connection closed by peer", "connection reset", "broken pipe")


def is_worker() -> bool:
    """Whether torchrun started this process as one of several."""
    return launched("WORLD_SIZE", 1) > 1


def launched(name: str, otherwise: int, least: int = 0) -> int:
    """A number that torchrun puts into the environment; HatcheryError where something else stands there."""
    text = os.environ.get(name)
    if text is None:
        return otherwise
    if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) < least:
        raise HatcheryError(
            f"the environment variable {name} is {text[:40]!r}, and torchrun sets it to a whole number from {least} "
            f"on; unset it (`unset {name}`), or start several processes by train.devices or torchrun"
        )
    return int(text)


@contextmanager
def joined(stop: Stop, device: str) -> Iterator[ProcessGroup]:
    """The group of this process, for the setting `device` (auto, cpu, cuda); a group of one outside of torchrun.

    GPU number LOCAL_RANK is this process's. Errors become one line that names the rank and exit code 2; an error that
    all ranks have is told by rank 0 alone.
    """
    if not is_worker():
        yield ALONE
        return
    size = launched("WORLD_SIZE", 1)
    rank = launched("RANK", size)
    if rank >= size:
        raise HatcheryError(
            f"WORLD_SIZE is {size} and RANK {os.environ.get('RANK', 'missing')}, which should be below it; unset both, "
            "or start several processes by train.devices or torchrun"
        )
    launched("MASTER_PORT", 0)
    _end_with_parent()
    group = ProcessGroup(rank, size, stop)
    try:
        _connect(group, device)
        try:
            yield group
        finally:
            if group.first:
                _store().set(DONE, "1")
    except SystemExit:
        _wait_for_first(group)
        _abort()
        raise
    except BaseException as error:
        _end(group, error)
    with suppress(Exception):
        torch.distributed.destroy_process_group()


def _connect(group: ProcessGroup, device: str) -> None:
    """Find the others: gradients on GPUs go through NCCL, all else through gloo."""
    on_gpu = device != "cpu" and torch.cuda.is_available()
    if on_gpu:
        local = launched("LOCAL_RANK", 0)
        if local >= torch.cuda.device_count():
            raise HatcheryError(
                f"process {local} of this machine has no GPU of its own ({torch.cuda.device_count()} visible); start "
                "as many processes per machine as it has GPUs"
            )
        torch.cuda.set_device(local)
    torch.distributed.init_process_group("nccl" if on_gpu else "gloo", timeout=TIMEOUT)
    group.control = torch.distributed.new_group(backend="gloo", timeout=TIMEOUT) if on_gpu else None


def _store() -> torch.distributed.Store:
    return torch.distributed.distributed_c10d._get_default_store()


def _wait_for_first(group: ProcessGroup) -> None:
    """Let rank 0 end its work: torchrun ends everyone as soon as one has left with an error."""
    end = time.monotonic() + FIRST_WAIT_S
    with suppress(Exception):
        while not group.first and time.monotonic() < end and not _store().check([DONE]):
            time.sleep(0.05)


def _end(group: ProcessGroup, error: BaseException) -> None:
    """Leave with the right exit code after `error`, telling the launcher or the user once."""
    if group.failing:
        _wait_for_first(group)
        _abort()
        if group.first:
            _tell(one_line(error), "", everyone=True)
            if not os.environ.get(LAUNCHED):
                raise error
        raise SystemExit(EXIT_CODE) from error
    if _lost(error):
        time.sleep(LOST_WAIT_S)  # torchrun ends this process meanwhile and reports the rank that went first
        _abort()
        _tell(f"lost contact with another rank ({one_line(error)})", "", everyone=False)
        raise SystemExit(LOST_EXIT) from error
    _abort()
    known = isinstance(error, HatcheryError) or (isinstance(error, OSError) and explain_os_error(error) is not None)
    reason = one_line(error) if known else f"{type(error).__name__}: {one_line(error)}"
    if isinstance(error, OSError):
        reason = explain_os_error(error) or reason
    _tell(reason, "" if known else shown("".join(traceback.format_exception(error))), everyone=False)
    if os.environ.get(LAUNCHED):
        raise SystemExit(EXIT_CODE) from error
    if known:
        raise HatcheryError(f"rank {group.rank}: {reason}") from error
    raise error


def _abort() -> None:
    """Give up what other ranks may never answer; an orderly end on GPUs would wait for them."""
    with suppress(Exception):
        if torch.distributed.get_backend() == "nccl":
            torch.distributed.distributed_c10d._abort_process_group()


def _lost(error: BaseException) -> bool:
    """Whether an exchange failed because another process is gone."""
    if isinstance(error, torch.distributed.DistError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in LOST_WORDS)


def _tell(reason: str, trace: str, everyone: bool) -> None:
    """Write why this process ends into the file that torchrun reads."""
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if path is None:
        return
    extra = {"timestamp": str(int(time.time())), "py_callstack": trace or reason, "everyone": everyone}
    with suppress(OSError):
        Path(path).write_text(json.dumps({"message": {"message": reason, "extraInfo": extra}}), encoding="utf-8")


def _end_with_parent() -> None:
    """Ask this process to stop when the one that started it is gone, and end it when it does not."""
    parent = os.getppid()

    def watch(sleep: Callable[[float], None]) -> None:
        while os.getppid() == parent:
            sleep(1.0)
        os.kill(os.getpid(), signal.SIGTERM)
        sleep(ORPHAN_GRACE_S)
        os._exit(128 + signal.SIGTERM)

    threading.Thread(target=watch, args=(time.sleep,), name="launcher watch", daemon=True).start()
