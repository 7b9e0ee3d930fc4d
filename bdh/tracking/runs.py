"""How a stage's run begins and ends in a store: resumed or made anew, under its parent, headlines copied to it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bdh.project.errors import HatcheryError, shown
from bdh.project.files import read_mapping, write_json
from bdh.project.lockfile import load_lock, stage_name
from bdh.tracking import identity, mirror
from bdh.tracking.record import Record, now_ms, plain_tags
from bdh.tracking.store import Store

RESUME_FILE = "mlflow.json"
PARENT = "mlflow.parentRunId"
MISSING_PARENT = "parent_missing"
RESUMABLE = ("RUNNING", "KILLED", "FAILED")


@dataclass(frozen=True)
class Opening:
    """What a stage says when it starts: names, parameters, tags of its own, the process that does the work."""

    stage: str
    key: str
    params: Mapping[str, Any]
    tags: Mapping[str, str]
    pid: int
    since: float
    resume_folder: Path | None = None


def describe(opening: Opening) -> dict[str, str]:
    """All tags of a run at its start; those that the stage passes win."""
    tags = identity.source_tags(opening.stage) | identity.git_tags() | identity.process_tags(opening.pid)
    tags |= identity.dvc_tags(opening.stage, opening.key) | identity.stage_tags(opening.stage, opening.key)
    return plain_tags(tags | dict(opening.tags))


def sweep(store: Store) -> list[str]:
    """Close runs of this host that are RUNNING but whose process is gone, as KILLED; returns their ids."""
    swept = []
    for run in store.search("attributes.status = 'RUNNING'"):
        if identity.alive(run.data.tags) is False:
            store.client.set_terminated(run.info.run_id, "KILLED")
            swept.append(run.info.run_id)
    return swept


def begin(store: Store, opening: Opening, tags: Mapping[str, str]) -> Record:
    """The run to write to: the unfinished one noted in the resume folder, otherwise a new one."""
    sweep(store)
    record = _resumed(store, opening, tags)
    if record is None:
        relation = parent_tags(store, opening.stage, opening.key)
        run = store.client.create_run(
            store.experiment_id,
            start_time=int(opening.since * 1000),
            tags={**tags, **relation},
            run_name=tags["dvc.stage"],
        )
        record = Record(store, run.info.run_id, fresh=True)
    _note(opening, store, record.run_id)
    return record


def _resumed(store: Store, opening: Opening, tags: Mapping[str, str]) -> Record | None:
    path = _resume_path(opening)
    if path is None or not path.exists():
        return None
    try:
        run = store.get_run(read_mapping(path).get("run_id"))
    except (HatcheryError, AttributeError):
        return None
    if run is None or run.info.status not in RESUMABLE or run.data.tags.get("dvc.stage") != tags["dvc.stage"]:
        return None
    record = Record(store, run.info.run_id)
    store.client.update_run(run.info.run_id, status="RUNNING")
    record.set_tags({**tags, "resumed": str(int(run.data.tags.get("resumed", "0")) + 1)})
    return record


def _resume_path(opening: Opening) -> Path | None:
    return None if opening.resume_folder is None else opening.resume_folder / RESUME_FILE


def _note(opening: Opening, store: Store, run_id: str) -> None:
    """Write the run id down for a resumed stage, unless the stage has already removed its folder."""
    path = _resume_path(opening)
    if path is not None and path.parent.is_dir():
        with suppress(OSError):
            write_json(path, {"run_id": run_id, "stage": opening.stage, "key": opening.key, "store": shown(store.uri)})


def parent_of(store: Store, stage: str, key: str) -> tuple[Any | None, str | None]:
    """The train run that an evaluation belongs to, and the run id that its pointer names."""
    if stage in ("train", "compare"):
        return None, None
    pointer = identity.read_pointer("train", key)
    return run_of(store, stage_name("train", key), pointer), pointer.run_id if pointer is not None else None


def run_of(store: Store, name: str, pointer: identity.Pointer | None) -> Any | None:
    """The run of a stage's results: that of their pointer, or of results that were not tracked one that `sync` made."""
    if pointer is not None and pointer.run_id is not None:
        return store.get_run(pointer.run_id)
    finished = store.search(f"attributes.status = 'FINISHED' AND tags.`dvc.stage` = '{name}'")
    entry = None
    for run in finished:
        entry = entry or load_lock().get(name)
        if entry is not None and not identity.differing(run.data.tags, entry):
            return run
    return None


def parent_tags(store: Store, stage: str, key: str) -> dict[str, str]:
    """The tag that makes a run a child, or the one that says which parent this store lacks."""
    parent, noted = parent_of(store, stage, key)
    if parent is not None:
        return {PARENT: parent.info.run_id}
    return {} if stage in ("train", "compare") else {MISSING_PARENT: noted or "train run was not tracked"}


def mirror_everything(record: Record, opening: Opening) -> None:
    """Write what the stage's report files say into its run, and the headlines into its parent."""
    mirror_reports(record, opening.stage, opening.key, opening.since)
    copy_headlines(record.store, opening.stage, opening.key, opening.since)


def mirror_reports(record: Record, stage: str, key: str, since: float = 0.0, files: bool = True) -> None:
    """Put numbers, curves and `files` of a stage's reports into its run; points it has are not written again."""
    at_ms = now_ms()
    record.add(mirror.stage_metrics(stage, key, since), None, at_ms)
    if stage == "train":
        add_history(record, mirror.history(key, since), at_ms)
    record.flush()
    for path, folder in mirror.artifact_paths(stage, key) if files else []:
        if mirror.fresh(path, since):
            record.add_file(path, folder)


def add_history(record: Record, rows: list[dict[str, float]], at_ms: int) -> None:
    """Buffer rows of curves, each at its own step."""
    for row in rows:
        if "step" in row:
            values = {mirror.curve_name(name): value for name, value in row.items() if name != "step"}
            record.add(values, int(row["step"]), at_ms)


def copy_headlines(store: Store, stage: str, key: str, since: float = 0.0) -> None:
    """Put an evaluation's headline numbers beside the model it evaluated, one row of the runs table."""
    found = mirror.headlines(stage, key, since)
    parent, _ = parent_of(store, stage, key)
    if found and parent is not None:
        row = Record(store, parent.info.run_id)
        row.add(found, None, now_ms())
        row.flush()


def opening_from(message: Mapping[str, Any]) -> Opening:
    """The opening that a stage sent as JSON."""
    folder = message.get("resume_folder")
    values = {name: message[name] for name in ("stage", "key", "params", "tags", "pid", "since")}
    return Opening(**values, resume_folder=Path(folder) if folder else None)


def opening_message(opening: Opening) -> dict[str, Any]:
    """An opening as JSON values; parameters that JSON cannot hold become texts."""
    plain = json.loads(json.dumps(opening.params, default=str))
    return {
        "op": "start",
        "stage": opening.stage,
        "key": opening.key,
        "params": plain,
        "tags": {name: str(value) for name, value in opening.tags.items()},
        "pid": opening.pid,
        "since": opening.since,
        "resume_folder": str(opening.resume_folder.absolute()) if opening.resume_folder else None,
    }
