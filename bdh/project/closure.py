"""Which source files a program is made of, read from its import statements without running it.

The pipeline stage `code` writes one manifest per stage and variant. The other stages depend on their manifest, so an
edit reruns exactly what imports the edited file. Modules that only mirror results (`MIRRORS`) are left out: they
cannot change a number.
"""

from __future__ import annotations

import ast
import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bdh.project.files import CODE, write_json

PACKAGES = ("bdh", "stages")
MIRRORS = ("bdh.tracking", "bdh.project.lockfile")
PLAIN_STAGES = ("fetch", "tokenize", "compare")
VARIANT_STAGES = ("train", "hebbian", "frontier")


def source_of(module: str, root: Path) -> Path | None:
    """File of a module of this project relative to `root`, None when it is another's or no module."""
    path = Path(*module.split("."))
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if (root / candidate).is_file():
            return candidate
    return None


@functools.cache
def imports_of(file: Path, root: Path) -> frozenset[str]:
    """Modules of this project that `file` imports anywhere in its text, packages on the way included."""
    tree = ast.parse((root / file).read_text(encoding="utf-8"))
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    parts = {".".join(name.split(".")[:end]) for name in names for end in range(1, name.count(".") + 2)}
    return frozenset(n for n in parts if n.split(".")[0] in PACKAGES and source_of(n, root) is not None)


def closure(modules: list[str], root: Path) -> list[Path]:
    """Files of `modules` and of everything they import, sorted; mirrors are left out."""
    seen: set[str] = set()
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        if module in seen or module.startswith(MIRRORS):
            continue
        seen.add(module)
        waiting += [module.rpartition(".")[0]] if "." in module else []
        file = source_of(module, root)
        if file is None:
            raise ModuleNotFoundError(f"{module} is not a module of this project under {root}")
        waiting += imports_of(file, root)
    return sorted({file for module in seen if (file := source_of(module, root)) is not None})


def manifest(modules: list[str], root: Path) -> dict[str, str]:
    """The sha256 of every file in the closure of `modules`, by path."""
    return {file.as_posix(): hashlib.sha256((root / file).read_bytes()).hexdigest() for file in closure(modules, root)}


def write_manifests(architectures: Mapping[str, str], inherited: Mapping[str, Any], root: Path = Path()) -> None:
    """Write `data/code/<stage>.json` and, for every variant, `data/code/<stage>/<variant>.json`.

    `architectures` says which file of bdh/models a variant is made of. `inherited` holds the sections of params.yaml
    that it is a preset of; they stand under a key of their own in the manifest of the training, which they go into.
    """
    for stage in PLAIN_STAGES:
        write_json(root / CODE / f"{stage}.json", {"files": manifest([f"stages.{stage}"], root)})
    for stage in VARIANT_STAGES:
        for variant, architecture in architectures.items():
            found: dict[str, Any] = {"files": manifest([f"stages.{stage}", f"bdh.models.{architecture}"], root)}
            if stage == "train":
                found["inherited"] = inherited[variant]
            write_json(root / CODE / stage / f"{variant}.json", found)
