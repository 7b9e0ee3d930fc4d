"""Check the models against golden vectors: `.npz` files that hold a configuration, weights, inputs and outputs.

A family of files is checked by a module of `bdh/golden`, found by listing that folder. Its table `CHECKS` says which
function checks the files whose names begin so: `check(path) -> dict[str, float]` (quantity -> relative error). Nothing
heavy is imported before a file needs it.
"""

from __future__ import annotations

import ast
import functools
import importlib
import json
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bdh.project.errors import RunError, VariantError, one_line

CASES = Path(__file__).parent
NOT_CASES = {"__init__", "vectors"}
TOLERANCE = 1e-6
DAMAGES = (zipfile.BadZipFile, zlib.error, RecursionError, MemoryError)


@dataclass(frozen=True)
class Case:
    """One golden file: its name and the largest relative error of every quantity that was compared.

    `errors` is empty when nothing in `bdh/golden` checks the file; such a case has not passed.
    """

    name: str
    errors: dict[str, float]

    @property
    def passed(self) -> bool:
        """Whether something was compared and every error is at most 1e-6."""
        return bool(self.errors) and all(error <= TOLERANCE for error in self.errors.values())

    @property
    def status(self) -> str:
        """`passed`, `failed` or `no checker`."""
        if not self.errors:
            return "no checker"
        return "passed" if self.passed else "failed"

    @property
    def worst(self) -> tuple[str, float] | None:
        """The quantity with the largest error, None when nothing was compared."""
        return max(self.errors.items(), key=lambda item: item[1]) if self.errors else None


@dataclass(frozen=True)
class Vectors:
    """The content of one golden file: `config`, the weights by parameter name, and every other array by name."""

    config: dict[str, Any]
    parameters: dict[str, np.ndarray]
    arrays: dict[str, np.ndarray]


def check_folder(folder: Path) -> list[Case]:
    """Check every `.npz` file of `folder`, in the order of their names.

    Raises RunError when the folder holds none or a file cannot be read.
    """
    paths = sorted(folder.glob("*.npz"))
    if not paths:
        raise RunError(f"{folder} holds no golden vectors (*.npz); name a folder that does")
    return [check_file(path) for path in paths]


def check_file(path: Path) -> Case:
    """Check one golden file with every function whose prefix its name has.

    Raises RunError when it cannot be read or lacks an array or a key of the configuration.
    """
    errors: dict[str, float] = {}
    for prefix, module in checkers().items():
        if path.name.startswith(prefix):
            try:
                errors |= importlib.import_module(f"bdh.golden.{module}").CHECKS[prefix](path)
            except KeyError as missing:
                raise RunError(f"{path} lacks {missing}, which bdh/golden/{module}.py compares") from missing
            except (
                VariantError,
                TypeError,
                ValueError,
                RuntimeError,
                LookupError,
                AttributeError,
                ArithmeticError,
            ) as error:
                told = f"{type(error).__name__}: {one_line(error)[:200]}"
                raise RunError(f"{path} does not hold what bdh/golden/{module}.py compares ({told})") from error
    return Case(path.stem, errors)


@functools.cache
def checkers() -> dict[str, str]:
    """Module of `bdh/golden` by the prefix of its files, read from the source without importing it."""
    modules = sorted(path for path in CASES.glob("*.py") if path.stem not in NOT_CASES)
    return {prefix: path.stem for path in modules for prefix in _prefixes_of(path)}


def _prefixes_of(path: Path) -> list[str]:
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        match node:
            case ast.Assign(targets=[ast.Name(id="CHECKS")], value=ast.Dict(keys=keys)):
                return [ast.literal_eval(key) for key in keys if key is not None]
    raise ValueError(f"{path} defines no table CHECKS")


def read(path: Path) -> Vectors:
    """Read a golden file; raises RunError naming it when it is missing, damaged or has no config."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        config = json.loads(str(arrays.pop("config")))
        if not isinstance(config, dict):
            raise ValueError("its config is no mapping")
    except (OSError, ValueError, KeyError, EOFError, TypeError, NotImplementedError, *DAMAGES) as error:
        raise RunError(f"{path} is not a golden file: {one_line(error)}") from None
    parameters = {name.removeprefix("param."): arrays.pop(name) for name in list(arrays) if name.startswith("param.")}
    return Vectors(config, parameters, arrays)


def relative_error(actual: Any, expected: np.ndarray) -> float:
    """Largest absolute difference over the largest magnitude expected; infinite for another shape, NaN or infinity.

    `actual` is anything that NumPy reads (a detached CPU tensor too). Where everything expected is 0 the absolute
    difference is returned.
    """
    found = np.asarray(actual, dtype=np.float64)
    wanted = np.asarray(expected, dtype=np.float64)
    if found.shape != wanted.shape or not np.isfinite(found).all():
        return float("inf")
    difference = float(np.abs(found - wanted).max(initial=0.0))
    scale = float(np.abs(wanted).max(initial=0.0))
    return difference / scale if scale > 0.0 else difference
