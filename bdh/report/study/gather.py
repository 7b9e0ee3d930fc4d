"""Results come into a study: the small files of finished cells, checked against its settings, with where they are from.

Weights and states stay behind. Samples quote the corpus: they are taken where the licence of its text is established.
"""

from __future__ import annotations

import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bdh.params import Params, load
from bdh.project.errors import ParamsError
from bdh.project.files import (
    CODE,
    REPORTS,
    RESULTS,
    exported,
    read_json,
    replacing,
    result_path,
    shape_key,
    write_json,
)
from bdh.project.lockfile import LockedStage, file_md5, load_lock, load_yaml, lookup, stage_name
from bdh.report.study.plan import NEEDED, PARAMS, STAGES, Study, StudyCell, StudyError, contradictions, settings_of

LOCK = "dvc.lock"
RECORD = "run/{stage}/{key}.json"
BESIDE = {
    "train": ("data/runs/{key}/weight_changes.json", "data/runs/{key}/samples.json"),
    "hebbian": ("data/hebbian/{key}/units.parquet",),
    "frontier": (),
}
"""Files that are taken along where they are, as is the record of when and as which MLflow run a result was made."""

STATS, FLOORS = "data/tokens/{corpus}/stats.json", "floors/{corpus}.json"
QUOTES = "samples.json"
UNKNOWN_LICENCE = "not established"


def add(study: Study, source: Path, commit: str | None = None) -> tuple[list[str], list[str]]:
    """Take the finished cells of a project (a folder, one folder per recipe in it, or a tar of either) into the study.

    commit: of the code that made them; that of the folder's own git without. Returns the names of cells taken, with
    their stages, and what was refused, with the reasons. To do it again changes nothing.
    """
    taken: list[str] = []
    refused: list[str] = []
    with _unpacked(source) as folder:
        for project in projects(folder):
            done, left = _add_project(study, project, commit or commit_of(project))
            taken, refused = taken + done, refused + left
    return taken, refused


def pack(study: Study, source: Path, target: Path) -> int:
    """Write what `add` would take of the projects at `source` into a compressed tar; returns the number of files."""
    count = 0
    with replacing(target) as temporary, tarfile.open(temporary, "w:gz") as archive:
        for project in projects(source):
            params = load(project / PARAMS)
            names = [PARAMS, LOCK]
            for cell in study.of(params.recipe):
                names += [path.relative_to(project).as_posix() for path in _files(project, cell, STAGES)]
                names.append((CODE / "train" / f"{cell.variant}.json").as_posix())
            for name in dict.fromkeys(names):
                if (project / name).is_file() and not _withheld(project, name):
                    archive.add(project / name, arcname=f"{params.recipe}/{name}")
                    count += 1
    return count


def projects(folder: Path) -> list[Path]:
    """The folder itself when it has a params.yaml, or those of its folders that have one."""
    if (folder / PARAMS).is_file():
        return [folder]
    found = sorted(path.parent for path in folder.glob(f"*/{PARAMS}"))
    if not found:
        raise StudyError(f"{folder} holds no {PARAMS}, nor does a folder in it; name a project in which cells were run")
    return found


