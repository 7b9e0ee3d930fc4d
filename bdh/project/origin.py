"""What a result was made from: the commit, edits that are in none, and the environment; kept beside every result."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from bdh.project.files import RESULTS, read_as, result_path, write_json

SOURCES = ("bdh", "stages", "dvc.yaml", "docs/tuning.csv")
"""What a result is made from, beside params.yaml."""

PARAMS = "params.yaml"
PACKAGE = "hatchery"
SECONDS = 20.0


class Origin(BaseModel):
    """What one result was made from.

    commit: None outside git. uncommitted: files of the program that differ from it or are in none, params.yaml aside.
    params_patch: what differs in params.yaml, as `git diff` writes it. environment: machine and releases.
    """

    model_config = ConfigDict(extra="forbid")

    commit: str | None
    uncommitted: list[str]
    params_patch: str
    environment: dict[str, str]


def origin() -> Origin:
    """Of the project in the current folder, now."""
    changed = git("diff", "--name-only", "--relative", "HEAD", "--", *SOURCES) or ""
    added = git("ls-files", "--others", "--exclude-standard", "--", *SOURCES) or ""
    patch = git("diff", "--relative", "--no-color", "--no-ext-diff", "HEAD", "--", PARAMS) or ""
    return Origin(
        commit=git("rev-parse", "HEAD"),
        uncommitted=[*changed.splitlines(), *added.splitlines()],
        params_patch=f"{patch}\n" if patch else "",
        environment=environment(),
    )


def environment() -> dict[str, str]:
    """Platform, processor, Python, and the release of every library that this project names."""
    found = {
        "platform": platform.platform(),
        "machine": platform.machine(),
        "processor": processor(),
        "cores": str(os.cpu_count()),
        "python": platform.python_version(),
    }
    for line in importlib.metadata.requires(PACKAGE) or ():
        name, extra = re.split(r"[^\w.-]", line, maxsplit=1)[0], "extra ==" in line
        try:
            found |= {} if extra else {name: importlib.metadata.version(name)}
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def processor() -> str:
    """The processor's name where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def git(*arguments: str) -> str | None:
    """What git prints, without the last line's end; None outside a repository or without git."""
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=SECONDS, check=True)
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
    return done.stdout.rstrip("\n")


def keep_origin(stage: str, key: str) -> Path:
    """Write what a stage's result is made from; returns the file."""
    path = RESULTS / "origin" / stage / f"{key}.json"
    write_json(path, origin().model_dump())
    return path


def origin_of(stage: str, key: str) -> Origin:
    """What a result of this project was made from. Raises RunError when the file is missing or damaged."""
    path = result_path(f"origin/{stage}/{key}.json")
    return read_as(Origin, path, f"stage {stage}", "`dvc repro` makes it")
