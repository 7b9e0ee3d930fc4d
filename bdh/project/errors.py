"""Mistakes that a user can put right, and how a program reports them: one line, exit code 2."""

from __future__ import annotations

import errno
import functools
import sys
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

EXIT_CODE = 2
DISK_ERRORS = {
    errno.ENOSPC: "the disk is full; free some space and run the same command again",
    errno.EDQUOT: "the disk quota is used up; free some space and run the same command again",
    errno.EACCES: "permission denied; make the folder writable or run from another one",
    errno.EROFS: "the file system is read-only; run from a writable folder",
}


class HatcheryError(Exception):
    """What is wrong, where, and what to do about it, in one line."""


class ParamsError(HatcheryError):
    """A key, type or value in params.yaml is wrong."""


class VariantError(HatcheryError):
    """A file of bdh/models is not what an architecture must be, or its model is too large for the machine."""


class CorpusError(HatcheryError):
    """A corpus cannot be fetched, read, split or tokenized."""


class DeviceError(HatcheryError):
    """The requested device or precision is not available."""


class TrainingError(HatcheryError):
    """Training cannot go on (for example a loss that is not finite)."""


class RunError(HatcheryError):
    """A trained run is missing, unreadable or does not fit the request."""


def one_line(error: BaseException) -> str:
    """The message of `error` on a single line."""
    return " ".join(str(error).split()) or type(error).__name__


def explain_os_error(error: OSError) -> str | None:
    """A line for the operating-system errors that a user can mend, None for any other."""
    advice = DISK_ERRORS.get(error.errno or 0)
    if advice is None:
        return None
    return f"{error.filename or error.strerror}: {advice}"


def reported(function: Callable[P, R]) -> Callable[P, R]:
    """Wrap a command: a HatcheryError or a disk error becomes one line on stderr and exit code 2."""

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        if sys.platform == "win32":
            sys.stderr.write("error: Windows is not supported; run it in WSL 2 (`wsl --install`), which is Linux\n")
            raise SystemExit(EXIT_CODE)
        try:
            return function(*args, **kwargs)
        except HatcheryError as error:
            message = one_line(error)
        except OSError as error:
            known = explain_os_error(error)
            if known is None:
                raise
            message = known
        sys.stderr.write(f"error: {message}\n")
        raise SystemExit(EXIT_CODE)

    return wrapped
