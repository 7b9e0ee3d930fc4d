"""Where things lie, and how a file is written so that a killed process leaves the old one or the new one.

The repository that a command works on: the nearest folder upwards that holds dvc.yaml.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from bdh.project.errors import HatcheryError, RunError, one_line, visible

T = TypeVar("T")

RAW = Path("data/raw")
TOKENS = Path("data/tokens")
RUNS = Path("data/runs")
HEBBIAN = Path("data/hebbian")
TWINS = Path("data/twins")
SHAPES = Path("data/shapes")
CHECKPOINTS = Path("data/checkpoints")
CODE = Path("data/code")
RESULTS = Path("data/results")
"""What the stages say of runs and corpora, by names such as `train/<run>.json`, kept by DVC."""

REPORTS = Path("reports")
"""The results that git keeps: stage compare exports those of RESULTS under the same names."""

FORMULA = tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")
"""With what a formula of a spreadsheet can begin."""


def run_key(variant: str, corpus: str, seed: int) -> str:
    """Name of one run everywhere (files, stages, MLflow): `variant-corpus-seed`."""
    return f"{variant}-{corpus}-{seed}"


def shape_key(variant: str, corpus: str) -> str:
    """Name of what all seeds of a variant share on a corpus: `variant-corpus`."""
    return f"{variant}-{corpus}"


def result_path(name: str | Path, root: Path = Path()) -> Path:
    """The result `name` of the project at `root`: as its stage made it, else the copy that git brought."""
    made, copied = root / RESULTS / name, root / REPORTS / name
    return copied if copied.exists() and not made.exists() else made


def exported(path: Path) -> Path:
    """Where stage compare exports a result of this project; any other path as it is."""
    return REPORTS / path.relative_to(RESULTS) if path.is_relative_to(RESULTS) else path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it takes the place of `path` in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON in one step, keys in the order given, NaN and infinity refused."""
    text = json.dumps(value, indent=2, allow_nan=False) + "\n"
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows under a header in one step; what a row lacks is empty.

    A text that a spreadsheet would take for a formula gets an apostrophe in front, and no text steers a terminal.
    """
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow([_cell(name) for name in columns])
        table.writerows([_cell(row.get(name)) for name in columns] for row in rows)


def _cell(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    text = "\n".join(visible(line) for line in value.split("\n"))
    return f"'{text}" if value[:1] in FORMULA and not _is_number(value) else text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def read_json(path: Path) -> Any:
    """Read a JSON file; raises RunError naming the file when it is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(f"{path} is missing; `dvc repro` makes it") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise RunError(f"{path} is damaged ({error}); delete it and run `dvc repro`") from None


def read_mapping(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds a mapping of names; raises RunError naming it when it is missing or holds none."""
    found = read_json(path)
    if not isinstance(found, dict):
        raise RunError(f"{path} is damaged (it holds no mapping of names to values); delete it and run `dvc repro`")
    return found


def read_as(kind: type[T], path: Path, writer: str, remedy: str, wrong: type[HatcheryError] = RunError) -> T:
    """Read a JSON file that holds a `kind` (a pydantic model or a dataclass) as `writer` writes it.

    Raises an error of the class `wrong`, naming the file, the entry and the `remedy`, when the file is missing, damaged
    or has an entry too few or of another type.
    """
    try:
        return TypeAdapter(kind).validate_json(path.read_bytes(), strict=True)
    except FileNotFoundError:
        raise wrong(f"{path} is missing; {remedy}") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        told = one_line(ValueError(f"{place}: {first['msg']}" if place else first["msg"]))
        raise wrong(f"{path} has another shape than {writer} writes ({told}); {remedy}") from None


MARK = "dvc.yaml"


class NoRepositoryError(HatcheryError):
    """The command was started outside a Hatchery repository."""


def find_root(start: Path | None = None) -> Path:
    """The repository around `start` (default: the current folder); raises NoRepositoryError where there is none."""
    here = (start or Path.cwd()).absolute()
    for folder in (here, *here.parents):
        if (folder / MARK).is_file() and (folder / "params.yaml").is_file():
            return folder
    raise NoRepositoryError(f"{here} is not inside a Hatchery repository (no {MARK} here or above); cd into one")


def enter_root() -> Path:
    """Make the repository's root the current folder; returns the folder in which the command was given."""
    before = Path.cwd()
    os.chdir(find_root(before))
    return before
