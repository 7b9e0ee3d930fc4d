"""Who made a run and from what: the tags that tie an MLflow run to git, to DVC and to a process.

And the pointers the other way: `run/<stage>/<key>.json` among the results says which MLflow run they come from. It is
never changed: a run that another store lacks is made again there and tagged with the id that the pointer names.
"""

from __future__ import annotations

import getpass
import os
import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from bdh.project.errors import HatcheryError
from bdh.project.files import REPORTS, RESULTS, read_json
from bdh.project.lockfile import (
    PARAMS,
    LockedStage,
    current_deps,
    current_params,
    declared,
    load_lock,
    load_yaml,
    params_sha,
    stage_and_key,
    stage_name,
)
from bdh.project.origin import git
from bdh.tracking.mirror import POINTERS, noted_path

DEP = "dvc.dep."
OUT = "dvc.out."
SAME_START_S = 2.0
AXES = ("variant", "corpus", "seed")
DOING = {
    "train": "**{0}** trained on **{1}** from seed {2}. Its evaluations are child runs; their headline numbers stand "
    "here too, under `test/` and `frontier/`.",
    "hebbian": "**{0}**, trained on **{1}** from seed {2}, reads held-out text: weights frozen, synapses alive.",
    "frontier": "Frontier metrics of **{0}**, trained on **{1}** from seed {2}, beside their nulls.",
}
MADE = ("dvc.lock", "reports")
"""What the pipeline writes: no change of sources."""


def stage_tags(stage: str, key: str) -> dict[str, str]:
    """Axes of the comparison, for filtering and grouping in the UI."""
    tags = {"stage": stage, "scale": str(load_yaml(PARAMS).get("scale", "")), "key": key}
    parts = key.split("-")
    if len(parts) == len(AXES):
        tags |= dict(zip(AXES, parts, strict=True))
        tags["mlflow.note.content"] = DOING.get(stage, stage).format(*parts)
    else:
        tags["mlflow.note.content"] = "Every variant beside every other; the page is among the artifacts (index.html)."
    return tags


def dvc_tags(stage: str, key: str) -> dict[str, str]:
    """What the stage is about to read: dvc.lock for outputs of earlier stages, params.yaml for its parameters."""
    declaration = declared(stage, key)
    found = {
        "dvc.stage": os.environ.get("DVC_STAGE") or stage_name(stage, key),
        "dvc.exp": os.environ.get("DVC_EXP_NAME", ""),
        "dvc.baseline": os.environ.get("DVC_EXP_BASELINE_REV", ""),
        "dvc.params_sha": params_sha(current_params(declaration.params)),
    }
    found |= {f"{DEP}{path}": md5 for path, md5 in current_deps(declaration, load_lock()).items()}
    return {name: value for name, value in found.items() if value}


def lock_tags(entry: LockedStage) -> dict[str, str]:
    """The tags that a run of a stage of dvc.lock must have; folders gathered from several stages may be absent."""
    found = {"dvc.stage": entry.name, "dvc.params_sha": params_sha(entry.params)}
    return found | {f"{DEP}{path}": md5 for path, md5 in entry.deps.items()}


def out_tags(entry: LockedStage) -> dict[str, str]:
    """What the stage wrote, known only after it has ended; the pointer to the run itself is left out."""
    return {f"{OUT}{path}": md5 for path, md5 in entry.outs.items() if POINTERS.name not in Path(path).parts}


def differing(tags: Mapping[str, str], entry: LockedStage) -> dict[str, tuple[str | None, str]]:
    """Tags of a run that are not what dvc.lock says: name -> (tag, dvc.lock).

    A dependency without a tag counts unless it is a folder that gathers the outputs of several stages, whose md5
    cannot be known while it is being filled.
    """
    wanted = lock_tags(entry)
    return {
        name: (tags.get(name), value)
        for name, value in wanted.items()
        if tags.get(name) != value and not (name not in tags and value.endswith(".dir"))
    }


def git_tags() -> dict[str, str]:
    """Commit that is checked out and whether tracked files other than results differ from it; {} outside git."""
    commit = git("rev-parse", "HEAD")
    if commit is None:
        return {}
    dirty = git("status", "--porcelain", "--untracked-files=no", "--", ".", *(f":!{path}" for path in MADE))
    return {"mlflow.source.git.commit": commit, "git.dirty": str(bool(dirty)).lower()}


def source_tags(stage: str) -> dict[str, str]:
    """The columns User and Source of the UI."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):
        user = "unknown"
    return {"mlflow.user": user, "mlflow.source.name": f"stages/{stage}.py", "mlflow.source.type": "LOCAL"}


def process_tags(pid: int) -> dict[str, str]:
    """A process, so that it is not confused with a later one of the same number."""
    return {"process.host": platform.node(), "process.pid": str(pid), "process.started": f"{started(pid):.2f}"}


def started(pid: int) -> float:
    """When a process started, seconds since the epoch; 0 when it is gone."""
    try:
        return psutil.Process(pid).create_time()
    except psutil.Error:
        return 0.0


def alive(tags: Mapping[str, str]) -> bool | None:
    """Whether the process that writes a run still runs; None when it ran on another host or nobody knows."""
    if tags.get("process.host") != platform.node():
        return None
    try:
        pid, since = int(tags["process.pid"]), float(tags["process.started"])
    except (KeyError, ValueError):
        return None
    return psutil.pid_exists(pid) and abs(started(pid) - since) < SAME_START_S and not _zombie(pid)


def _zombie(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.Error:
        return True


TRACKED = ("train", "hebbian", "frontier", "compare")


@dataclass(frozen=True)
class Pointer:
    """One pointer: the stage it belongs to and what it says; `problem` when it cannot be read."""

    path: Path
    stage: str
    key: str
    values: dict[str, Any]
    problem: str | None = None

    @property
    def name(self) -> str:
        """DVC's name of the stage."""
        return stage_name(self.stage, self.key)

    @property
    def run_id(self) -> str | None:
        """The MLflow run, None when the stage was not tracked."""
        found = self.values.get("run_id")
        return found if isinstance(found, str) else None


def read_pointer(stage: str, key: str) -> Pointer | None:
    """The pointer of a stage, None where there is none."""
    path = noted_path(stage, key)
    if not path.exists():
        return None
    try:
        values = read_json(path)
    except HatcheryError as error:
        return Pointer(path, stage, key, {}, str(error))
    if not isinstance(values, dict):
        return Pointer(path, stage, key, {}, f"{path} holds no mapping")
    return Pointer(path, stage, key, values)


def all_pointers() -> Iterator[Pointer]:
    """Every pointer on disk."""
    places = [path for home in (RESULTS, REPORTS) for path in (home / POINTERS).glob("*/*.json")]
    for stage, key in sorted({(path.parent.name, path.stem) for path in places}):
        found = read_pointer(stage, key)
        if found is not None:
            yield found


def tracked_entries() -> list[LockedStage]:
    """Stages of dvc.lock that have an MLflow run, parents before children."""
    lock = load_lock().values()
    return sorted(
        (entry for entry in lock if stage_and_key(entry.name)[0] in TRACKED),
        key=lambda entry: TRACKED.index(stage_and_key(entry.name)[0]),
    )
