"""`bdh reproduce`: one run made again from its commit and settings, and set beside what it gave."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from bdh.commands.console import say, show_table
from bdh.commands.repro import DVC, this_python_first
from bdh.commands.schedule import run_in_foreground
from bdh.project.errors import HatcheryError
from bdh.project.files import enter_root, read_json, result_path
from bdh.project.origin import Origin, environment, origin_of

WORK = Path("data/reproduced")
STAGES = ("train", "hebbian", "frontier")
TOLERANCE = 0.01
HEADLINES = (
    "train/validation/nats_per_token",
    "hebbian/arms/static/nats_per_token",
    "hebbian/arms/carry/nats_per_token",
)
"""Losses: what must agree within the tolerance. All other numbers are compared and told."""

RUN_ID_LENGTH = 32


class ReproduceError(HatcheryError):
    """A run cannot be made again."""


@dataclass(frozen=True)
class Recorded:
    """A run as it is recorded: its key, what it was made from, and its results by stage."""

    key: str
    origin: Origin
    results: Mapping[str, Any]


def reproduce(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="A run such as bdh-sample_plays-0, or the id of its MLflow run.")
    ],
    tolerance: Annotated[
        float, typer.Option(help="Largest relative difference of a loss, where another machine ran.", min=0.0)
    ] = TOLERANCE,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the folder in which it was made again.")] = False,
) -> None:
    """Make a run again from its commit and settings, in a folder of its own, and compare every number.

    Nothing is taken from a cache: corpus, training and evaluations run anew. On the same kind of machine with the same
    releases every number must be equal; on another the losses may differ by `--tolerance` (relative). Exit code 1 where
    they differ by more. A row of a study: `bdh study run`.
    """
    enter_root()
    recorded = from_store(run) if _is_run_id(run) else from_files(run)
    made = recorded.origin
    if made.commit is None:
        raise ReproduceError(f"{run} was made outside git: no commit says of which code; run the pipeline again")
    if made.uncommitted:
        raise ReproduceError(
            f"{run} was made with edits that are in no commit ({', '.join(made.uncommitted[:3])}): commit and run again"
        )
    folder = (WORK / recorded.key).absolute()
    check_out(folder, made)
    try:
        with this_python_first():
            _run_stages(folder, recorded.key)
        again = {stage: read_json(result_path(f"{stage}/{recorded.key}.json", folder)) for stage in recorded.results}
    finally:
        if not keep:
            remove(folder)
    _tell(recorded, again, tolerance)


def _is_run_id(text: str) -> bool:
    return len(text) == RUN_ID_LENGTH and all(letter in "0123456789abcdef" for letter in text)


def from_files(key: str) -> Recorded:
    """A run of this project, from its small files. Raises RunError where one is missing or damaged.

    The origin of its last stage counts: what the earlier ones are made from was the same then, or they had run again.
    """
    paths = {stage: result_path(f"{stage}/{key}.json") for stage in STAGES}
    results = {stage: read_json(path) for stage, path in paths.items() if stage == "train" or path.exists()}
    return Recorded(key, origin_of(list(results)[-1], key), results)


def from_store(run_id: str) -> Recorded:
    """A training in MLflow, with the evaluations that belong to it.

    Raises ReproduceError where there is none, StoreError where it lacks an artifact.
    """
    from bdh.tracking.store import open_store

    store = open_store()
    found = store.get_run(run_id)
    if found is None or found.data.tags.get("stage") != "train":
        raise ReproduceError(f"{run_id} is no training in {store.uri}; name the run of a training")
    key = found.data.tags["key"]
    children = store.search(f"tags.mlflow.parentRunId = '{found.info.run_id}'")
    runs = {"train": found} | {child.data.tags.get("stage"): child for child in children}
    there = [stage for stage in STAGES if stage in runs]
    results = {stage: json.loads(store.read(runs[stage].info.run_id, f"{stage}/{key}.json")) for stage in there}
    made = json.loads(store.read(runs[there[-1]].info.run_id, f"origin/{key}.json"))
    return Recorded(key, Origin.model_validate(made), results)


def check_out(folder: Path, made: Origin) -> None:
    """A worktree of the commit with its settings and an empty DVC cache."""
    remove(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    assert made.commit is not None
    _git("worktree", "prune")
    _git("worktree", "add", "--detach", "--force", str(folder), made.commit)
    shutil.rmtree(folder / "reports", ignore_errors=True)
    (folder / "dvc.lock").unlink(missing_ok=True)
    if made.params_patch:
        _git("apply", "--whitespace=nowarn", "-", folder=folder, text=made.params_patch)
    (folder / ".dvc/config.local").write_text("[cache]\n    dir = cache\n", encoding="utf-8")


def remove(folder: Path) -> None:
    """Remove a worktree that is there."""
    if folder.exists():
        _git("worktree", "remove", "--force", str(folder))


def _git(*words: str, folder: Path = Path(), text: str | None = None) -> None:
    done = subprocess.run(["git", *words], cwd=folder, input=text, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        told = done.stderr.strip().splitlines()
        raise ReproduceError(f"`git {words[0]} {words[1]}`: {told[-1] if told else done.returncode}")


def _run_stages(folder: Path, key: str) -> None:
    before = Path.cwd(), os.environ.get("BDH_TRACKING"), os.environ.get("PYTHONPATH")
    os.chdir(folder)
    os.environ |= {"BDH_TRACKING": "off", "PYTHONPATH": str(folder)}
    try:
        code = run_in_foreground([*DVC, "repro", *(f"{stage}@{key}" for stage in STAGES)])
    finally:
        os.chdir(before[0])
        for name, value in zip(("BDH_TRACKING", "PYTHONPATH"), before[1:], strict=True):
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
    if code != 0:
        raise ReproduceError(f"`dvc repro` ended with {code} in {folder}; see above (`--keep` keeps the folder)")


def numbers(value: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """Every number below a value of a JSON file, by its path."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from numbers(inner, f"{name}/{key}" if name else key)
    elif isinstance(value, list):
        for at, inner in enumerate(value):
            yield from numbers(inner, f"{name}/{at}")
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield name, float(value)


