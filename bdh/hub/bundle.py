"""One architecture as a single Python file, made of this project's own source text: nothing is written twice.

From a few names on, everything that they need is collected, definition by definition and word for word: functions,
constants, classes. Of a class only those members are taken whose name is used anywhere in what is taken, beside fields,
special methods and `forward`: what trains a model and draws its graph stays behind. Definitions of equal names get the
name of their module appended. Programs for GPUs (`LEFT_OUT`) are replaced by a function that says no.
"""

from __future__ import annotations

import ast
import builtins
import functools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
LEFT_OUT = ("bdh.kernels.", "bdh.reservoir.kernel")
STAND_IN = '''def {name}(*unused: Any) -> bool:
    """Stands in for a GPU program of the project."""
    return False
'''
WRAPPER = "bdh.hub.wrapper"
"""Its classes are taken whole: `transformers` calls their members by name."""

ALWAYS = {"forward"}
"""Members that torch calls by name."""

Definition = ast.stmt
Class = ast.ClassDef
Function = ast.FunctionDef | ast.AsyncFunctionDef


class Symbol(NamedTuple):
    """A top-level name of a module."""

    module: str
    name: str


@dataclass(frozen=True)
class _Source:
    """A module: definitions by name, where its imported names come from (`outside`: not of this project)."""

    lines: list[bytes]
    definitions: dict[str, Definition] = field(default_factory=dict)
    inside: dict[str, Symbol] = field(default_factory=dict)
    modules: dict[str, str] = field(default_factory=dict)
    outside: dict[str, str] = field(default_factory=dict)
    order: list[str] = field(default_factory=list)


@functools.cache
def _source(module: str) -> _Source:
    path = ROOT.joinpath(*module.split("."))
    file = path.with_suffix(".py") if path.with_suffix(".py").exists() else path / "__init__.py"
    text = file.read_text(encoding="utf-8")
    found = _Source(text.encode("utf-8").splitlines(keepends=True))
    for node in ast.parse(text).body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            _note_import(node, found)
        for name in _bound(node):
            found.definitions[name] = node
    return found


def _note_import(node: ast.Import | ast.ImportFrom, found: _Source) -> None:
    for alias in node.names:
        local = alias.asname or alias.name.split(".")[0]
        renamed = f"{alias.name} as {alias.asname}" if alias.asname else alias.name
        if isinstance(node, ast.Import):
            found.outside[local] = f"import {renamed}"
        elif node.module and node.module.startswith("bdh."):
            found.order.append(node.module)
            whole = ROOT.joinpath(*node.module.split("."), f"{alias.name}.py")
            if whole.exists():
                found.order.append(f"{node.module}.{alias.name}")
                found.modules[local] = f"{node.module}.{alias.name}"
            else:
                found.inside[local] = Symbol(node.module, alias.name)
        elif node.module != "__future__":
            found.outside[local] = f"from {node.module} import {renamed}"


def _bound(node: ast.stmt) -> Iterator[str]:
    """Names that a top-level statement binds."""
    if isinstance(node, Function | Class):
        yield node.name
    elif isinstance(node, ast.Assign | ast.AnnAssign):
        for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
            yield from (part.id for part in ast.walk(target) if isinstance(part, ast.Name))


def home(module: str, name: str) -> Symbol:
    """Where a name that `module` uses is defined: a class that two modules share has one home."""
    source = _source(module)
    while name not in source.definitions and name in source.inside:
        module, name = source.inside[name]
        source = _source(module)
    return Symbol(module, name)


def bundle(roots: Iterable[Symbol]) -> tuple[str, dict[Symbol, str]]:
    """The text of a module that defines `roots` and all they need; and the name there of every definition."""
    attributes, taken = set(ALWAYS), dict.fromkeys(roots)
    while True:
        before = len(attributes), len(taken)
        for place in list(taken):
            if _left_out(place.module):
                continue
            source = _source(place.module)
            for node in _kept(source.definitions[place.name], attributes, place.module):
                attributes.update(part.attr for part in ast.walk(node) if isinstance(part, ast.Attribute))
                taken |= dict.fromkeys(found for _, found in _references(node, source, place.module))
        if before == (len(attributes), len(taken)):
            break
    names = _names(taken)
    imports: set[str] = {"from typing import Any"}
    parts, written = [], set()
    for place in sorted(taken, key=_position(taken)):
        if _left_out(place.module):
            parts.append(STAND_IN.format(name=names[place]))
            continue
        source = _source(place.module)
        node = source.definitions[place.name]
        if id(node) not in written:
            written.add(id(node))
            imports |= _outside(node, source, attributes, place.module)
            parts.append(_text(node, source, place.module, attributes, names))
    head = "from __future__ import annotations\n\n" + "\n".join(sorted(imports))
    return f"{head}\n\n\n" + "\n\n".join(part.rstrip() + "\n" for part in parts), names


