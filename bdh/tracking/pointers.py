"""`reports/run/<stage>/<key>.json`: which MLflow run the results of a stage come from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bdh.project.errors import HatcheryError
from bdh.project.files import REPORTS, read_json, write_json
from bdh.project.lockfile import LockedStage, file_md5, load_lock, record_rewrite, stage_and_key, stage_name
from bdh.tracking.mirror import pointer_path

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
    path = pointer_path(stage, key)
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
    for path in sorted((REPORTS / "run").glob("*/*.json")):
        found = read_pointer(path.parent.name, path.stem)
        if found is not None:
            yield found


def tracked_entries() -> list[LockedStage]:
    """Stages of dvc.lock that have an MLflow run, parents before children."""
    lock = load_lock().values()
    return sorted(
        (entry for entry in lock if stage_and_key(entry.name)[0] in TRACKED),
        key=lambda entry: TRACKED.index(stage_and_key(entry.name)[0]),
    )


def repoint(stage: str, key: str, run_id: str, experiment_id: str) -> bool:
    """Let the pointer name another run; dvc.lock follows, so that DVC does not run the stage again for it.

    Returns whether anything changed.
    """
    before = read_pointer(stage, key)
    path = pointer_path(stage, key)
    values = {**(before.values if before else {}), "run_id": run_id, "experiment_id": experiment_id}
    if before is not None and before.values == values:
        return False
    old_md5 = file_md5(path) if before is not None else load_lock()[stage_name(stage, key)].outs.get(str(path), "")
    write_json(path, values)
    record_rewrite(str(path), old_md5)
    return True
