"""`bdh repro`: the pipeline with several runs at a time."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from queue import SimpleQueue
from typing import Annotated

import typer

from bdh.commands.console import say
from bdh.errors import HatcheryError
from bdh.files import run_key
from bdh.repository import enter_root

DVC = [sys.executable, "-m", "dvc"]
LOGS = Path("data/logs")
CHAIN = ("train", "hebbian", "frontier")
TAIL_LINES = 12


class PipelineError(HatcheryError):
    """A stage of the pipeline failed."""


def repro(
    jobs: Annotated[int, typer.Option(help="Runs at a time; each takes `threads` CPU threads.", min=1)] = 1,
) -> None:
    """Run the pipeline, `--jobs` runs at a time, spread over the GPUs if there are any; then close it with dvc repro.

    DVC itself runs one stage after the other. Corpora come first, then the chain train, hebbian, frontier of every
    run in a process of its own, then a plain `dvc repro`, which finds everything done and writes the comparison.
    """
    enter_root()
    from bdh.params import load

    keys = [run_key(*run) for run in load().runs()]
    if jobs > 1:
        call([*DVC, "repro", "code", "tokenize"])
        run_chains(keys, jobs)
    call([*DVC, "repro"])


def run_chains(keys: list[str], jobs: int) -> None:
    """Run the chains of all keys, `jobs` at a time; raises PipelineError naming the first that failed and its log."""
    LOGS.mkdir(parents=True, exist_ok=True)
    slots: SimpleQueue[int] = SimpleQueue()
    for slot in range(jobs):
        slots.put(slot)
    gpus = visible_gpus()

    def one(key: str) -> tuple[str, int]:
        slot = slots.get()
        environment = dict(os.environ)
        if gpus:
            environment["CUDA_VISIBLE_DEVICES"] = gpus[slot % len(gpus)]
        try:
            command = [*DVC, "--wait-for-lock", "repro", "--single-item", *(f"{stage}@{key}" for stage in CHAIN)]
            with (LOGS / f"{key}.log").open("w", encoding="utf-8") as log:
                return key, subprocess.run(command, stdout=log, stderr=log, env=environment, check=False).returncode
        finally:
            slots.put(slot)

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
