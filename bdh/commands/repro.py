"""`bdh repro`: the pipeline with several runs at a time."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bdh.commands.console import say
from bdh.project.errors import HatcheryError
from bdh.project.files import enter_root, run_key, shape_key

if TYPE_CHECKING:
    from bdh.params import Params

DVC = [sys.executable, "-m", "dvc"]
LOGS = Path("data/logs")
CHAIN = ("train", "hebbian", "frontier")
TAIL_LINES = 12


class PipelineError(HatcheryError):
    """A stage of the pipeline failed."""


def repro(
    keys: Annotated[
        list[str] | None, typer.Argument(metavar="[RUN]...", help="Runs such as bdh-sample_plays-0; all without.")
    ] = None,
    jobs: Annotated[int, typer.Option(help="Runs at a time; each takes `threads` CPU threads.", min=1)] = 1,
) -> None:
    """Run the pipeline, `--jobs` runs at a time, spread over the GPUs if there are any; then close it with dvc repro.

    DVC itself runs one stage after the other. Corpora come first, then the untrained twins of every shape, then the
    chain train, hebbian, frontier of every run in a process of its own, then a plain `dvc repro`, which finds
    everything done and writes the comparison. A run with `train.devices` above 1 waits until as many GPUs are free for
    it. Results that had not to be computed again get their runs in MLflow at the end. With RUNs, theirs and the stages
    that they rest on run and no others: no comparison is written.
    """
    enter_root()
    from bdh.commands.doctor import obstacle
    from bdh.params import load

    wanted = gpus_wanted(load())
    for key in keys or ():
        if key not in wanted:
            raise PipelineError(f"{key} is no run of params.yaml; it names {', '.join(list(wanted)[:6])}, ...")
    if (found := obstacle()) is not None:
        raise PipelineError(f"{found.detail}; {found.remedy}")
    with this_python_first():
        if keys or jobs > 1:
            corpora = dict.fromkeys(key.split("-")[1] for key in keys or ())
            names = [f"{stage}@{name}" for stage in ("tokenize", "floors") for name in corpora]
            call([*DVC, "repro", "code", *(names or ("tokenize", "floors"))])
            params = load()
            wanted = gpus_wanted(params)
            shapes = dict.fromkeys(shape_key(*key.split("-")[:2]) for key in keys or wanted)
            run_chains(dict.fromkeys(shapes, 1), jobs, ("twins",))
            run_chains({key: wanted[key] for key in keys or wanted}, jobs)
        if not keys:
            call([*DVC, "repro"])
    fill_in_store()


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


def run_chains(wanted: dict[str, int | str], jobs: int, stages: Sequence[str] = CHAIN) -> None:
    """Run the `stages` of all keys, `jobs` at a time; raises PipelineError naming the first that failed and its log.

    `wanted` gives the GPUs of every key: a number or `all`.
    """
    LOGS.mkdir(parents=True, exist_ok=True)
    keys = list(wanted)
    pool_of_gpus = GpuPool(visible_gpus(), jobs)

    def one(key: str) -> tuple[str, int]:
        with pool_of_gpus.taken(wanted[key]) as gpus:
            environment = dict(os.environ) | {"HATCHERY_JOBS": str(jobs)}
            if gpus:
                environment["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
            command = [*DVC, "--wait-for-lock", "repro", "--single-item", *(f"{stage}@{key}" for stage in stages)]
            with (LOGS / f"{key}.log").open("w", encoding="utf-8") as log:
                return key, subprocess.run(command, stdout=log, stderr=log, env=environment, check=False).returncode

    with ThreadPoolExecutor(jobs) as pool:
        running = [pool.submit(one, key) for key in keys]
        for done, future in enumerate(as_completed(running), start=1):
            key, code = future.result()
            if code != 0:
                pool.shutdown(wait=True, cancel_futures=True)
                log = LOGS / f"{key}.log"
                say("\n".join(log.read_text(encoding="utf-8").splitlines()[-TAIL_LINES:]))
                raise PipelineError(f"{key} failed; all it said is in {log}; `dvc repro` goes on from what is done")
            say(f"{done}/{len(keys)} {key}")


class GpuPool:
    """Lends GPUs to `jobs` runs at a time, the least used ones first; runs share GPUs when there are fewer of those.

    A run of several GPUs waits until enough have room, so that no more than ceil(jobs / GPUs) runs use one.
    """

    def __init__(self, gpus: list[str], jobs: int) -> None:
        self.users = dict.fromkeys(gpus, 0)
        self.room = -(-jobs // len(gpus)) if gpus else 0
        self.change = threading.Condition()

    @contextmanager
    def taken(self, wanted: int | str) -> Iterator[list[str]]:
        """`wanted` GPUs (`all`, or more than there are: every one) for the block, in the order of the machine."""
        count = len(self.users) if wanted == "all" else min(int(wanted), len(self.users))
        with self.change:
            self.change.wait_for(lambda: len(self._free()) >= count)
            chosen = sorted(self._free(), key=self.users.__getitem__)[:count]
            for gpu in chosen:
                self.users[gpu] += 1
        try:
            yield [gpu for gpu in self.users if gpu in chosen]
        finally:
            with self.change:
                for gpu in chosen:
                    self.users[gpu] -= 1
                self.change.notify_all()

    def _free(self) -> list[str]:
        return [gpu for gpu, users in self.users.items() if users < self.room]


def visible_gpus() -> list[str]:
    """Indices or ids of the GPUs that this process may use, without importing torch."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [part.strip() for part in named.split(",") if part.strip()]
    import pynvml

    try:
        pynvml.nvmlInit()
        return [str(index) for index in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError:
        return []


def call(command: list[str]) -> None:
    """Run a command in the foreground; raises PipelineError when it fails."""
    code = subprocess.run(command, check=False).returncode
    if code != 0:
        raise PipelineError(f"`{' '.join(command[2:])}` ended with {code}; see above, then run it again")


def fill_in_store() -> None:
    """Runs in MLflow for results that git brought; like all tracking it warns and never fails."""
    from bdh.tracking.session import ADVICE, wanted
    from bdh.tracking.store import open_store, short, shown
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
