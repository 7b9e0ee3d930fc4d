"""What every part of params.yaml is made of: closed sections and the types of their values.

What is wrong with a value of params.yaml, in one line: dotted path, value, what is allowed.
"""

from __future__ import annotations

import datetime
import difflib
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from bdh.project.errors import one_line

Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
NonNegative = Annotated[float, Field(ge=0.0)]
Count = Annotated[int, Field(ge=1)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9_]+$")]
Scale = Literal["laptop", "gpu"]
Switch = Annotated[  # `dvc exp run -S` drops the quotes, and YAML reads a bare off as false
    Literal["auto", "on", "off"],
    BeforeValidator(lambda value: {True: "on", False: "off"}[value] if isinstance(value, bool) else value),
]
Day = Annotated[
    datetime.date, BeforeValidator(lambda day: datetime.date.fromisoformat(day) if isinstance(day, str) else day)
]


class Section(BaseModel):
    """A mapping whose keys are all known and present."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


def explain(error: ValidationError, root: type[Section]) -> str:
    """The first mistake that `root` found, an unknown key before all others."""
    errors = error.errors()
    first = next((one for one in errors if one["type"] == "extra_forbidden"), errors[0])
    path = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"{path}: unknown key; {suggest(str(first['loc'][-1]), _keys_at(first['loc'][:-1], root))}"
    if first["type"] == "missing":
        return f"{path}: this key is missing"
    value = "" if isinstance(first["input"], dict) else f" (it is {first['input']!r})"
    return f"{path}: {one_line(ValueError(first['msg']))}{value}"


def _keys_at(location: tuple[int | str, ...], root: type[Section]) -> list[str]:
    """Keys allowed in the section at `location`; a part that is the tag of a union picks one of its members."""
    candidates: list[Any] = [root]
    for part in location:
        inside = [field.annotation for c in candidates for name, field in c.model_fields.items() if name == part]
        candidates = _sections(inside) if inside else candidates
    return sorted({name for c in candidates for name in c.model_fields})


def _sections(annotations: list[Any]) -> list[type[Section]]:
    found: list[type[Section]] = []
    for annotation in annotations:
        if isinstance(annotation, type) and issubclass(annotation, Section):
            found.append(annotation)
        else:
            found += _sections(list(getattr(annotation, "__args__", ())))
    return found


def suggest(name: str, allowed: list[str]) -> str:
    """The allowed names, the nearest one first."""
    close = difflib.get_close_matches(name, allowed, n=1)
    meant = f"did you mean {close[0]!r}? " if close else ""
    return f"{meant}allowed: {', '.join(allowed)}"
