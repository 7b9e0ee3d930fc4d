"""Which architectures exist and which settings each takes, read from the source without importing torch."""

from __future__ import annotations

import ast
import functools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bdh.project.errors import VariantError

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
    tree = _tree(architecture)
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


def _tree(architecture: str) -> ast.Module:
    path = FOLDER / f"{architecture}.py"
    try:
        return ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None)
        raise VariantError(f"bdh/models/{architecture}.py, line {line or 1}: {getattr(error, 'msg', error)}") from None
    except FileNotFoundError:
        raise VariantError(f"bdh/models/{architecture}.py does not exist") from None


def _fields(name: str, architecture: str) -> dict[str, Setting]:
    names = _names(architecture)
    if name in names.others and names.others[name] != (architecture, name):
        source, original = names.others[name]
        return _fields(original, source)
    if name not in names.classes:
        raise VariantError(
            f"bdh/models/{architecture}.py, line 1: it defines no {name}; {name} is a class, another name of one, or "
            "imported from another architecture (bdh/models/base.py says what an architecture defines)"
        )
    found: dict[str, Setting] = {}
    for base in names.classes[name].bases:
        if isinstance(base, ast.Name) and base.id != name:
            found |= _fields(base.id, architecture)
    for node in names.classes[name].body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found[node.target.id] = Setting(ast.unparse(node.annotation), _default(node, name, architecture))
    return found


def _default(node: ast.AnnAssign, name: str, architecture: str) -> Any:
    where = f"bdh/models/{architecture}.py, line {node.lineno}: {name}.{ast.unparse(node.target)}"
    if node.value is None:
        raise VariantError(f"{where} has no default; every setting needs one")
    try:
        value = ast.literal_eval(node.value)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        value = ...
    if not isinstance(value, bool | int | float | str):
        raise VariantError(
            f"{where}: the default is {ast.unparse(node.value)}; write a plain number, text or boolean (params.yaml is "
            "checked without running the file)"
        )
    kinds = {"int": int, "float": int | float, "bool": bool, "str": str}
    kind = kinds.get(ast.unparse(node.annotation), object)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind not in (bool, object)):
        raise VariantError(f"{where}: the default is {value!r}, and its type is {ast.unparse(node.annotation)}")
    if isinstance(value, float) and not math.isfinite(value):
        raise VariantError(f"{where}: the default is {value}; write a finite number")
    return value
