"""Do dvc.lock, the pointers in reports/run and the MLflow store agree? Both ways, with a remedy for each finding."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from bdh.lockfile import Entry, stage_and_key
from bdh.tracking import identity, mirror
from bdh.tracking.pointers import Pointer, all_pointers, tracked_entries
from bdh.tracking.runs import PARENT, parent_of
from bdh.tracking.store import Store

SYNC = "`bdh sync` fills the store in"
SHOWN = 3


@dataclass(frozen=True)
class Finding:
    """Something that does not agree: about what, what is wrong, what to do."""

    subject: str
    problem: str
    remedy: str


def audit(store: Store) -> list[Finding]:
    """All disagreements; an empty list means that every result can be traced both ways."""
    entries = {entry.name: entry for entry in tracked_entries()}
    found = [*_missing_pointers(entries)]
    for pointer in all_pointers():
        found += _check_pointer(store, pointer, entries.get(pointer.name))
    return [*found, *_dead_runs(store)]


def _missing_pointers(entries: dict[str, Entry]) -> Iterator[Finding]:
    for name in entries:
        stage, key = stage_and_key(name)
        report, path = mirror.main_report(stage, key), mirror.pointer_path(stage, key)
        if report.exists() and not path.exists():
            yield Finding(name, f"{report} has no {path}", f"restore it with `git checkout {path}`, or {SYNC}")


def _check_pointer(store: Store, pointer: Pointer, entry: Entry | None) -> Iterator[Finding]:
    if pointer.problem is not None:
        yield Finding(pointer.name, pointer.problem, f"delete {pointer.path}, then {SYNC}")
    elif entry is None:
        yield Finding(pointer.name, f"{pointer.path} belongs to no stage of dvc.lock", f"delete {pointer.path}")
    elif pointer.run_id is None:
        yield Finding(pointer.name, "was not tracked (MLflow could not be reached)", SYNC)
    else:
        run = store.get_run(pointer.run_id)
        if run is None:
            yield Finding(pointer.name, f"run {pointer.run_id} is not in the store", SYNC)
        else:
            yield from _check_run(store, pointer, entry, run)


def _check_run(store: Store, pointer: Pointer, entry: Entry, run: Any) -> Iterator[Finding]:
    name = pointer.name
    if run.info.status != "FINISHED":
        yield Finding(name, f"run {pointer.run_id} is {run.info.status}, not FINISHED", SYNC)
    for tag, (has, wanted) in [*identity.differing(run.data.tags, entry).items()][:SHOWN]:
        told = f"is {has}" if has is not None else "is missing"
        yield Finding(name, f"tag {tag} {told}, dvc.lock has {wanted}", f"`dvc repro {name}`, or {SYNC}")
    wanted_metrics = mirror.stage_metrics(pointer.stage, pointer.key)
    yield from _check_metrics(name, wanted_metrics, run)
    parent, noted = parent_of(store, pointer.stage, pointer.key)
    if parent is None:
        return
    if run.data.tags.get(PARENT) != parent.info.run_id:
        yield Finding(name, f"is not a child of the train run {noted}", SYNC)
    yield from _check_metrics(f"{name} on its train run", mirror.headlines(pointer.stage, pointer.key), parent)


def _check_metrics(name: str, wanted: dict[str, float], run: Any) -> Iterator[Finding]:
    """The latest value of every metric is the one in the report."""
    wrong = [(metric, value) for metric, value in wanted.items() if run.data.metrics.get(metric) != value]
    for metric, value in wrong[:1]:
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        has = run.data.metrics.get(metric)
        told = f"is {has!r}" if has is not None else "is missing"
        yield Finding(name, f"metric {metric} {told}, the report has {value!r}{more}", SYNC)


def _dead_runs(store: Store) -> Iterator[Finding]:
    for run in store.search("attributes.status = 'RUNNING'"):
        if identity.alive(run.data.tags) is False:
            problem = f"run {run.info.run_id} is RUNNING, but its process is gone"
            yield Finding(run.info.run_name, problem, "`bdh sync` closes it, or the next stage that starts")
