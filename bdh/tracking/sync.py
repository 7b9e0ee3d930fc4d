"""Whether dvc.lock, the pointers of results and the MLflow store agree (`audit`), and making them agree (`sync`).

A run belongs to a stage of dvc.lock when its tags say the same stage, parameters and inputs. `audit` looks both ways
and has a remedy for every disagreement. `sync` may be repeated and fills an empty store too: where the store lacks the
finished run of a stage, it is made again from the result files. The tag `original_run_id` of a run says for which
pointer it stands; pointers travel with the results and are never changed. Then children hang under their parents,
headlines stand beside the models, `dvc.out.*` tags are set. Trials of `bdh tune` (rows of docs/tuning.csv) are runs of
an experiment of their own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import FileLock

from bdh.params import load, named_settings
from bdh.project.errors import ParamsError
from bdh.project.files import RUNS, TOKENS, read_mapping, result_path, run_key
from bdh.project.lockfile import LockedStage, stage_and_key
from bdh.tracking import identity, mirror
from bdh.tracking.champions import crown
from bdh.tracking.identity import Pointer, all_pointers, read_pointer, tracked_entries
from bdh.tracking.mirror import is_number
from bdh.tracking.record import Record, plain_tags
from bdh.tracking.runs import (
    MISSING_PARENT,
    PARENT,
    copy_headlines,
    mirror_reports,
    parent_of,
    parent_tags,
    run_of,
    sweep,
)
from bdh.tracking.store import EXPERIMENT, ORIGINAL, Store, root

SYNC = "`bdh sync` fills the store in"
SHOWN = 3


@dataclass(frozen=True)
class Action:
    """What was done for one stage: kept, found, rebuilt or skipped, and why or with which run."""

    name: str
    done: str
    detail: str


def sync(store: Store) -> list[Action]:
    """Make the store agree with dvc.lock and the results; a second process waits, so no run is made twice."""
    with FileLock(root() / "mlflow.db.sync.lock"):
        actions = [Action(run_id, "closed", "its process is gone") for run_id in sweep(store)]
        actions += [_sync_one(store, entry) for entry in tracked_entries()]
        summary = mirror.main_report("compare", "all")
        crown(store, read_mapping(summary) if summary.exists() else {})
    return actions


def fill_in(store: Store) -> int:
    """`sync` if a result of the comparison has no run in this store, as in a fresh clone; how many runs it made again.

    A stage that DVC finds done does not run, so nothing else would show it to this store. Results of runs that
    params.yaml no longer names are left as they are. Raises ParamsError when params.yaml has a mistake.
    """
    keys = {run_key(*run) for run in load().runs()} | {"all"}
    pointers = (pointer for pointer in all_pointers() if pointer.key in keys)
    if all(run_of(store, pointer.name, pointer) is not None for pointer in pointers):
        return 0
    return sum(action.done == "rebuilt" for action in sync(store))


def _sync_one(store: Store, entry: LockedStage) -> Action:
    stage, key = stage_and_key(entry.name)
    report = mirror.main_report(stage, key)
    if not report.exists():
        return Action(entry.name, "skipped", f"{report} is missing; `dvc repro {entry.name}` makes it")
    pointer = read_pointer(stage, key)
    named, run = run_of(store, entry.name, pointer), _matching(store, entry, pointer)
    done = "kept" if run is not None and named is not None and run.info.run_id == named.info.run_id else "found"
    if run is None:
        done, run_id = "rebuilt", _rebuild(store, entry, pointer)
    else:
        run_id = run.info.run_id
    if done != "kept":
        _let_stand_for(store, run_id, pointer)
    record = Record(store, run_id)
    mirror_reports(record, stage, key, files=done == "rebuilt")
    relation = parent_tags(store, stage, key)
    record.set_tags(identity.out_tags(entry) | relation)
    if PARENT in relation and run is not None and MISSING_PARENT in run.data.tags:
        store.client.delete_tag(run_id, MISSING_PARENT)
    if done == "rebuilt":
        record.end("FINISHED", _time_ms(pointer, "ended", entry))
    copy_headlines(store, stage, key)
    return Action(entry.name, done, run_id)


def _matching(store: Store, entry: LockedStage, pointer: Pointer | None) -> Any | None:
    """A finished run of this very stage, parameters and inputs; the one that the pointer names before others."""
    named = run_of(store, entry.name, pointer)
    others = store.search(f"attributes.status = 'FINISHED' AND tags.`dvc.stage` = '{entry.name}'")
    for run in [*([named] if named is not None else []), *others]:
        if run.info.status == "FINISHED" and not identity.differing(run.data.tags, entry):
            return run
    return None


def _let_stand_for(store: Store, run_id: str, pointer: Pointer | None) -> None:
    """From now on this run, and no other, is the one that the pointer names."""
    if pointer is None or pointer.run_id is None:
        return
    for other in store.search(f"tags.{ORIGINAL} = '{pointer.run_id}'"):
        store.client.delete_tag(other.info.run_id, ORIGINAL)
    if run_id != pointer.run_id:
        store.client.set_tag(run_id, ORIGINAL, pointer.run_id)


def _rebuild(store: Store, entry: LockedStage, pointer: Pointer | None) -> str:
    """A run made from dvc.lock and what the stage left behind, still RUNNING; returns its id."""
    stage, key = stage_and_key(entry.name)
    tags = identity.source_tags(stage) | identity.stage_tags(stage, key) | identity.lock_tags(entry)
    tags |= {"rebuilt": "true", "scale": _scale(entry)}
    started_ms = _time_ms(pointer, "started", entry)
    run = store.client.create_run(store.experiment_id, started_ms, plain_tags(tags), run_name=entry.name)
    record = Record(store, run.info.run_id, fresh=True)
    record.set_params(stage_params(entry))
    if stage != "compare":
        _, corpus, _ = key.split("-")
        path = str(TOKENS / corpus)
        digest = str(_config(key).get("corpus_digest") or entry.deps.get(path, ""))
        if digest:
            record.add_dataset(corpus, digest, path, "training" if stage == "train" else "test")
    return run.info.run_id


def _time_ms(pointer: Pointer | None, which: str, entry: LockedStage) -> int:
    """When the stage started or ended: as its pointer says, else when its report was written."""
    try:
        return int(datetime.fromisoformat((pointer.values if pointer else {})[which]).timestamp() * 1000)
    except (KeyError, TypeError, ValueError):
        return int(mirror.main_report(*stage_and_key(entry.name)).stat().st_mtime * 1000)


def _scale(entry: LockedStage) -> str:
    """The scale a stage ran at: the last part of its section's name, or for the comparison a parameter of its own."""
    named = (name.rpartition(".")[2] for name in entry.params if name.startswith(("scales.", "hebbian.", "frontier.")))
    return str(entry.params.get("scale") or next((name for name in named if name in ("laptop", "gpu")), ""))


