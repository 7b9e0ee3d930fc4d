"""Which variants exist and which settings each takes, read from the source without importing torch."""

from __future__ import annotations

import ast
import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
NOT_VARIANTS = {"__init__", "base", "catalog", "slim"}


@dataclass(frozen=True)
class Setting:
    """One field of a variant's Config: its annotation as written and its default value."""

    annotation: str
    default: Any


@functools.cache
def known_variants() -> tuple[str, ...]:
    """Names of all variants: the modules of `bdh/models` that define a Model."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in NOT_VARIANTS))


@functools.cache
def settings_of(variant: str) -> dict[str, Setting]:
    """Settings of a variant by name, inherited ones first; a Config may be imported from another variant."""
    tree = ast.parse((FOLDER / f"{variant}.py").read_text(encoding="utf-8"))
    imported = {
        alias.asname or alias.name: (node.module.rpartition(".")[2], alias.name)
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("bdh.models.")
        for alias in node.names
    }
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    return _fields("Config", variant, classes, imported)


def _fields(
    name: str, variant: str, classes: dict[str, ast.ClassDef], imported: dict[str, tuple[str, str]]
) -> dict[str, Setting]:
    if name not in classes:
        module, original = imported[name]
        if original != "Config":
            raise ValueError(f"bdh/models/{variant}.py: {name} must be the Config of another variant")
        return settings_of(module)
    found: dict[str, Setting] = {}
    for base in classes[name].bases:
        if isinstance(base, ast.Name):
            found |= _fields(base.id, variant, classes, imported)
    for node in classes[name].body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
            found[node.target.id] = Setting(ast.unparse(node.annotation), ast.literal_eval(node.value))
    return found
