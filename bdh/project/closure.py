"""Which source files a program is made of, and a fingerprint of what each of them does.

The pipeline stage `code` writes one manifest per stage and variant. The other stages depend on their manifest, so an
edit reruns exactly what is made of the edited file, and only where the edit can change a result. Imports are read from
the text, nothing is run. What cannot change a result is left out:

- modules that show, mirror or report what happens (`QUIET`),
- comments, docstrings and the way the text is laid out,
- the text of messages: arguments of exceptions, of warnings and logging, of what goes to standard error, help texts.

So the text of an exception may never become part of a result; an exception whose text does is named in `TOLD`. Files
of the page (`WHOLE`) keep their messages, and templates beside a module count byte for byte.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Set
from pathlib import Path
from typing import Any

from bdh.project.errors import RunError
from bdh.project.files import CODE, write_json

PACKAGES = ("bdh", "stages")
QUIET = (
    "bdh.commands",
    "bdh.corpora.progress",
    "bdh.hub",
    "bdh.project.errors",
    "bdh.project.lockfile",
    "bdh.tracking",
    "bdh.training.display",
)
WHOLE = "bdh/report/"
TEMPLATES = {".html", ".css", ".js"}
PLAIN_STAGES = ("fetch", "tokenize", "floors", "compare")
VARIANT_STAGES = ("train", "hebbian", "frontier")
SHAPE_STAGE = "twins"
"""The stage whose manifests, one per variant and corpus, hold the settings of the model and none of its training."""

TOLD = frozenset({"DivergedError"})
"""Exceptions whose text is written into a result."""

LOGS = {"log", "_log", "logger", "_logger", "logging"}
LEVELS = {"debug", "info", "warning", "error", "exception", "critical"}
NOT_CODE = {"ctx", "kind", "type_comment"}
"""Fields of syntax trees that say nothing that the rest of the tree does not say."""


def manifest(modules: Iterable[str], root: Path) -> dict[str, str]:
    """The fingerprint of every file in the closure of `modules` and of the templates beside them, by path."""
    files = closure(modules, root)
    return {file.as_posix(): fingerprint(file, root) for file in sorted([*files, *templates(files, root)])}


def closure(modules: Iterable[str], root: Path) -> list[Path]:
    """Files of `modules` and of everything they import, sorted; quiet modules are left out.

    Raises ModuleNotFoundError for a module that is not in `root`, RunError for a file that is no Python.
    """
    found: dict[str, Path] = {}
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        if module in found or is_quiet(module):
            continue
        file = source_of(module, root)
        if file is None:
            raise ModuleNotFoundError(f"{module} is not a module of this project under {root}")
        found[module] = file
        waiting += [module.rpartition(".")[0]] if "." in module else []
        waiting += imports_of(file, root)
    return sorted(found.values())


def is_quiet(module: str) -> bool:
    """Whether nothing in a module can change a result; the package `stages` itself only chooses the interpreter."""
    return module == "stages" or any(module == name or module.startswith(f"{name}.") for name in QUIET)


def source_of(module: str, root: Path) -> Path | None:
    """File of a module of this project relative to `root`, None when it is another's or no module."""
    path = Path(*module.split("."))
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if (root / candidate).is_file():
            return candidate
    return None


def imports_of(file: Path, root: Path) -> set[str]:
    """Modules of this project that `file` imports anywhere in its text, packages on the way included."""
    names = _imported(_read(file, root), str(file))
    return {name for name in names if name.split(".")[0] in PACKAGES and source_of(name, root) is not None}


