"""`bdh repro`: the pipeline with several runs at a time."""

from __future__ import annotations

import os
import shlex
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from bdh.commands.console import say
from bdh.commands.costs import cost_of, visible_gpus
from bdh.commands.executors import starter
from bdh.commands.schedule import LOGS, Cards, Schedule, Starter, Work, run_in_foreground
from bdh.project.errors import HatcheryError, shown
from bdh.project.files import enter_root, run_key, shape_key

if TYPE_CHECKING:
    from bdh.params import Params

DVC = [sys.executable, "-m", "dvc"]
Executor = Literal["local", "submitit"]
TIMED_OUT = 124
"""Exit code after `--time-limit`, as that of `timeout`."""


class PipelineError(HatcheryError):
    """A stage of the pipeline failed."""


def repro(
    keys: Annotated[
        list[str] | None, typer.Argument(metavar="[RUN]...", help="Runs such as bdh-sample_plays-0; all without.")
    ] = None,
    jobs: Annotated[int, typer.Option(help="Runs at a time; each takes `threads` CPU threads.", min=1)] = 1,
    time_limit: Annotated[
        float | None,
        typer.Option(help="Seconds after which trainings stop at a checkpoint; the command goes on later."),
    ] = None,
    executor: Annotated[
        Executor, typer.Option(help="Processes of this machine, or jobs of submitit (Slurm), each in its own clone.")
    ] = "local",
    cluster: Annotated[
        str | None, typer.Option(help="With submitit: slurm or local; without, what submitit finds.")
    ] = None,
    slurm: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="With submitit: an option of sbatch such as partition=gpu."),
    ] = None,
) -> None:
    """Run the pipeline, `--jobs` runs at a time, spread over the GPUs if there are any; then close it with dvc repro.

    DVC itself runs one stage after the other. Corpora come first; then floors, the untrained twins of every shape and
    the chain train, hebbian, frontier of every run, each in a process of its own, packed on the GPUs by the memory and
    time that earlier runs of the variant took (without any: by guesses), the longest first; then a plain `dvc repro`,
    which finds everything done and writes the comparison. A run with `train.devices` above 1 waits until as many GPUs
    are free for it. Results that had not to be computed again get their runs in MLflow at the end. With RUNs, theirs
    and the stages that they rest on run and no others: no comparison is written.

    A run that fails stops no other; the end names each in a line, exit code 1. Stopped by `--time-limit` (exit code
    124), by a signal (128 + its number: 130 Ctrl-C, 143 SIGTERM) or the loss of the machine, the same command goes on:
    what is done is not done again, and trainings resume from their checkpoints.
    """
    enter_root()
    from bdh.commands.doctor import obstacle
    from bdh.params import load

    began = time.monotonic()
    known = set(gpus_wanted(load()))
    start = starter(executor, jobs, load().threads, cluster, slurm or ())
    for key in keys or ():
        if key not in known:
            raise PipelineError(f"{key} is no run of params.yaml; it names {', '.join(sorted(known)[:6])}, ...")
    if (found := obstacle()) is not None:
        raise PipelineError(f"{found.detail}; {found.remedy}")
    with this_python_first():
        if keys or jobs > 1 or time_limit is not None or start is not None:
            corpora = dict.fromkeys(key.split("-")[1] for key in keys or ())
            call([*DVC, "repro", "code", *([f"tokenize@{name}" for name in corpora] or ["tokenize"])])
            params = load()
            left = None if time_limit is None else max(0.0, time_limit - (time.monotonic() - began))
            run_chains(params, list(keys or gpus_wanted(params)), jobs, left, start)
        if not keys:
            call([*DVC, "repro"])
    fill_in_store()