def _left_out(module: str) -> bool:
    return module.startswith(LEFT_OUT)


def _kept(node: Definition, attributes: set[str], module: str) -> list[ast.AST]:
    """The parts of a definition that are taken: of a class its head and the members that something uses."""
    if not isinstance(node, Class) or module == WRAPPER:
        return [node]
    head: list[ast.AST] = [*node.bases, *node.keywords, *node.decorator_list]
    return head + [member for member in node.body if _uses(member, node, attributes)]


def _uses(member: ast.stmt, owner: Class, attributes: set[str]) -> bool:
    if isinstance(member, Function):
        return member.name in attributes or member.name.startswith("__")
    is_record = bool(owner.decorator_list) or any(ast.unparse(base) == "NamedTuple" for base in owner.bases)
    names = set(_bound(member))
    return not names or is_record or bool(names & attributes)


def _references(node: ast.AST, source: _Source, module: str) -> Iterator[tuple[ast.expr, Symbol]]:
    """Every name in `node` that stands for a definition of this project."""
    for part in ast.walk(node):
        if isinstance(part, ast.Name):
            if part.id in source.definitions or part.id in source.inside:
                yield part, home(module, part.id)
        elif isinstance(part, ast.Attribute) and isinstance(part.value, ast.Name) and part.value.id in source.modules:
            yield part, home(source.modules[part.value.id], part.attr)


def _outside(node: Definition, source: _Source, attributes: set[str], module: str) -> set[str]:
    used = {p.id for kept in _kept(node, attributes, module) for p in ast.walk(kept) if isinstance(p, ast.Name)}
    known = {*source.definitions, *source.inside, *source.modules, *dir(builtins)}
    return {source.outside[name] for name in used if name in source.outside and name not in known}


def _names(taken: Iterable[Symbol]) -> dict[Symbol, str]:
    """A name of its own for every definition; the later of two that are equal gets that of its module appended."""
    names: dict[Symbol, str] = {}
    for place in sorted(taken, key=_position(taken)):
        own = place.name if place.name not in names.values() else f"{place.name}_{place.module.rpartition('.')[2]}"
        assert own not in names.values(), own
        names[place] = own
    return names


def _position(taken: Iterable[Symbol]) -> Callable[[Symbol], tuple[int, int, str]]:
    """Sorting key: modules after those that they import, definitions as they stand in their module."""
    modules: dict[str, None] = {}

    def visit(module: str) -> None:
        if module in modules:
            return
        for other in () if _left_out(module) else _source(module).order:
            visit(other)
        modules[module] = None

    for place in sorted(taken):
        visit(place.module)
    rank = {module: number for number, module in enumerate(modules)}

    def key(place: Symbol) -> tuple[int, int, str]:
        line = 0 if _left_out(place.module) else _source(place.module).definitions[place.name].lineno
        return rank[place.module], line, place.name

    return key


def _text(node: Definition, source: _Source, module: str, attributes: set[str], names: dict[Symbol, str]) -> str:
    """The words of a definition, without members that nobody uses and with the names that things have here."""
    edits: list[tuple[int, int, int, str]] = []
    for kept in _kept(node, attributes, module):
        for part, place in _references(kept, source, module):
            assert part.end_col_offset is not None
            if part.lineno == part.end_lineno and ast.unparse(part) != names[place]:
                edits.append((part.lineno, part.col_offset, part.end_col_offset, names[place]))
    if isinstance(node, Function | Class) and names[Symbol(module, node.name)] != node.name:
        line = source.lines[node.lineno - 1]
        start = line.index(node.name.encode())
        edits.append((node.lineno, start, start + len(node.name), names[Symbol(module, node.name)]))
    whole = _kept(node, attributes, module)[0] is node
    dropped = set() if whole else {line for member in _dropped(node, attributes) for line in _lines(member)}
    changed = dict(enumerate(source.lines, start=1))
    for number, start, end, name in sorted(edits, reverse=True):
        changed[number] = changed[number][:start] + name.encode() + changed[number][end:]
    kept_lines = [changed[number].decode() for number in _lines(node) if number not in dropped]
    return "".join(line for line, before in zip(kept_lines, ["", *kept_lines], strict=False) if (line + before).strip())


def _dropped(node: Definition, attributes: set[str]) -> list[ast.stmt]:
    return [] if not isinstance(node, Class) else [m for m in node.body if not _uses(m, node, attributes)]


def _lines(node: ast.stmt) -> range:
    first = min(
        [node.lineno, *(d.lineno for d in node.decorator_list)] if isinstance(node, Function | Class) else [node.lineno]
    )
    assert node.end_lineno is not None
    return range(first, node.end_lineno + 1)
