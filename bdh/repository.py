"""The repository that a command works on: the nearest folder upwards that holds dvc.yaml."""

from __future__ import annotations

import os
from pathlib import Path

from bdh.errors import HatcheryError

MARK = "dvc.yaml"


class NoRepositoryError(HatcheryError):
    """The command was started outside a Hatchery repository."""


def find_root(start: Path | None = None) -> Path:
    """The repository around `start` (default: the current folder); raises NoRepositoryError where there is none."""
    here = (start or Path.cwd()).absolute()
    for folder in (here, *here.parents):
        if (folder / MARK).is_file() and (folder / "params.yaml").is_file():
            return folder
    raise NoRepositoryError(f"{here} is not inside a Hatchery repository (no {MARK} here or above); cd into one")


def enter_root() -> Path:
    """Make the repository's root the current folder; returns the folder in which the command was given."""
    before = Path.cwd()
    os.chdir(find_root(before))
    return before
