"""Many independent computations at a time, in forked processes; how many changes no number.

Finding communities is compiled code that holds Python's lock, so threads would wait for each other. A forked process
sees all that its parent has made without a copy, and sends back numbers alone. Matrix products inside run on one
thread each, in this process too: their last bits may depend on the number of threads.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Literal, TypeVar

from threadpoolctl import threadpool_limits

from bdh.project.errors import HatcheryError
from bdh.project.processes import as_child

Found = TypeVar("Found")
SHARING = "HATCHERY_JOBS"
"""Environment variable: how many stages share this machine, set by `bdh repro --jobs`."""

_work: Sequence[Callable[[], Any]] = ()


def each(work: Sequence[Callable[[], Found]], jobs: int | Literal["auto"]) -> list[Found]:
    """What every function of `work` gives, in their order, `jobs` at a time (auto: one per free core).

    Raises HatcheryError when the system ends a process, as it does when memory is short.
    """
    global _work
    count = min(cores() if jobs == "auto" else jobs, len(work))
    with threadpool_limits(1, user_api="blas"):
        if count < 2 or sys.platform != "linux":
            return [one() for one in work]
        before, _work = _work, work
        try:
            return _forked(count, len(work))
        except BrokenProcessPool:
            raise HatcheryError(
                f"one of {count} processes was ended from outside (out of memory?); "
                "take fewer at a time: `frontier.jobs: 1` in params.yaml"
            ) from None
        finally:
            _work = before


def _forked(count: int, tasks: int) -> list[Any]:
    """What the first `tasks` of `_work` give; when this process is stopped, so are the others."""
    pool = ProcessPoolExecutor(count, multiprocessing.get_context("fork"), as_child, (os.getpid(),))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # fork beside threads; the children compute alone
            return list(pool.map(_one, range(tasks)))
    except BaseException:
        for child in multiprocessing.active_children():
            child.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def cores() -> int:
    """Cores that this process may use, divided among the stages that run side by side."""
    free = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return max(1, free // max(1, int(os.environ.get(SHARING, "1"))))


def _one(number: int) -> Any:
    return _work[number]()
