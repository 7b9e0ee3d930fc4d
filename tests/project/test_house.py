"""The rules of the house: sizes, names, which package may import which, and what a fresh clone holds."""

import ast
import subprocess
from collections import Counter, defaultdict
from functools import cache
from statistics import median

import pytest

from bdh.project.closure import TOLD, is_quiet, messages
from tests.support.project import ROOT, Project

LONGEST, MODULES, MEDIAN = 420, range(155, 201), 110
SHARED_NAMES = {"Config", "Model"}
"""The contract of a variant: every architecture has one of each."""

TOP = {"", "__main__", "commands", "golden"}
"""Parts that may import every other."""

BELOW = {
    "project": set(),
    "intervals": set(),
    "params": {"models.catalog", "project"},
    "nn": {"project"},
    "reservoir": {"nn", "project"},
    "kernels": {"nn", "project", "reservoir"},
    "models": {"kernels", "nn", "params", "project", "reservoir"},
    "corpora": {"params", "project"},
    "generation": {"corpora", "kernels", "models", "nn", "project"},
    "hub": {"corpora", "generation", "models", "nn", "params", "project", "tracking", "training"},
    "training": {"corpora", "generation", "kernels", "models", "nn", "params", "project", "tracking"},
    "hebbian": {"corpora", "intervals", "models", "nn", "params", "project"},
    "frontier": {"corpora", "hebbian", "intervals", "models", "nn", "params", "project"},
    "report": {"frontier.registry", "intervals", "params", "project"},
    "tracking": {"frontier.registry", "models.catalog", "params", "project"},
}
"""What each part may import besides itself: other parts, or one module of a part that reads no torch."""

TEXT_IS_SAID = {
    ("bdh/corpora/download.py", "error"),
    ("bdh/corpora/places.py", "error"),
    ("bdh/corpora/plain.py", "error"),
    ("bdh/corpora/tables.py", "error"),
    ("bdh/corpora/tokenizer.py", "error"),
    ("bdh/kernels/training/launch.py", "problem"),
    ("bdh/kernels/training/step.py", "problem"),
    ("bdh/models/base.py", "error"),
    ("bdh/models/catalog.py", "error"),
    ("bdh/training/distributed/group.py", "error"),
    ("bdh/training/distributed/worker.py", "error"),
    ("bdh/training/graphs.py", "problem"),
    ("bdh/training/update.py", "error"),
}
"""Handlers that hand the text of an error on to a message."""