def run_chains(
    params: Params, keys: list[str], jobs: int, limit_s: float | None = None, start: Starter | None = None
) -> None:
    """Run the chains of `keys` and the twins that they rest on; leaves with a code where one failed or was stopped."""
    cards = visible_gpus()
    works = works_of(params, keys, bool(cards), alone=start is None)
    outcome = Schedule(works, jobs, Cards(cards, jobs), limit_s=limit_s, start=start).run()
    for name, reason in outcome.failed.items():
        say(f"failed: {name} {reason} ({LOGS / f'{name}.log'})")
    if outcome.stopped:
        say(f"{len(outcome.done)} pieces are done, {len(outcome.left)} are left; the same command goes on with them")
        raise typer.Exit(TIMED_OUT if outcome.signum is None else 128 + outcome.signum)
    if outcome.failed:
        say(f"{len(outcome.failed)} of {len(outcome.failed) + len(outcome.done)} pieces failed; the others are done")
        raise typer.Exit(1)


def works_of(params: Params, keys: Sequence[str], gpu: bool, alone: bool = True) -> list[Work]:
    """Pieces of some runs: floors once per corpus, twins once per shape, training with stage B, frontier after both.

    alone: the stages of a piece run without those that they rest on; a clone has to get the results of those first.
    """
    wanted, works = gpus_wanted(params), {}
    for key in keys:
        variant, corpus, seed = key.split("-")
        cost, shape = cost_of(params, variant, corpus, int(seed), gpu), shape_key(variant, corpus)
        floors = f"floors-{corpus}"
        works[floors] = Work(floors, _repro(alone, f"floors@{corpus}"), gpus=0, urgent=True)
        twins, trained = f"twins-{shape}", f"{key}-train"
        works[twins] = Work(
            twins, _repro(alone, f"twins@{shape}"), memory=cost.memory, seconds=cost.evaluation, urgent=True
        )
        works[trained] = Work(
            trained,
            _repro(alone, f"train@{key}", f"hebbian@{key}"),
            gpus=wanted[key],
            memory=cost.memory,
            seconds=cost.training + cost.evaluation,
        )
        works[key] = Work(
            key,
            _repro(alone, f"frontier@{key}"),
            frozenset((twins, trained)),
            memory=cost.memory,
            seconds=cost.evaluation,
            urgent=True,
        )
    return list(works.values())


def _repro(alone: bool, *stages: str) -> tuple[str, ...]:
    return (*DVC, "--wait-for-lock", "repro", *(["--single-item"] if alone else []), *stages)


@contextmanager
def this_python_first() -> Iterator[None]:
    """Let `python` mean the interpreter that runs this command: DVC starts stages with the first one on the PATH."""
    before, folder = os.environ.get("PATH"), Path(sys.executable).parent
    with tempfile.TemporaryDirectory(prefix="bdh-") as own:
        if not (folder / "python").exists():
            folder = Path(own)
            (folder / "python").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n', encoding="utf-8")
            (folder / "python").chmod(0o755)
        os.environ["PATH"] = os.pathsep.join([str(folder), before or os.defpath])
        try:
            yield
        finally:
            os.environ["PATH"] = before or os.defpath


def gpus_wanted(params: Params) -> dict[str, int | str]:
    """`train.devices` of every run by its key, in the order of the pipeline; 1 where nothing is trained."""
    wanted: dict[str, int | str] = {}
    for variant, corpus, seed in params.runs():
        train = params.train_of(variant, corpus)
        wanted[run_key(variant, corpus, seed)] = 1 if train.regime == "none" else train.devices
    return wanted


def call(command: list[str]) -> None:
    """Run a command in the foreground; raises PipelineError when it fails, Stopped after a signal."""
    code = run_in_foreground(command)
    if code != 0:
        raise PipelineError(f"`{' '.join(command[2:])}` ended with {code}; see above, then run it again")


def fill_in_store() -> None:
    """Runs in MLflow for results that git brought; like all tracking it warns and never fails."""
    from bdh.tracking.session import ADVICE, wanted
    from bdh.tracking.store import open_store, short
    from bdh.tracking.sync import fill_in

    if not wanted():
        return
    try:
        store = open_store()
        filled = fill_in(store)
    except Exception as error:  # whatever a store or its server raises
        say(f"warning: tracking: {short(error)}; {ADVICE}")
        return
    if filled:
        say(f"{shown(store.uri)}: filled in from results that had not to be computed again: {filled}")
