"""What is wrong with a value of params.yaml, in one line: dotted path, value, what is allowed."""

from __future__ import annotations

import difflib
from typing import Any

from pydantic import ValidationError

from bdh.errors import one_line
from bdh.params.section import Section


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