def _read(path: Path) -> Mapping[str, Any]:
    return read_mapping(path) if path.exists() else {}


def _config(key: str) -> Mapping[str, Any]:
    return _read(RUNS / key / "config.json")


def stage_params(entry: LockedStage) -> dict[str, Any]:
    """Parameters of a stage as it records them itself, from dvc.lock and what the stage left behind.

    A training's are those of its config.json; without one they are put together from params.yaml with the values of
    dvc.lock laid over it. Of settings that are none any more (a variant or key is gone) it is the values of dvc.lock.
    """
    stage, key = stage_and_key(entry.name)
    if stage != "train":
        prefix = f"{stage}."
        return {name.removeprefix(prefix): value for name, value in entry.params.items()}
    variant, corpus, seed = key.split("-")
    config = _config(key)
    if not {"architecture", "train", "model"} <= config.keys():
        scale = {"scale": _scale(entry)} if _scale(entry) else {}
        try:
            params = load(values=entry.params | scale)
            config = {
                "architecture": params.architecture_of(variant),
                "train": params.train_of(variant, corpus).model_dump(),
                "model": params.model_of(variant, corpus),
            }
        except ParamsError:
            return dict(entry.params)
    named = named_settings(variant, config["architecture"], corpus, int(seed), config["train"], config["model"])
    return named | _machine(entry, key)


def _machine(entry: LockedStage, key: str) -> dict[str, Any]:
    """What a training ran on, as its timing says; what was asked for where there is none."""
    timing = _read(result_path(f"timing/{key}.json"))
    asked = ("device", "precision")
    found: dict[str, Any] = {name: entry.params[name] for name in asked if name in entry.params}
    found |= {name: timing[name] for name in ("device", "precision", "devices") if name in timing}
    return found | ({"device": "cuda"} if found.get("device") not in ("auto", "cpu") else {})


@dataclass(frozen=True)
class Disagreement:
    """Something that does not agree: about what, what is wrong, what to do."""

    subject: str
    problem: str
    remedy: str


def audit(store: Store) -> list[Disagreement]:
    """All disagreements; an empty list means that every result can be traced both ways."""
    entries = {entry.name: entry for entry in tracked_entries()}
    found = [*_missing_pointers(entries)]
    for pointer in all_pointers():
        found += _check_pointer(store, pointer, entries.get(pointer.name))
    return [*found, *_dead_runs(store)]


def _missing_pointers(entries: dict[str, LockedStage]) -> Iterator[Disagreement]:
    for name in entries:
        stage, key = stage_and_key(name)
        report, path = mirror.main_report(stage, key), mirror.noted_path(stage, key)
        if report.exists() and not path.exists():
            yield Disagreement(name, f"{report} has no {path}", f"`dvc checkout {name}`, or `dvc repro {name}`")