@cache
def tree_of(path):
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def modules():
    """Module name -> file, of everything in bdh/."""
    found = {}
    for path in sorted((ROOT / "bdh").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def runs_at_import(body):
    """Statements that run when a module is imported: not those in functions, nor those for a type checker alone."""
    for node in body:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from runs_at_import(node.orelse)
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield node
            yield from runs_at_import(ast.iter_child_nodes(node))


def named(nodes):
    """Every module that import statements may mean."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            full = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from full
            if not all(name in modules() for name in full):
                yield node.module


@cache
def imported(module, lazily=False):
    """Modules that a module imports when it is imported, `lazily` also those that its functions import."""
    tree = tree_of(modules()[module])
    return frozenset(named(ast.walk(tree) if lazily else runs_at_import(tree.body)))


def allows(allowed, module):
    return any(f"{module}.".startswith(f"bdh.{name}.") for name in allowed)


def part_of(module):
    return module.split(".")[1] if "." in module else ""


def sources():
    return [(path.relative_to(ROOT).as_posix(), path) for path in modules().values()]


def test_house_no_module_is_longer_than_a_few_screens():
    lengths = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in sources()}
    assert {name: length for name, length in lengths.items() if length > LONGEST} == {}


def test_house_has_rooms_neither_too_many_nor_too_small():
    lengths = [len(path.read_text(encoding="utf-8").splitlines()) for _, path in sources()]
    assert len(lengths) in MODULES
    assert median(lengths) >= MEDIAN


def test_house_no_two_public_classes_have_one_name():
    homes = defaultdict(list)
    for name, path in sources():
        for node in tree_of(path).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes[node.name].append(name)
    twice = {name: where for name, where in homes.items() if len(where) > 1 and name not in SHARED_NAMES}
    assert twice == {}
    for name in SHARED_NAMES:
        assert all(where.startswith("bdh/models/") for where in homes[name])


def names_bound(body):
    """Names that the statements of a module bind, each time they do."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from (alias.asname or alias.name for alias in node.names)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name))


def test_house_no_module_gives_one_name_two_meanings():
    """Two merged modules had a list of one name: the sample plays drew places where prepositions belong."""
    twice = {}
    for name, path in sources():
        found = Counter(names_bound(tree_of(path).body))
        if more := [bound for bound, count in found.items() if count > 1]:
            twice[name] = more
    assert twice == {}


def test_house_no_file_is_named_after_the_folder_beside_it():
    wrong = [
        f"{name}: {folder.name}"
        for name, path in sources()
        for folder in path.parent.iterdir()
        if folder.is_dir() and path.name.startswith(f"{folder.name}_")
    ]
    assert wrong == []


def test_house_objects_say_what_they_have():
    """Nobody asks another object whether it has an attribute, or gives it one: the protocol of models declares them."""
    wrong = [
        f"{name}:{node.lineno}"
        for name, path in sources()
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("hasattr", "setattr")
    ]
    assert wrong == []


def test_house_imports_make_no_circle():
    graph = {module: sorted(imported(module) & modules().keys() - {module}) for module in modules()}
    done, open_now = set(), []

    def visit(module):
        assert module not in open_now, " -> ".join([*open_now[open_now.index(module) :], module])
        if module in done:
            return
        open_now.append(module)
        for other in graph[module]:
            visit(other)
        open_now.pop()
        done.add(module)

    for module in graph:
        visit(module)
    assert done == set(graph)


def test_house_every_part_has_its_place():
    assert {part_of(module) for module in modules()} == BELOW.keys() | TOP


@pytest.mark.parametrize("part", sorted(BELOW))
def test_house_dependencies_point_one_way(part):
    allowed = BELOW[part] | {part}
    wrong = {
        f"{module} imports {other}"
        for module in modules()
        if part_of(module) == part
        for other in imported(module, lazily=True)
        if other.split(".")[0] == "bdh" and other in modules() and other != "bdh" and not allows(allowed, other)
    }
    assert wrong == set()


def test_house_nothing_imports_the_stages_or_the_commands():
    outside = {
        module
        for module in modules()
        for other in imported(module, lazily=True)
        if other.split(".")[0] in ("stages", "tests", "benchmarks")
        or (part_of(other) == "commands" and part_of(module) not in ("commands", "__main__"))
    }
    assert outside == set()


def test_house_only_tracking_imports_mlflow():
    users = {m for m in modules() if any(name.split(".")[0] == "mlflow" for name in imported(m, lazily=True))}
    assert users
    assert {part_of(module) for module in users} == {"tracking"}


@pytest.mark.parametrize("part", ["report", "tracking", "params", "__main__", "commands"])
def test_house_light_parts_never_reach_torch(part):
    """Neither directly nor through what they import on the way."""
    waiting = [module for module in modules() if part_of(module) == part]
    chain = dict.fromkeys(waiting)
    while waiting:
        module = waiting.pop()
        for name in sorted(imported(module)):
            if name.split(".")[0] == "torch":
                path = [module]
                while (above := chain[path[-1]]) is not None:
                    path.append(above)
                raise AssertionError(" <- ".join(["torch", *path]))
            for other in (".".join(name.split(".")[:end]) for end in range(1, name.count(".") + 2)):
                if other in modules() and other not in chain:
                    chain[other] = module
                    waiting.append(other)


def test_house_report_never_names_torch():
    """No lazy import either: the page is drawn where no torch is."""
    assert {m for m in modules() if part_of(m) == "report" and "torch" in imported(m, lazily=True)} == set()


def test_house_no_result_is_made_of_a_docstring():
    """Fingerprints ignore docstrings, so nothing may read one."""
    users = [name for name, path in sources() if "__doc__" in path.read_text(encoding="utf-8")]
    assert users == []


def test_house_the_text_of_an_error_goes_into_messages_only():
    """Fingerprints ignore the texts of errors, so none may become part of a result.

    A handler that hands a text on to a message belongs into TEXT_IS_SAID, an error whose text is a result into
    `bdh.project.closure.TOLD`.
    """
    found = set()
    for module, path in modules().items():
        if is_quiet(module) or part_of(module) in ("report", "golden", "__main__", "commands"):
            continue
        tree = tree_of(path)
        said = set(messages(tree))
        said.update(*(ast.walk(node) for node in ast.walk(tree) if isinstance(node, ast.Raise)))
        for handler in ast.walk(tree):
            if isinstance(handler, ast.ExceptHandler) and handler.name and ast.unparse(handler.type) not in TOLD:
                inside = list(ast.walk(handler))
                asked = {id(node.value) for node in inside if isinstance(node, ast.Attribute)}
                used = [node for node in inside if isinstance(node, ast.Name) and node.id == handler.name]
                if any(node not in said and id(node) not in asked for node in used):
                    found.add((path.relative_to(ROOT).as_posix(), handler.name))
    assert found <= TEXT_IS_SAID


def test_house_fresh_clone_has_every_folder_and_keeps_it(tmp_path):
    """`data/` was missing from a clone; neither dvc nor `make clean` removes or adds to what git has of it."""
    project = Project(tmp_path / "clone")
    project.repro("code")
    assert (project.folder / "data/code/compare.json").is_file()
    told = subprocess.run(
        ["git", "status", "--porcelain", "--untracked-files=all"], cwd=project.folder, capture_output=True, text=True
    ).stdout
    assert told.split() == ["??", "dvc.lock"]
    subprocess.run(["make", "clean"], cwd=project.folder, check=True, capture_output=True)
    assert [path.name for path in (project.folder / "data").iterdir()] == ["README.md"]


def test_house_texts_have_the_same_line_ends_everywhere():
    told = subprocess.run(
        ["git", "check-attr", "text", "eol", "--", "params.yaml", "tests/golden/official_small.npz"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "params.yaml: eol: lf" in told
    assert "official_small.npz: text: unset" in told


def test_house_walk_sees_imports_where_they_run():
    """The walk itself: functions and type checking do not count at import time, classes and conditions do."""
    text = "if TYPE_CHECKING:\n import a\nelse:\n import b\nclass C:\n import c\ndef f():\n import d\n"
    text += "try:\n import e.f\nexcept X:\n pass"
    assert set(named(runs_at_import(ast.parse(text).body))) == {"b", "c", "e.f"}
    assert set(named(ast.walk(ast.parse(text)))) == {"a", "b", "c", "d", "e.f"}
