"""Commands, files, links, errors and records that the documents name are those that exist.

Commands are parsed by the parsers that would run them (typer's, DVC's, torchrun's), not run. RUN_BY says which test
runs a command for real; what it does not name is parsed alone.
"""

import ast
import importlib.util
import re
import shlex
import subprocess
import tomllib
from functools import cache

import pytest
import typer
import yaml

from bdh.__main__ import app
from benchmarks.records import LOWER_IS_BETTER, measured, number, records, with_records
from tests.support.project import ROOT

PAGES = sorted({"README.md", "CONTRIBUTING.md", *(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))})
HISTORY = ("docs/LOG.md",)
"""Pages that tell of commands and files as they were."""

RUN_BY = {
    "bdh repro": "tests/commands/test_schedule.py",
    "bdh reproduce": "tests/commands/test_reproduce.py",
    "bdh tune": "tests/training/test_search.py",
    "bdh doctor": "tests/commands/test_cli.py",
    "bdh ui": "tests/tracking/test_ui.py",
    "bdh audit": "tests/commands/test_cli.py",
    "bdh sync": "tests/commands/test_cli.py",
    "bdh generate": "tests/hub/test_using.py",
    "bdh inspect": "tests/hub/test_using.py",
    "bdh export": "tests/hub/test_using.py",
    "bdh import": "tests/hub/test_using.py",
    "bdh golden": "tests/commands/test_cli.py",
    "bdh study run": "tests/commands/test_study.py",
    "bdh study add": "tests/commands/test_study.py",
    "bdh study pack": "tests/report/test_study.py",
    "dvc repro": "tests/pipeline/test_pipeline.py",
    "dvc push": "tests/pipeline/test_travel.py",
    "dvc metrics": "tests/pipeline/test_travel.py",
    "dvc plots": "tests/pipeline/test_travel.py",
    "dvc exp": "tests/pipeline/test_travel.py",
    "make clean": "tests/project/test_house.py",
}
"""Command -> the test that runs it. What `bdh study render` and `readme` write is compared in test_study_page.py."""

SHELL = ("cd", "cp", "mkdir", "echo", "export", "source", "rm", "cat", "sky")


