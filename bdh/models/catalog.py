"""Which architectures exist and which settings each takes, read from the source without importing torch."""

from __future__ import annotations

import ast
import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
NOT_ARCHITECTURES = {"__init__", "base", "catalog"}


@dataclass(frozen=True)
class Setting:
    """One field of an architecture's Config: its annotation as written and its default value."""

    annotation: str
    default: Any


@dataclass(frozen=True)
class _Names:
    """What the names of one file stand for: its classes, and (file, name) of what is imported or another name."""

    classes: dict[str, ast.ClassDef]
    others: dict[str, tuple[str, str]]


@functools.cache
def known_architectures() -> tuple[str, ...]:
    """Names of all architectures: the modules of `bdh/models` that define a Model."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in NOT_ARCHITECTURES))


@functools.cache
def settings_of(architecture: str) -> dict[str, Setting]:
    """Settings of an architecture by name, inherited ones first.

    Its Config is a class of the file, another name of one, or comes from another architecture's file.
    """
    return _fields("Config", architecture)


@functools.cache
def _names(architecture: str) -> _Names:
    tree = ast.parse((FOLDER / f"{architecture}.py").read_text(encoding="utf-8"))
    found = _Names({}, {})
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            found.classes[node.name] = node
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("bdh.models."):
            source = node.module.rpartition(".")[2]
            found.others.update({alias.asname or alias.name: (source, alias.name) for alias in node.names})
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Name):
            targets = [target.id for target in node.targets if isinstance(target, ast.Name)]
            found.others.update(dict.fromkeys(targets, (architecture, node.value.id)))
    return found


def _fields(name: str, architecture: str) -> dict[str, Setting]:
    names = _names(architecture)
    if name in names.others:
        source, original = names.others[name]
        return _fields(original, source)
    if name not in names.classes:
        raise ValueError(f"bdh/models/{architecture}.py: {name} must be a class, another name of one, or imported")
    found: dict[str, Setting] = {}
    for base in names.classes[name].bases:
        if isinstance(base, ast.Name):
            found |= _fields(base.id, architecture)
    for node in names.classes[name].body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
            found[node.target.id] = Setting(ast.unparse(node.annotation), ast.literal_eval(node.value))
    return found
