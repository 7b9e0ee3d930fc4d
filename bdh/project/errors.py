"""Mistakes that a user can put right, and how a program reports them: one line, exit code 2, no secret in it."""

from __future__ import annotations

import errno
import functools
import os
import re
import sys
import threading
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import ParamSpec, TypeVar
from urllib.parse import unquote

P = ParamSpec("P")
R = TypeVar("R")

EXIT_CODE = 2
DISK_ERRORS = {
    errno.ENOSPC: "the disk is full; free some space and run the same command again",
    errno.EDQUOT: "the disk quota is used up; free some space and run the same command again",
    errno.EACCES: "permission denied; make the folder writable or run from another one",
    errno.EROFS: "the file system is read-only; run from a writable folder",
    errno.EISDIR: "it is a folder where a file should be; move it away and run the same command again",
    errno.ENOTDIR: "a file stands where a folder should be; move it away and run the same command again",
    errno.ENAMETOOLONG: "the name is too long for this file system; shorten it",
    errno.ELOOP: "symbolic links go round in a circle; mend them",
    errno.EMFILE: "too many files are open; raise the limit (`ulimit -n 4096`) and run the same command again",
}

HIDDEN = "***"
ADDRESSES = ("BDH_CORPORA_MIRROR", "MLFLOW_TRACKING_URI")
"""Environment variables with an address that may hold a password or a token."""

PASSWORDS = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
SHORTEST_SECRET = 4
NO_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory", "unable to allocate")
"""How torch, numpy and the operating system say it."""


CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufff9-\ufffb\ud800-\udfff]")
"""Control characters, line separators, direction marks and overrides, halves of surrogate pairs."""


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
    """The message of `error` on a single line, without passwords, tokens and signs that steer a terminal."""
    return visible(shown(" ".join(str(error).split()))) or type(error).__name__


def visible(text: str) -> str:
    """A text whose signs that steer a terminal or turn the direction of writing are written out (`\\x1b`)."""
    return CONTROLS.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), text)


def shown(text: str) -> str:
    """A text without the user names, passwords and tokens that addresses in it hold.

    Libraries quote an address in pieces (`port 'secret' is no number`), so the secrets of this process's own addresses
    are hidden wherever they stand.
    """
    text = re.sub(r"([A-Za-z][A-Za-z0-9+.-]*://)(\S+)", _shown_address, text)
    text = re.sub(r"([?&][\w.~%-]+=)(?!\*)[^\s&#'\")]+", rf"\1{HIDDEN}", text)
    for secret in sorted(_own_secrets(), key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return text


def _shown_address(match: re.Match[str]) -> str:
    """A password may itself hold `/`, `@`, `?` or `#`: where one cannot tell what is the host, nothing is shown."""
    scheme, rest = match.groups()
    place, mark, query = re.fullmatch(r"([^?#]*)([?#]?)(.*)", rest, re.DOTALL).groups()  # type: ignore[union-attr]
    if "@" in query:
        return f"{scheme}{HIDDEN}"
    if "@" in place:
        place = f"{HIDDEN}@{place.rpartition('@')[2]}"
    if "=" in query:
        query = re.sub(r"=[^&#'\"),;]*", f"={HIDDEN}", query)
    return f"{scheme}{place}{mark}{query}"


def _own_secrets() -> set[str]:
    """Passwords and tokens of this process's environment, whole, decoded and in the pieces that a library cuts."""
    found = {os.environ.get(name, "") for name in PASSWORDS}
    for name in ADDRESSES:
        _, _, rest = os.environ.get(name, "").partition("://")
        account, at, _ = rest.rpartition("@")
        password = account.partition(":")[2] or account if at else ""
        values = re.findall(r"[?&#][^=&#]*=([^&#]*)", rest)
        for secret in [password, *values]:
            found |= {secret, unquote(secret), *re.split(r"[/@?#:&=]", secret)}
    return {secret for secret in found if len(secret) >= SHORTEST_SECRET}


def explain_os_error(error: OSError) -> str | None:
    """A line for the operating-system errors that a user can mend, None for any other."""
    advice = DISK_ERRORS.get(error.errno or 0)
    if advice is None:
        return None
    return f"{shown(str(error.filename or error.strerror))}: {advice}"


def explain_memory_error(error: BaseException) -> str | None:
    """A line for an error that says that memory ran out, of this machine or of a GPU, None for any other."""
    told = one_line(error)
    if not isinstance(error, MemoryError) and not any(words in told.lower() for words in NO_MEMORY):
        return None
    return (
        f"out of memory ({told[:160]}); make batch_size, window or the model smaller, train.accumulate larger, or run "
        "fewer jobs at once"
    )


def _tell_hidden(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print an error that nobody foresaw as Python does, without the passwords and tokens in it."""
    sys.stderr.write(shown("".join(traceback.format_exception(kind, error, trace))))


def hide_secrets_in_stacks() -> None:
    """From here on no stack that ends this process, or one of its threads, shows a password or a token."""
    sys.excepthook = _tell_hidden
    threading.excepthook = lambda given: _tell_hidden(
        given.exc_type, given.exc_value or given.exc_type(), given.exc_traceback
    )


def reported(function: Callable[P, R]) -> Callable[P, R]:
    """Wrap a command: a HatcheryError, a disk error or a lack of memory becomes one line on stderr and exit code 2.

    The stack of any other error is shown without secrets.
    """

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        if sys.platform == "win32":
            sys.stderr.write("error: Windows is not supported; run it in WSL 2 (`wsl --install`), which is Linux\n")
            raise SystemExit(EXIT_CODE)
        hide_secrets_in_stacks()
        try:
            return function(*args, **kwargs)
        except HatcheryError as error:
            message = one_line(error)
        except OSError as error:
            known = explain_os_error(error)
            if known is None:
                raise
            message = known
        except (MemoryError, RuntimeError) as error:
            known = explain_memory_error(error)
            if known is None:
                raise
            message = known
        sys.stderr.write(f"error: {message}\n")
        raise SystemExit(EXIT_CODE)

    return wrapped