def verdicts(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Every verdict below a value of a JSON file, by its path."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if key == "verdict" and isinstance(inner, str):
                yield name, inner
            yield from verdicts(inner, f"{name}/{key}" if name else key)


def difference(a: float | None, b: float | None) -> float:
    """Relative to the larger of two numbers; infinite where one is missing."""
    if a is None or b is None:
        return math.inf
    return 0.0 if a == b else abs(a - b) / max(abs(a), abs(b))


def _tell(recorded: Recorded, again: Mapping[str, Any], tolerance: float) -> None:
    first, second = dict(numbers(recorded.results)), dict(numbers(again))
    apart = {name: difference(first.get(name), second.get(name)) for name in sorted(first.keys() | second.keys())}
    differing = {name: size for name, size in apart.items() if size}
    if not differing:
        say(f"{recorded.key} is reproduced: {len(first)} numbers, all equal")
        return
    rows = [
        (name, _shown(first.get(name)), _shown(second.get(name)), f"{apart[name]:.1e}")
        for name in HEADLINES
        if name in apart
    ]
    show_table(("loss", "recorded", "now", "relative difference"), rows)
    worst = max(differing, key=lambda name: differing[name])
    say(f"{len(differing)} of {len(apart)} numbers differ, most of all {worst} ({differing[worst]:.1e})")
    before, now = dict(verdicts(recorded.results)), dict(verdicts(again))
    changed = [name for name in before if before[name] != now.get(name)]
    for name in changed:
        say(f"{name}: was {before[name]}, is {now.get(name, 'gone')}")
    say(f"{len(before)} verdicts, {len(changed)} of them changed")
    here = environment()
    for name, was in recorded.origin.environment.items():
        if here.get(name) != was:
            say(f"{name}: was {was}, is {here.get(name)}")
    if any(apart.get(name, 0.0) > tolerance for name in HEADLINES):
        say(f"{recorded.key} is not reproduced: a loss differs by more than {tolerance:g} of it")
        raise typer.Exit(1)
    say(f"{recorded.key} is reproduced to {tolerance:g} of every loss")


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.6g}"
