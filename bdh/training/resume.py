"""Checkpoints for going on after a kill: outside the pipeline's outputs, one folder per run and fingerprint.

data/checkpoints/<key>.lock                      held by the one process that trains the run
data/checkpoints/<key>.owner.json                who that is and whether it is on its way out
data/checkpoints/<key>/<fingerprint>/<step>/     tensors.safetensors and rest.json, the last KEPT of them

A checkpoint is written into a folder of another name and renamed when it is complete, so a kill at any moment leaves
the earlier ones. Both files carry a sha256: a damaged checkpoint is passed over with a warning.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
from safetensors import SafetensorError
from safetensors.torch import load as deserialize
from safetensors.torch import load_file, save_file
from safetensors.torch import save as serialize
from torch import Tensor

from bdh.project.errors import RunError, TrainingError, one_line
from bdh.project.files import CHECKPOINTS, write_json
from bdh.project.processes import Stop
from bdh.training.distributed.group import ProcessGroup

KEPT = 2
TENSORS = "tensors.safetensors"
REST = "rest.json"
DYING_S = 60.0
GRACE_S = 5.0
log = logging.getLogger(__name__)


class CheckpointError(TrainingError):
    """A checkpoint cannot be written."""


@dataclass(frozen=True)
class Checkpoint:
    """All of a training at one step: tensors by name, and everything else as JSON values."""

    step: int
    tensors: dict[str, Tensor]
    rest: dict[str, Any]


def fingerprint(parts: Mapping[str, Any]) -> str:
    """16 hexadecimal digits that differ when anything that a training depends on differs."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


class CheckpointFolder:
    """Checkpoints of one run with one fingerprint; the caller holds the run's lock."""

    def __init__(self, key: str, fingerprint: str, root: Path = CHECKPOINTS) -> None:
        self.path = root / key / fingerprint

    def prepare(self) -> None:
        """Make the folder; delete (and say so) checkpoints of other fingerprints, and what a kill left half-written."""
        self.path.mkdir(parents=True, exist_ok=True)
        for other in self.path.parent.iterdir():
            if other == self.path:
                continue
            if steps := sorted(int(step.name) for step in other.glob("[0-9]*")):
                sys.stderr.write(
                    f"{self.path.parent.name}: the checkpoint of step {steps[-1]} is of other settings, text or "
                    "code and is deleted; training begins anew (train.init_from: RUN begins with a run's weights)\n"
                )
            shutil.rmtree(other, ignore_errors=True)
        for partial in self.path.glob(".partial-*"):
            shutil.rmtree(partial, ignore_errors=True)

    def write(self, checkpoint: Checkpoint) -> None:
        """Add a checkpoint and drop the oldest; CheckpointError when it cannot be written, earlier ones are kept."""
        partial = self.path / f".partial-{checkpoint.step}"
        try:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            save_file(checkpoint.tensors, partial / TENSORS)
            content = json.dumps(checkpoint.rest, allow_nan=False)
            sums = {"tensors": _sha256(partial / TENSORS), "content": hashlib.sha256(content.encode()).hexdigest()}
            (partial / REST).write_text(json.dumps(sums) + "\n" + content + "\n", encoding="utf-8")
            for path in (partial / TENSORS, partial / REST, partial):
                _flush(path)
            final = self.path / str(checkpoint.step)
            shutil.rmtree(final, ignore_errors=True)
            partial.rename(final)
            _flush(self.path)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(partial, ignore_errors=True)
            kept = self.steps()
            earlier = f"the checkpoint of step {kept[-1]} is kept" if kept else "there is no earlier one"
            raise CheckpointError(
                f"{self.path}: the checkpoint of step {checkpoint.step} cannot be written ({one_line(error)}), "
                f"{earlier}; free space there and run the same command again to go on"
            ) from error
        for step in self.steps()[:-KEPT]:
            shutil.rmtree(self.path / str(step), ignore_errors=True)

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, ascending."""
        return (
            sorted(int(path.name) for path in self.path.iterdir() if path.name.isdigit()) if self.path.exists() else []
        )

    def read(self) -> Checkpoint | None:
        """The newest sound checkpoint; damaged ones are deleted with a warning each."""
        for step in reversed(self.steps()):
            try:
                return self._read(step)
            except (OSError, ValueError, KeyError, SafetensorError) as error:
                log.warning("%s: damaged checkpoint passed over (%s)", self.path / str(step), one_line(error))
                shutil.rmtree(self.path / str(step), ignore_errors=True)
        return None

    def _read(self, step: int) -> Checkpoint:
        folder = self.path / str(step)
        header, _, content = (folder / REST).read_text(encoding="utf-8").partition("\n")
        sums, content = json.loads(header), content.rstrip("\n")
        if hashlib.sha256(content.encode()).hexdigest() != sums["content"]:
            raise ValueError(f"{REST} has changed")
        if _sha256(folder / TENSORS) != sums["tensors"]:
            raise ValueError(f"{TENSORS} has changed")
        return Checkpoint(step, load_file(folder / TENSORS), json.loads(content))

    def clear(self) -> None:
        """Delete everything: the run is complete."""
        shutil.rmtree(self.path, ignore_errors=True)
        with suppress(OSError):
            self.path.parent.rmdir()


def shared(group: ProcessGroup, checkpoint: Checkpoint | None) -> Checkpoint | None:
    """The checkpoint that rank 0 has read, on every rank; the folder need not be visible to the others."""
    if group.size == 1:
        return checkpoint
    told = None if checkpoint is None else json.dumps({"step": checkpoint.step, "rest": checkpoint.rest}).encode()
    head = group.share(told)
    tensors = group.share(None if checkpoint is None else serialize(checkpoint.tensors))
    if checkpoint is not None or not head:
        return checkpoint
    found = json.loads(head)
    return Checkpoint(found["step"], deserialize(tensors), found["rest"])


@contextmanager
def only_one(key: str, stop: Stop, root: Path = CHECKPOINTS) -> Iterator[None]:
    """Hold the lock of run `key`; it goes with the process, however that ends.

    A holder that was asked to stop is waited for (it is writing its last checkpoint); any other makes this raise
    RunError after GRACE_S seconds.
    """
    root.mkdir(parents=True, exist_ok=True)
    owner = root / f"{key}.owner.json"
    lock = filelock.FileLock(root / f"{key}.lock")
    _acquire(lock, key, owner)
    try:
        write_json(owner, {"pid": os.getpid(), "stopping": False})
        stop.when_requested(lambda: _note_stopping(owner))
        yield
    finally:
        owner.unlink(missing_ok=True)
        lock.release()


def _acquire(lock: filelock.BaseFileLock, key: str, owner: Path) -> None:
    started = time.monotonic()
    while True:
        try:
            lock.acquire(timeout=0.2)
            return
        except filelock.Timeout:
            holder = _read_owner(owner)
            waited = time.monotonic() - started
            if waited > (DYING_S if holder.get("stopping") else GRACE_S):
                pid = holder.get("pid", "unknown")
                raise RunError(
                    f"{key} is being trained by another process (pid {pid}); wait for it or stop it, then run again"
                ) from None


def _read_owner(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _note_stopping(owner: Path) -> None:
    with suppress(OSError):
        write_json(owner, {"pid": os.getpid(), "stopping": True})


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _flush(path: Path) -> None:
    """Push a file or folder to the disk, so that a power cut cannot reorder the rename before the content."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