def text_of(page):
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(text):
    """Lines of every fenced block of a shell, and of every indented block."""
    fenced = re.findall(r"^```(?:bash|sh)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    rest = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    indented = re.findall(r"(?:^\n|\A)((?: {4}\S.*\n)+)", rest, re.MULTILINE)
    return [[line.strip() for line in block.splitlines() if line.strip()] for block in fenced + indented]


def commands_of(text):
    """Command lines: blocks that begin with one, and inline code that begins with bdh, dvc or make."""
    for block in blocks(text):
        if name_of(block[0]) in CHECKS:
            yield from block
    prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    for code in re.findall(r"`([^`]+)`", prose):
        code = " ".join(code.split())
        if re.match(r"(bdh|dvc|make) [a-z-]+", code) and not re.search(r"[\[|]", code):
            yield code


def name_of(line):
    words = [word for word in line.split() if not re.match(r"[A-Z_]+=", word)]
    return words[0].rsplit("/", 1)[-1] if words else ""


def simple_commands(line):
    """Words of each command of a line; assignments before it and what follows a pipe apart."""
    words, found = shlex.split(line, comments=True), [[]]
    for word in words:
        if word in ("&&", "|", ";"):
            found.append([])
        elif found[-1] or not re.match(r"[A-Z_]+=", word):
            found[-1].append(word)
    return [words for words in found if words]


def check(line):
    for name, *words in simple_commands(line):
        CHECKS[name.rsplit("/", 1)[-1]](words)


def check_bdh(words):
    command = typer.main.get_command(app)
    while hasattr(command, "commands"):
        if not words:
            return
        command, words = command.commands[words[0]], words[1:]
    words = ["1" if word in ("N", "S") else word for word in words]
    if all(word.startswith("-") for word in words[:1]) or words:
        command.make_context("bdh", words, resilient_parsing=not any(word[0] != "-" for word in words))


def check_dvc(words):
    from dvc.cli import parse_args

    parsed = parse_args([*words, "file"] if words == ["add"] else words)
    if words[0] == "repro":
        stages = yaml.safe_load(text_of("dvc.yaml"))["stages"]
        assert all(target.split("@")[0] in stages for target in parsed.targets), parsed.targets
    for change in getattr(parsed, "set_param", None) or []:
        section = yaml.safe_load(text_of("params.yaml"))
        *path, last = change.lstrip("+").partition("=")[0].split(".")
        for depth, key in enumerate(path):
            section = section.get(key, {}) if change.startswith("+") and depth > 1 else section[key]
        assert change.startswith("+") or last in section, change


def check_make(words):
    targets = re.findall(r"^([\w./ -]+):", text_of("Makefile"), re.MULTILINE)
    known = {name for line in targets for name in line.split()}
    assert {word for word in words if "=" not in word} <= known


@cache
def git_commands():
    listed = subprocess.run(["git", "--list-cmds=main"], capture_output=True, text=True, check=True)
    return set(listed.stdout.split())


def check_git(words):
    assert words[0] in git_commands()


def check_python(words):
    assert words[0] == "-m"
    found = importlib.util.find_spec(words[1])
    assert found is not None
    if words[1].split(".")[0] in ("benchmarks", "stages", "tests"):
        source = text_of(f"{words[1].replace('.', '/')}.py") + text_of("benchmarks/machine.py")
        assert all(f'"{word}"' in source for word in words[2:] if word.startswith("--")), words


def check_torchrun(words):
    from torch.distributed.run import get_args_parser

    words = ["2" if word in ("N", "G") else re.sub(r"=[NG]$", "=2", word) for word in words]
    parsed = get_args_parser().parse_args(words)
    assert parsed.module
    check_python(["-m", parsed.training_script])


def check_pytest(words):
    assert all((ROOT / word).exists() for word in words if "/" in word)


def check_pip(words):
    extras = tomllib.loads(text_of("pyproject.toml"))["project"]["optional-dependencies"]
    for word in words:
        assert set(re.findall(r"\[(\w+)\]", word)) <= extras.keys()
    assert "-c" not in words or (ROOT / words[words.index("-c") + 1]).exists()


def check_ssh(words):
    check(words[-1])


CHECKS = {
    "bdh": check_bdh,
    "dvc": check_dvc,
    "make": check_make,
    "git": check_git,
    "python": check_python,
    "torchrun": check_torchrun,
    "pytest": check_pytest,
    "pip": check_pip,
    "ssh": check_ssh,
} | dict.fromkeys(SHELL, lambda words: None)


@pytest.mark.parametrize("page", [page for page in PAGES if page not in HISTORY])
def test_docs_commands_are_ones_that_exist(page):
    """An option was renamed, a stage is gone, a parameter moved, a make target or module never was."""
    wrong = []
    for line in commands_of(text_of(page)):
        try:
            check(line)
        except (Exception, SystemExit) as error:
            wrong.append(f"{line}: {error!r}")
    assert wrong == []


@pytest.mark.parametrize(
    "line",
    [
        "bdh repro --job 4",
        "bdh study rendr",
        "bdh export bdh-sample_plays-0",
        "dvc repro trian@x",
        "dvc repro --nothing",
        "dvc exp run -S 'seedz=[1]'",
        "make tests",
        "git comit",
        "python -m benchmarks.nothing",
        "python -m benchmarks.train --nothing",
        "pytest tests/nothing.py",
        "pip install -e '.[nothing]'",
        "ssh box 'cd x && bdh nothing'",
    ],
)
def test_docs_check_finds_what_is_wrong(line):
    with pytest.raises((Exception, SystemExit)):
        check(line)


def test_docs_say_which_test_runs_a_command():
    """A new command of `bdh` in the documents needs a test that runs it."""
    seen = set()
    for page in PAGES:
        for line in commands_of(text_of(page)):
            for name, *words in simple_commands(line):
                if name == "bdh" and words and page not in HISTORY:
                    seen.add(" ".join([name, *words[: 2 if words[0] == "study" else 1]]))
    assert seen - RUN_BY.keys() <= {"bdh study", "bdh study render", "bdh study readme"}
    for command, test in RUN_BY.items():
        assert re.search(rf"\b{command.split()[-1]}\b", text_of(test)), (command, test)


def anchors(page):
    """Names of the headings of a page, as code hosts make them."""
    heads = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", page, flags=re.DOTALL | re.MULTILINE), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES)
def test_docs_links_lead_to_files_and_headings(page):
    wrong = []
    for link in re.findall(r"\]\(([^)\s]+)\)", text_of(page)):
        if "://" in link:
            continue
        name, _, heading = link.partition("#")
        path = (ROOT / page).parent / name if name else ROOT / page
        there = path.exists() and (not heading or heading in anchors(path.read_text(encoding="utf-8")))
        if not there:
            wrong.append(link)
    assert wrong == []


@pytest.mark.parametrize("page", [page for page in PAGES if page not in HISTORY])
def test_docs_name_files_that_exist(page):
    named = re.findall(r"`((?:[\w-]+/)+[\w-]+\.(?:py|md|csv|yaml))(?:::\w+)?`", text_of(page))
    places = (ROOT, ROOT / "bdh", ROOT / "docs", ROOT / "bdh/models")
    made = ("reports/", "data/", "my/", "out/")
    assert [name for name in named if not name.startswith(made) and not any((p / name).exists() for p in places)] == []


@cache
def said():
    """Every constant text of the product, white space made even."""
    found = []
    for folder in ("bdh", "stages"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.append(" ".join(node.value.split()))
    return "\n".join(found)


def quoted_errors():
    return [
        " ".join(line.split()) for line in re.findall(r"^\*\*`(.+?)`\*\*", text_of("docs/faq.md"), re.DOTALL | re.M)
    ]


def test_faq_quotes_what_the_product_prints():
    """Each piece between what varies is a text of the source; reworded errors must be reworded here too."""
    assert len(quoted_errors()) > 20
    wrong = []
    for line in quoted_errors():
        pieces = [piece.strip(" ,():.") for piece in re.split(r"\.\.\.|; |\? ", line)]
        pieces = [piece for piece in pieces if re.search(r"\w\w", piece)]
        if not any(len(piece.split()) > 1 for piece in pieces):
            wrong.append(f"nothing to find: {line}")
        wrong += [f"{piece!r} of {line!r}" for piece in pieces if piece not in said()]
    assert wrong == []


def test_records_are_those_of_their_files(monkeypatch):
    """A number was mistyped, or its file was measured anew: then the old row needs its commit in `at`."""
    monkeypatch.chdir(ROOT)
    for record in records():
        found = measured(record)
        if not found:
            assert record["at"], record
            continue  # a clone without that commit
        assert number(record) == record["value"], record
        assert str(found[0].get("n", len(found))) == record["n"], record
        assert {row["commit"][:7] for row in found} == {record["commit"]}, record
        machines = " ".join(row.get("machine") or row["device"] for row in found)
        assert any(name in record["settings"] and name in machines for name in ("H100", "H200", "cores")), record


def test_records_of_a_track_improve(monkeypatch):
    monkeypatch.chdir(ROOT)
    best = {}
    for record in records():
        value = number(record)
        if value is None:
            continue
        size = float(value.split()[0]) * {"k": 1e3, "M": 1e6, "G": 1e9}.get(value.split()[-1], 1.0)
        size = -size if record["unit"] in LOWER_IS_BETTER else size
        before = best.get(record["track"])
        assert before is None or (size > before[0] and record["date"] >= before[1]), record
        best[record["track"]] = size, record["date"]
    assert best


def test_readme_shows_the_records_and_the_cost(monkeypatch):
    monkeypatch.chdir(ROOT)
    page = text_of("README.md")
    assert with_records(page) == page, "run `python -m benchmarks.records`"