@functools.cache
def _imported(text: str, name: str) -> frozenset[str]:
    names: set[str] = set()
    for node in ast.walk(_parse(text, name)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(".".join(n.split(".")[:end]) for n in names for end in range(1, n.count(".") + 2))


def templates(files: Iterable[Path], root: Path) -> set[Path]:
    """Files of the page that lie in the package folders of `files` or in folders below that are no packages."""
    found = set()
    for folder in {file.parent for file in files}:
        for path in (root / folder).rglob("*"):
            inside = path.relative_to(root / folder).parents
            if path.suffix in TEMPLATES and not any((root / folder / p / "__init__.py").exists() for p in inside[:-1]):
                found.add(path.relative_to(root))
    return found


def fingerprint(file: Path, root: Path) -> str:
    """The sha256 of what a Python file does, or of the bytes of any other file."""
    if file.suffix != ".py":
        return hashlib.sha256((root / file).read_bytes()).hexdigest()
    return _digest(_read(file, root), str(file), file.as_posix().startswith(WHOLE))


@functools.cache
def _digest(text: str, name: str, whole: bool) -> str:
    return hashlib.sha256(meaning(text, name, whole).encode()).hexdigest()


def _read(file: Path, root: Path) -> str:
    return (root / file).read_text(encoding="utf-8")


def _parse(text: str, name: str) -> ast.Module:
    try:
        return ast.parse(text)
    except SyntaxError as error:
        raise RunError(f"{name}, line {error.lineno}: {error.msg}; mend it, then run `dvc repro`") from None


def meaning(text: str, name: str = "<text>", whole: bool = False) -> str:
    """What a Python text does, in a form that only an edit that may matter changes; `whole` keeps its messages.

    The form is made of the names and fields of the syntax tree, empty ones left out, and is therefore the same under
    every version of Python that reads the text.
    """
    tree = _parse(text, name)
    return json.dumps(_tell(tree, frozenset() if whole else messages(tree)), separators=(",", ":"))


def _tell(node: Any, hushed: Set[ast.AST]) -> Any:
    """A node, list or value of a syntax tree as lists and texts; of strings in `hushed` only that they are there."""
    if isinstance(node, list):
        return [_tell(item, hushed) for item in node if not _says_nothing(item)]
    if not isinstance(node, ast.AST):
        return repr(node)
    if isinstance(node, ast.JoinedStr):
        return "text" if node in hushed else ["JoinedStr", *_pieces(node, hushed)]
    if isinstance(node, ast.Constant):
        return "text" if node in hushed and isinstance(node.value, str) else ["Constant", repr(node.value)]
    told: list[Any] = [type(node).__name__]
    for field, value in ast.iter_fields(node):
        if value is not None and value != [] and field not in NOT_CODE:
            told.append([field, _tell(value, hushed)])
    return told


def _pieces(node: ast.JoinedStr, hushed: Set[ast.AST]) -> Iterator[Any]:
    """Parts of an f-string; versions of Python differ in where they cut the text between two values."""
    text = ""
    for value in node.values:
        if isinstance(value, ast.Constant):
            text += str(value.value)
        else:
            yield from [repr(text)] if text else []
            yield _tell(value, hushed)
            text = ""
    yield from [repr(text)] if text else []


def _says_nothing(item: Any) -> bool:
    """Whether a statement is a docstring or `pass`."""
    if isinstance(item, ast.Expr):
        return isinstance(item.value, ast.Constant) and isinstance(item.value.value, str)
    return isinstance(item, ast.Pass)


def messages(tree: ast.Module) -> Set[ast.AST]:
    """Every node inside the arguments of a message, and inside a local variable that only messages read."""
    speakers = {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and _only_speaks(node.body)}
    found: set[ast.AST] = set()
    for node in ast.walk(tree):
        for part in _said(node, speakers):
            found.update(ast.walk(part))
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            found.update(*(ast.walk(value) for value in _values_for_messages(function, found)))
    return found


def _said(node: ast.AST, speakers: Set[str] = frozenset()) -> list[ast.expr]:
    """The parts of a node that are nothing but a message."""
    if isinstance(node, ast.Assert):
        return [node.msg] if node.msg is not None else []
    if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
        return node.exc.args if _last_name(node.exc.func).islower() else []
    if not isinstance(node, ast.Call):
        return []
    if _last_name(node.func) in ("Argument", "Option"):
        return [keyword.value for keyword in node.keywords if keyword.arg == "help"]
    return node.args if _speaks(node, speakers) else []


def _speaks(call: ast.Call, speakers: Set[str]) -> bool:
    """Whether a call makes an exception, or a warning, a line of a log or of standard error."""
    name = _last_name(call.func)
    if isinstance(call.func, ast.Name):
        return name in speakers | {"say"} or (name.endswith(("Error", "Warning")) and name not in TOLD)
    if not isinstance(call.func, ast.Attribute):
        return False
    on = ast.unparse(call.func.value)
    if name == "write" and on == "os":
        return bool(call.args) and ast.unparse(call.args[0]).startswith("sys.stderr.")
    said = {"write": on == "sys.stderr", "warn": on == "warnings", "note": on.endswith("display")}
    return said.get(name, name in LEVELS and on in LOGS) or (name.endswith("Error") and name not in TOLD)


def _only_speaks(body: list[ast.stmt]) -> bool:
    """Whether statements do nothing but write messages, as in a function that is there for that."""
    told = [statement for statement in body if not _says_nothing(statement)]
    return bool(told) and all(
        _only_speaks(statement.body)
        if isinstance(statement, ast.With)
        else isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Call)
        and _speaks(statement.value, set())
        for statement in told
    )