def _check_pointer(store: Store, pointer: Pointer, entry: LockedStage | None) -> Iterator[Disagreement]:
    if pointer.problem is not None:
        mend = f"delete {pointer.path}, then `dvc checkout {pointer.name}` or `dvc repro {pointer.name}`"
        yield Disagreement(pointer.name, pointer.problem, mend)
    elif entry is None:
        yield Disagreement(pointer.name, f"{pointer.path} belongs to no stage of dvc.lock", f"delete {pointer.path}")
    elif (run := run_of(store, pointer.name, pointer)) is not None:
        yield from _check_run(store, pointer, entry, run)
    elif pointer.run_id is None:
        yield Disagreement(pointer.name, "was not tracked (MLflow could not be reached)", SYNC)
    else:
        yield Disagreement(pointer.name, f"run {pointer.run_id} is not in the store", SYNC)


def _check_run(store: Store, pointer: Pointer, entry: LockedStage, run: Any) -> Iterator[Disagreement]:
    name = pointer.name
    if run.info.status != "FINISHED":
        yield Disagreement(name, f"run {run.info.run_id} is {run.info.status}, not FINISHED", SYNC)
    for tag, (has, wanted) in [*identity.differing(run.data.tags, entry).items()][:SHOWN]:
        told = f"is {has}" if has is not None else "is missing"
        yield Disagreement(name, f"tag {tag} {told}, dvc.lock has {wanted}", f"`dvc repro {name}`, or {SYNC}")
    wanted_metrics = mirror.stage_metrics(pointer.stage, pointer.key)
    yield from _check_metrics(name, wanted_metrics, run)
    parent, noted = parent_of(store, pointer.stage, pointer.key)
    if parent is None:
        return
    if run.data.tags.get(PARENT) != parent.info.run_id:
        yield Disagreement(name, f"is not a child of the train run {noted}", SYNC)
    yield from _check_metrics(f"{name} on its train run", mirror.headlines(pointer.stage, pointer.key), parent)


def _check_metrics(name: str, wanted: dict[str, float], run: Any) -> Iterator[Disagreement]:
    """The latest value of every metric is the one in the report."""
    wrong = [(metric, value) for metric, value in wanted.items() if run.data.metrics.get(metric) != value]
    for metric, value in wrong[:1]:
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        has = run.data.metrics.get(metric)
        told = f"is {has!r}" if has is not None else "is missing"
        yield Disagreement(name, f"metric {metric} {told}, the report has {value!r}{more}", SYNC)


def _dead_runs(store: Store) -> Iterator[Disagreement]:
    for run in store.search("attributes.status = 'RUNNING'"):
        if identity.alive(run.data.tags) is False:
            problem = f"run {run.info.run_id} is RUNNING, but its process is gone"
            yield Disagreement(run.info.run_name, problem, "`bdh sync` closes it, or the next stage that starts")


TUNING = f"{EXPERIMENT}-tuning"
TAG = "trial"
NAMES = ("scale", "corpus", "variant", "draw", "commit", "device")


def mirror_trials(store: Store, rows: list[dict[str, str]]) -> int:
    """Add the trials that the store lacks; how many. Equal rows make one run, so that repeating it adds nothing."""
    client = store.client
    experiment = client.get_experiment_by_name(TUNING)
    experiment_id = client.create_experiment(TUNING) if experiment is None else experiment.experiment_id
    known = _known_trials(client, experiment_id)
    missing = [row for row in rows if identity_of(row) not in known]
    for row in missing:
        tags = {name: row[name] for name in NAMES if row.get(name)} | {TAG: identity_of(row)}
        name = f"{row['variant']}-{row['corpus']}-{row['draw']}"
        run = client.create_run(experiment_id, tags=tags, run_name=name)
        for key, value in row.items():
            if key.startswith(("model.", "train.")) and value:
                client.log_param(run.info.run_id, key, value)
            elif key not in NAMES and (number := _number(value)) is not None:
                client.log_metric(run.info.run_id, key, number)
        client.set_terminated(run.info.run_id, "FAILED" if row.get("diverged_at") else "FINISHED")
    return len(missing)


def identity_of(row: Mapping[str, str]) -> str:
    """A trial by everything that its row says."""
    text = "\n".join(f"{name}={row[name]}" for name in sorted(row) if row[name])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _known_trials(client: Any, experiment_id: str) -> set[str]:
    found, token = set(), None
    while True:
        page = client.search_runs([experiment_id], max_results=1000, page_token=token)
        found |= {run.data.tags.get(TAG, "") for run in page}
        token = page.token
        if not token:
            return found


def _number(value: str | None) -> float | None:
    try:
        number = float(value or "")
    except ValueError:
        return None
    return number if is_number(number) else None
