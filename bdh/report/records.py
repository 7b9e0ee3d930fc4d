"""Results as flat tables of named values: nested or not, absent or there, a wrong type is a damaged file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bdh.errors import RunError
from bdh.files import read_json


def flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`value` with the keys of nested mappings joined by `/`; lists stay as they are, an empty mapping vanishes."""
    flat: dict[str, Any] = {}
    for key, item in value.items():
        name = f"{prefix}{key}"
        if isinstance(item, Mapping):
            flat |= flatten(item, f"{name}/")
        else:
            flat[name] = item
    return flat


@dataclass(frozen=True)
class Record:
    """One JSON file of results, flattened; without values when the file is absent."""

    path: Path
    values: dict[str, Any] = field(default_factory=dict)

    def __bool__(self) -> bool:
        """Whether the file was there."""
        return bool(self.values)

    def number(self, key: str) -> float | None:
        """The number under `key`, None when it is absent or null.

        Raises RunError when something else than a finite number stands there.
        """
        value = self.values.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise RunError(f"{self.path} is damaged ({key} is {value!r}, not a number); delete it and run `dvc repro`")
        return float(value)

    def text(self, key: str) -> str | None:
        """The value under `key` as text, None when it is absent or null."""
        value = self.values.get(key)
        return None if value is None else str(value)

    def children(self, prefix: str) -> list[str]:
        """Names that stand directly below `prefix`, in the order of the file, each once."""
        start = f"{prefix}/"
        below = (key[len(start) :].split("/")[0] for key in self.values if key.startswith(start))
        return list(dict.fromkeys(below))


def read_record(path: Path) -> Record:
    """Read one JSON file of results; an absent file gives a Record without values.

    Raises RunError when the file is damaged or holds no mapping.
    """
    if not path.exists():
        return Record(path)
    value = read_json(path)
    if not isinstance(value, dict) or not value:
        raise RunError(f"{path} is damaged (it holds no mapping of names to values); delete it and run `dvc repro`")
    return Record(path, flatten(value))