def _values_for_messages(function: ast.AST, said: Set[ast.AST]) -> list[ast.expr]:
    """Values of the local variables of a function that are read inside messages and nowhere else."""
    nodes = list(ast.walk(function))
    shared = {name for node in nodes if isinstance(node, ast.Global | ast.Nonlocal) for name in node.names}
    read = [node for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)]
    quiet = {node.id for node in read if node in said} - {node.id for node in read if node not in said} - shared
    assigned = [node for node in nodes if isinstance(node, ast.Assign) and _only_text(node.value)]
    return [
        node.value
        for node in assigned
        if all(isinstance(target, ast.Name) and target.id in quiet for target in node.targets)
    ]


def _only_text(value: ast.expr) -> bool:
    """Whether an expression joins or chooses texts and does nothing else."""
    if isinstance(value, ast.IfExp):
        return _only_text(value.body) and _only_text(value.orelse)
    if isinstance(value, ast.BinOp):
        return _only_text(value.left) and _only_text(value.right)
    return isinstance(value, ast.Constant | ast.JoinedStr | ast.Name)


def _last_name(function: ast.expr) -> str:
    """`c` of `a.b.c(...)`, empty for what is no name."""
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


def write_manifests(
    architectures: Mapping[str, str],
    inherited: Mapping[str, Any],
    by_name: Mapping[str, Iterable[str]],
    shapes: Mapping[str, Mapping[str, Any]],
    root: Path = Path(),
) -> None:
    """Write `data/code/<stage>.json` and, for every variant, `data/code/<stage>/<variant>.json`.

    `architectures` says which file of bdh/models a variant is made of. `inherited` holds the sections of params.yaml
    that it is a preset of; they stand under a key of their own in the manifest of the training, which they go into.
    `by_name` gives by stage the modules that it imports by a name which is no import statement. `shapes` holds by
    variant and corpus of the comparison the settings of the model: `data/code/twins/<variant>-<corpus>.json`.
    """
    for stage in PLAIN_STAGES:
        modules = [f"stages.{stage}", *by_name.get(stage, ())]
        write_json(root / CODE / f"{stage}.json", {"files": manifest(modules, root)})
    for stage in VARIANT_STAGES:
        for variant, architecture in architectures.items():
            modules = [f"stages.{stage}", f"bdh.models.{architecture}", *by_name.get(stage, ())]
            found: dict[str, Any] = {"files": manifest(modules, root)}
            if stage == "train":
                found["inherited"] = inherited[variant]
            write_json(root / CODE / stage / f"{variant}.json", found)
    for variant, by_corpus in shapes.items():
        modules = [f"stages.{SHAPE_STAGE}", f"bdh.models.{architectures[variant]}", *by_name.get(SHAPE_STAGE, ())]
        files = manifest(modules, root)
        for corpus, model in by_corpus.items():
            write_json(root / CODE / SHAPE_STAGE / f"{variant}-{corpus}.json", {"files": files, "model": model})
