"""Where the files of a corpus came from: provenance.json beside them."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bdh.project.errors import CorpusError, one_line
from bdh.project.files import read_json, write_json

FILE = "provenance.json"


@dataclass(frozen=True)
class FetchedFile:
    """One file of a corpus; `pinned` says that its sha256 is among those that params.yaml accepts."""

    name: str
    origin: str
    source: str
    bytes: int
    sha256: str
    pinned: bool
    licence: str


@dataclass(frozen=True)
class Provenance:
    """`source` is mirror, url, local or generated; `text` names the file that holds the documents.

    No time and no place of this machine stand in it, so that equal files have equal provenance everywhere.
    """

    source: str
    text: str
    files: tuple[FetchedFile, ...]

    @classmethod
    def read(cls, folder: Path) -> Provenance:
        """The provenance of the corpus in `folder`.

        Raises CorpusError when the corpus was not fetched, or its provenance is not what `write` writes.
        """
        if not (folder / FILE).is_file():
            raise CorpusError(f"{folder} holds no fetched corpus; `dvc repro fetch@{folder.name}` fetches it")
        raw = read_json(folder / FILE)
        try:
            return cls(**raw | {"files": tuple(FetchedFile(**file) for file in raw["files"])})
        except (KeyError, TypeError) as error:
            problem = f"{folder / FILE} has another shape than stage fetch writes ({one_line(error)})"
            raise CorpusError(f"{problem}; `dvc repro -f fetch@{folder.name}` makes it again") from None

    def write(self, folder: Path) -> None:
        """Write provenance.json into `folder`."""
        write_json(folder / FILE, asdict(self))

    def check(self, folder: Path) -> None:
        """Raise CorpusError when a file is missing, cut short or changed since it was fetched."""
        for file in self.files:
            path = folder / file.name
            size = path.stat().st_size if path.is_file() else None
            if size != file.bytes or sha256_of(path) != file.sha256:
                state = "missing" if size is None else f"damaged ({size} bytes; fetched were {file.bytes})"
                raise CorpusError(f"{path} is {state}; `dvc repro -f fetch@{folder.name}` fetches it again")

    def origins(self) -> list[dict[str, Any]]:
        """Name, origin, size, sha256, licence of every file: what a result rests on, whichever way it came here."""
        return [{key: value for key, value in asdict(file).items() if key != "source"} for file in self.files]


def sha256_of(path: Path) -> str:
    """The sha256 of a file, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
