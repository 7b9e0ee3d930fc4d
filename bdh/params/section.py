"""What every part of params.yaml is made of: closed sections and the types of their values.

What is wrong with a value of params.yaml, in one line: dotted path, value, what is allowed.
"""

from __future__ import annotations

import datetime
import difflib
from collections.abc import Iterator
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from bdh.project.errors import one_line

Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
Positive = Annotated[float, Field(gt=0.0, le=1e6)]
NonNegative = Annotated[float, Field(ge=0.0, le=1e6)]
Count = Annotated[int, Field(ge=1, le=10**9)]
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
    value = "" if isinstance(first["input"], dict) else f" (it is {_short(first['input'])})"
    if first["type"] == "list_type":
        return f"{path}: a list is expected, like [{_short(first['input'])}]{value}"
    message = one_line(ValueError(first["msg"].removeprefix("Value error, ")))
    return f"{path}: {message}{value}{_range_at(first['loc'], root)}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:40]}...{text[-10:]}"


def _range_at(location: tuple[int | str, ...], root: type[Section]) -> str:
    """What a number there may be, from the bounds of its type; empty where it has none."""
    parts = [part for part in location if isinstance(part, str)]
    for depth in range(len(parts) - 1, -1, -1):
        if parts[depth].isidentifier():
            found = _fields_at(tuple(parts[:depth]), parts[depth], root)
            bounds = [f"{sign} {limit}" for sign, limit in dict.fromkeys(_bounds(found))]
            return f"; allowed: {', '.join(bounds)}" if bounds else ""
    return ""


def _bounds(metadata: Any) -> Iterator[tuple[str, float]]:
    """Bounds that stand anywhere in a type or in what annotates it."""
    for sign, kind in ((">", "gt"), (">=", "ge"), ("<", "lt"), ("<=", "le")):
        for one in metadata:
            limit = getattr(one, kind, None)
            if isinstance(limit, int | float):
                yield sign, limit


def _fields_at(location: tuple[str, ...], name: str, root: type[Section]) -> list[Any]:
    """All that annotates the field `name` of the section at `location`, the parts of its type included."""
    found: list[Any] = []
    for section in _sections_at(location, root):
        if name in section.model_fields:
            field = section.model_fields[name]
            found += [*field.metadata, *_annotations(field.annotation)]
    return found


def _annotations(kind: Any) -> list[Any]:
    own = list(getattr(kind, "__metadata__", ()))
    inside = [one for own_one in own for one in getattr(own_one, "metadata", ())]
    arguments = [one for part in getattr(kind, "__args__", ()) for one in _annotations(part)]
    return [*own, *inside, *arguments]


def _keys_at(location: tuple[int | str, ...], root: type[Section]) -> list[str]:
    """Keys allowed in the section at `location`."""
    return sorted({name for section in _sections_at(location, root) for name in section.model_fields})


def _sections_at(location: tuple[int | str, ...], root: type[Section]) -> list[type[Section]]:
    """Sections that may stand at `location`; a part that is the tag of a union picks one of its members."""
    candidates: list[type[Section]] = [root]
    for part in location:
        inside = [field.annotation for c in candidates for name, field in c.model_fields.items() if name == part]
        tagged = [c for c in candidates if part in _tags(c)]
        candidates = _sections(inside) if inside else tagged or candidates
    return candidates


def _tags(section: type[Section]) -> set[Any]:
    """Values of the fields that tell a section from its neighbours in a union."""
    kinds = (field.annotation for field in section.model_fields.values())
    return {tag for kind in kinds if get_origin(kind) is Literal for tag in get_args(kind)}


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
