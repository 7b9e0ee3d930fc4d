"""Where the files of a corpus came from: provenance.json beside them."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import filelock
from pydantic import ConfigDict

from bdh.project.errors import CorpusError
from bdh.project.files import read_as, write_json

FILE = "provenance.json"
MOST_ORIGINS = 64


@contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """Yield a fresh folder beside `folder`; on success it takes its place.

    One process of this machine at a time: a second one (after dvc was killed and started again) waits for the first.
    The lock lies in the machine's folder for temporary files, so none is left in the project.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f".{folder.name}.partial")
    named = hashlib.sha256(str(folder.absolute()).encode()).hexdigest()[:16]
    lock = filelock.FileLock(Path(tempfile.gettempdir()) / f"hatchery-{os.getuid()}-{named}.lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        sys.stderr.write(f"{folder}: waiting for another process that writes it\n")
        lock.acquire()
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        yield partial
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        lock.release()


@dataclass(frozen=True)
class FetchedFile:
    """One file of a corpus; `pinned` says that its sha256 is among those that params.yaml accepts.

    changed: what stage fetch did to make plain UTF-8 of it, None for a file that is as it came; `bytes` and `sha256`
    are those of the plain file, `original` is the sha256 of what came.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    name: str
    origin: str
    source: str
    bytes: int
    sha256: str
    pinned: bool
    licence: str
    changed: str | None = None
    original: str | None = None


@dataclass(frozen=True)
class Provenance:
    """`source` is mirror, url, local, hub or generated; `text` names the (first) file that holds documents.

    texts: all files that hold documents in their order, empty where there is one. revision: the commit of a data set.
    No time and no place of this machine stand in it, so that equal files have equal provenance everywhere.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    source: str
    text: str
    files: tuple[FetchedFile, ...]
    texts: tuple[str, ...] = ()
    revision: str | None = None

    @classmethod
    def read(cls, folder: Path) -> Provenance:
        """The provenance of the corpus in `folder`.

        Raises CorpusError when the corpus was not fetched, or its provenance is not what `write` writes.
        """
        if not (folder / FILE).is_file():
            raise CorpusError(f"{folder} holds no fetched corpus; `dvc repro fetch@{folder.name}` fetches it")
        remedy = f"`dvc repro -f fetch@{folder.name}` makes it again"
        found = read_as(cls, folder / FILE, "stage fetch", remedy, CorpusError)
        unknown = set(found.documents()) - {file.name for file in found.files}
        if unknown:
            raise CorpusError(f"{folder / FILE} names {min(unknown)!r} and does not describe it (files); {remedy}")
        return found

    def write(self, folder: Path) -> None:
        """Write provenance.json into `folder`; what does not apply to a corpus has no key."""
        write_json(folder / FILE, _told(self) | {"files": [_told(file) for file in self.files]})

    def documents(self) -> tuple[str, ...]:
        """Names of the files that hold documents, in their order."""
        return self.texts or (self.text,)

    def check(self, folder: Path) -> None:
        """Raise CorpusError when a file is missing, cut short or changed since it was fetched."""
        for file in self.files:
            path = folder / file.name
            size = path.stat().st_size if path.is_file() else None
            if size != file.bytes or sha256_of(path) != file.sha256:
                state = "missing" if size is None else f"damaged ({size} bytes; fetched were {file.bytes})"
                raise CorpusError(f"{path} is {state}; `dvc repro -f fetch@{folder.name}` fetches it again")

    def origins(self) -> list[dict[str, Any]]:
        """Name, origin, size, sha256, licence of every file: what a result rests on, whichever way it came here.

        More than MOST_ORIGINS files of one licence are told as one, whose sha256 is that of all of theirs.
        """
        if len(self.files) <= MOST_ORIGINS:
            return [{key: value for key, value in _told(file).items() if key != "source"} for file in self.files]
        first, sums = self.files[0], "".join(f"{file.name} {file.sha256}\n" for file in self.files)
        changed = sorted({file.changed for file in self.files if file.changed})
        whole = {
            "name": f"{len(self.files)} files",
            "origin": f"{first.origin} and others",
            "bytes": sum(file.bytes for file in self.files),
            "sha256": hashlib.sha256(sums.encode()).hexdigest(),
            "pinned": all(file.pinned for file in self.files),
            "licence": ", ".join(sorted({file.licence for file in self.files})),
        }
        return [whole | ({"changed": "; ".join(changed)} if changed else {})]


def _told(record: Provenance | FetchedFile) -> dict[str, Any]:
    """The fields of a record by name, those left out that do not apply."""
    return {name: value for name, value in asdict(record).items() if value is not None and value != ()}


def sha256_of(path: Path) -> str:
    """The sha256 of a file, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