def commit_of(project: Path) -> str:
    """The commit that is checked out around a project; StudyError outside git."""
    try:
        told = subprocess.run(["git", "rev-parse", "HEAD"], cwd=project, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        raise StudyError(
            f"{project} is in no git repository; say --commit HASH: that of the code it ran with"
        ) from None
    return told.stdout.strip()


@contextmanager
def _unpacked(source: Path) -> Iterator[Path]:
    if source.is_dir():
        yield source
        return
    if not source.is_file():
        raise StudyError(f"{source} is neither a folder nor a tar file")
    with tempfile.TemporaryDirectory(prefix="bdh-study-") as folder:
        try:
            with tarfile.open(source) as archive:
                archive.extractall(folder, filter="data")
        except (tarfile.TarError, OSError, EOFError) as error:
            raise StudyError(f"{source} cannot be unpacked ({error})") from None
        yield Path(folder)


def _add_project(study: Study, project: Path, commit: str) -> tuple[list[str], list[str]]:
    params = load(project / PARAMS)
    if params.scale != study.params.scale:
        return [], [f"{project / PARAMS}: scale is {params.scale}, the study's is {study.params.scale}"]
    lock, raw_params, home = load_lock(project / LOCK), load_yaml(project / PARAMS), study.home(params.recipe)
    taken, refused = [], []
    locked: dict[str, Any] = {}
    raw = load_yaml(project / LOCK).get("stages") or {}
    for cell in study.of(params.recipe):
        stages: list[str] = []
        for stage in STAGES:
            if not all(path.is_file() for path in _needed(project, cell, stage)):
                break
            reason = _refusal(study, cell, stage, project, params, raw_params, lock)
            if reason:
                refused.append(f"{cell.name}: {stage}: {reason}")
                break
            stages.append(stage)
        if not stages:
            continue
        _take(cell, stages, project, home, params, commit)
        names = [stage_name(stage, cell.key) for stage in stages]
        names += [stage_name(stage, cell.corpus) for stage in ("fetch", "tokenize", "floors")]
        names.append(stage_name("twins", shape_key(cell.variant, cell.corpus)))
        locked |= {name: raw[name] for name in ("code", *names) if name in raw}
        taken.append(f"{cell.name}: {', '.join(stages)}")
    if locked:
        _merge_lock(home / LOCK, locked)
    planned = {cell.key for cell in study.of(params.recipe)}
    for variant, corpus, seed in params.runs():
        cell = StudyCell(params.recipe, variant, corpus, seed)
        if cell.key not in planned and _needed(project, cell, "train")[0].is_file():
            refused.append(f"{cell.name}: not in the plan; name it in {study.folder}/study.yaml first")
    return taken, refused


def _refusal(
    study: Study,
    cell: StudyCell,
    stage: str,
    project: Path,
    params: Params,
    raw_params: Mapping[str, Any],
    lock: Mapping[str, LockedStage],
) -> str:
    """Why the result of a stage must not come into the study; empty where it may."""
    entry = lock.get(stage_name(stage, cell.key))
    if entry is None:
        return f"{LOCK} has no entry of it: was it made by the pipeline?"
    for name, value in entry.params.items():
        if lookup(raw_params, name) != value:
            return f"it ran with another {name} than {PARAMS} beside it says"
    report = _needed(project, cell, stage)[0]
    name = NEEDED[stage][0].format(key=cell.key)
    locked = (entry.outs.get((home / name).as_posix()) for home in (RESULTS, REPORTS))
    if file_md5(report) not in locked:
        return f"{report.relative_to(project)} is not the file that {LOCK} names"
    if stage == "train" and (reason := _other_code(cell, project, params, entry)):
        return reason
    facts = _facts(project, cell.corpus)
    if not all(path.is_file() for path in facts):
        return f"{' or '.join(path.relative_to(project).as_posix() for path in facts)} is missing"
    try:
        wanted = settings_of(study.settings(cell.recipe, [cell]), cell)[stage]
    except ParamsError as error:
        return str(error)
    odd = contradictions(settings_of(params, cell)[stage], wanted)
    return odd[0] if odd else ""


def _other_code(cell: StudyCell, project: Path, params: Params, entry: LockedStage) -> str:
    """What a preset inherits is not in dvc.lock itself, but in a manifest that dvc.lock names."""
    manifest = CODE / "train" / f"{cell.variant}.json"
    if not (project / manifest).is_file():
        return f"{manifest.as_posix()} is missing: it says which settings were inherited"
    if entry.deps.get(manifest.as_posix()) != file_md5(project / manifest):
        return f"{manifest.as_posix()} is not the file that {LOCK} names: settings have changed since it ran"
    if read_json(project / manifest).get("inherited") != params.inherited_by(cell.variant):
        return f"it ran with other inherited settings than {PARAMS} beside it says"
    return ""


def _take(cell: StudyCell, stages: list[str], project: Path, home: Path, params: Params, commit: str) -> None:
    for source in _files(project, cell, stages):
        name = source.relative_to(project)
        if source.is_file() and not _withheld(project, name.as_posix()):
            with replacing(home / exported(name)) as temporary:
                shutil.copyfile(source, temporary)
    path = home / "origin" / f"{cell.key}.json"
    origin = read_json(path) if path.exists() else {}
    settings = settings_of(params, cell)
    write_json(path, origin | {stage: {"commit": commit, "settings": settings[stage]} for stage in stages})


def _needed(project: Path, cell: StudyCell, stage: str) -> list[Path]:
    return [result_path(name.format(key=cell.key), project) for name in NEEDED[stage]]


def _facts(project: Path, corpus: str) -> list[Path]:
    return [project / STATS.format(corpus=corpus), result_path(FLOORS.format(corpus=corpus), project)]


def _files(project: Path, cell: StudyCell, stages: Sequence[str]) -> list[Path]:
    """Everything of a cell that a study takes, where its project has it."""
    found = _facts(project, cell.corpus)
    for stage in stages:
        found += _needed(project, cell, stage)
        found.append(result_path(RECORD.format(stage=stage, key=cell.key), project))
        found += [project / name.format(key=cell.key) for name in BESIDE[stage]]
    return found


def _withheld(project: Path, name: str) -> bool:
    """Whether a file quotes a text that nobody may publish: samples of a corpus whose licence is not established."""
    if not name.endswith(QUOTES):
        return False
    corpus = Path(name).parent.name.split("-")[1]
    stats = read_json(project / STATS.format(corpus=corpus))
    return any(str(part.get("licence", "")).startswith(UNKNOWN_LICENCE) for part in stats["provenance"])


def _merge_lock(path: Path, stages: Mapping[str, Any]) -> None:
    """Put the entries of stages into the study's dvc.lock, in the order of their names."""
    from ruamel.yaml import YAML

    merged = (load_yaml(path).get("stages") or {}) | dict(stages)
    writer = YAML()
    writer.width = 120
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as stream:
        writer.dump({"schema": "2.0", "stages": dict(sorted(merged.items()))}, stream)
