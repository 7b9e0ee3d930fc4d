"""Where people run it, and what they do with DVC: a small project in all kinds of places."""

from __future__ import annotations

import ast
import contextlib
import functools
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import yaml

from bdh.project.device import choose_device
from bdh.project.errors import reported
from tests.inputs.case import Case
from tests.support.project import ROOT, Project

OUTS = ("data/code", "data/raw/mine", "data/tokens/mine")
TEXT = "".join(f"line {number:03d} of mine, Größe.\n" for number in range(600))
SECTION: dict[str, Any] = {
    "source": {"kind": "local", "path": "my texts/Größe.txt", "licence": "mine"},
    "text": {
        "format": "text",
        "separator": None,
        "split": {"by": "blocks", "validation_fraction": 0.1, "test_fraction": 0.1, "block_bytes": 1024},
    },
    "tokenizer": {"name": "bytes"},
    "scales": {scale: {"model": {}, "train": {}} for scale in ("laptop", "gpu")},
}


@functools.cache
def base() -> Project:
    """A repository with a text of the user's own, tokenized and committed; made once per process."""
    folder = Path(tempfile.mkdtemp(prefix="inputs-"))
    project = Project(folder / "base", {"BDH_TRACKING": "off", "OMP_NUM_THREADS": "1"})
    raw = project.read_params()
    other = json.loads(json.dumps(SECTION))
    other["text"]["split"]["test_fraction"] = 0.2
    raw |= {
        "variants": ["bdh"],
        "corpora": ["mine"],
        "corpus": {"mine": SECTION, "other": other},
        "tuned": {"laptop": {}, "gpu": {}},
    }
    (project.folder / "params.yaml").write_text(yaml.safe_dump(raw, sort_keys=False), encoding="utf-8")
    (project.folder / "my texts").mkdir()
    (project.folder / "my texts/Größe.txt").write_text(TEXT, encoding="utf-8")
    for name, value in (("user.name", "test"), ("user.email", "test@example.org")):
        project.git("config", name, value)
    project.repro("-q", "tokenize@mine")
    project.git("add", "-A")
    project.git("commit", "-qm", "tokenized")
    return project


def at(folder: Path, **environment: str | None) -> Project:
    """The project as it stands in another folder, with other variables (None takes one away)."""
    other = Project.__new__(Project)
    other.folder = folder
    other.environment = base().environment | {"PYTHONPATH": str(folder)}
    for name, value in environment.items():
        other.environment.pop(name, None)
        if value is not None:
            other.environment[name] = value
    return other


def copied(folder: Path) -> None:
    """The files of the project, without its history, its results and its cache."""
    top = {base().folder: {"data", ".git", "reports"}, base().folder / ".dvc": {"cache"}}
    shutil.copytree(base().folder, folder, ignore=lambda place, names: top.get(Path(place), set()) & set(names))


def git(folder: Path, *words: str) -> None:
    subprocess.run(["git", *words], cwd=folder, check=True, capture_output=True)


def up_to_date(project: Project) -> str:
    """Take over the cache and see that nothing has to be done again; then the numbers of the corpus."""
    cache = base().folder / ".dvc/cache"
    shutil.copytree(cache, project.folder / ".dvc/cache", dirs_exist_ok=True)
    project.run("dvc", "checkout", "-q", *OUTS)
    said = project.run("dvc", "status", "code", "fetch@mine", "tokenize@mine").stdout.strip()
    return f"{said} {tokens(project.folder)}"


def tokens(folder: Path) -> str:
    stats = json.loads((folder / "data/tokens/mine/stats.json").read_text(encoding="utf-8"))
    joined = b"".join(
        (folder / f"data/tokens/mine/{split}.bin").read_bytes() for split in ("train", "validation", "test")
    )
    assert sorted(joined) == sorted(TEXT.encode())
    return ", ".join(f"{split} {stats['splits'][split]['tokens']}" for split in ("train", "validation", "test"))


def staged(name: str = "p", prefix: tuple[str, ...] = (), read_only: bool = False, **environment: str | None) -> Any:
    """Both stages of the corpus, each a program of its own, in a folder of this name."""

    def attempt(folder: Path) -> str:
        here = folder / name
        copied(here)
        if read_only:
            (here / "my texts/Größe.txt").chmod(0o444)
            (here / "my texts").chmod(0o555)
        project = at(here, **environment)
        for stage in ("fetch", "tokenize"):
            done = subprocess.run(
                [*prefix, sys.executable, "-m", f"stages.{stage}", "mine"],
                cwd=here, env=project.environment, capture_output=True, text=True, check=False,
            )  # fmt: skip
            if done.returncode or done.stderr:
                return f"{stage}: {done.returncode} {done.stderr.strip()[-300:]}"
        if read_only:
            (here / "my texts").chmod(0o755)
        return tokens(here)

    return attempt


def no_git(folder: Path) -> str:
    """A copy without .git, as a zip file gives it, after what the doctor says."""
    here = folder / "zip"
    copied(here)
    before = at(here).run("bdh", "repro", check=False)
    assert before.returncode == 2, before
    assert "`git init`, or `dvc config --local core.no_scm true`" in before.stderr
    at(here).run("dvc", "config", "--local", "core.no_scm", "true")
    return up_to_date(at(here))


def cloned(*options: str, settings: tuple[str, ...] = ()) -> Any:
    def attempt(folder: Path) -> str:
        git(folder, *settings, "clone", "-q", *options, f"file://{base().folder}", "clone")
        return up_to_date(at(folder / "clone"))

    return attempt


def worktree(folder: Path) -> str:
    git(base().folder, "worktree", "add", "-q", "--detach", str(folder / "tree"))
    return up_to_date(at(folder / "tree"))


def monorepo(folder: Path) -> str:
    git(folder, "init", "-q")
    copied(folder / "x/y")
    git(folder, "add", "-A")
    return up_to_date(at(folder / "x/y"))


def grammar(folder: Path) -> str:
    """Every module is Python 3.11; what 3.13 alone has would be found by the parser of 3.11, and the reverse."""
    for path in [*ROOT.glob("bdh/**/*.py"), *ROOT.glob("stages/*.py")]:
        ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 11))
    return "parses as Python 3.11"


def mac(folder: Path) -> str:
    """On a Mac torch has mps and no cuda."""
    with (
        mock.patch("torch.cuda.is_available", return_value=False),
        mock.patch("torch.backends.mps.is_available", return_value=True),
    ):
        return str(choose_device("auto"))


def windows(folder: Path) -> str:
    said = []
    with mock.patch("sys.platform", "win32"), mock.patch("sys.stderr.write", said.append):
        try:
            reported(lambda: "ran")()
        except SystemExit as ended:
            return f"rc {ended.code}: {''.join(said).strip()}"
    return "ran"


def machine_cases() -> list[Case]:
    """Where it runs."""
    numbers = NUMBERS
    fresh = f"Data and pipelines are up to date. {numbers}"
    rows: list[tuple[str, str, Any]] = [
        ("a path with spaces and umlauts", numbers, staged("Größe und Maß")),
        ("umask 077", numbers, staged(prefix=("sh", "-c", 'umask 077; exec "$@"', "sh"))),
        ("LC_ALL=C", numbers, staged(LC_ALL="C")),
        (
            "a locale that is not UTF-8, a path that is not ASCII",
            "fetch: 2 error: corpus mine: this Python reads file names as ascii; export PYTHONUTF8=1",
            staged(LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0"),
        ),
        ("no HOME", numbers, staged(HOME=None)),
        ("a read-only source folder", numbers, staged(read_only=True)),
        ("no .git (zip copy), after the doctor's remedy", fresh, no_git),
        ("a shallow clone", fresh, cloned("--depth=1")),
        ("core.autocrlf=true", fresh, cloned(settings=("-c", "core.autocrlf=true"))),
        ("a worktree", fresh, worktree),
        ("a subfolder of a monorepo", fresh, monorepo),
        ("Python 3.11 to 3.13", "parses as Python 3.11", grammar),
        ("macOS, device: auto", "cpu", mac),
        (
            "Windows",
            "rc 2: error: Windows is not supported; run it in WSL 2 (`wsl --install`), which is Linux",
            windows,
        ),
    ]
    return [Case("where it runs", name, expected, attempt) for name, expected, attempt in rows]


def copy_of_base(folder: Path) -> Project:
    """The base with its history and its cache, to change."""
    here = folder / "copy"
    shutil.copytree(base().folder, here, symlinks=True)
    return at(here)


def stages_run(project: Project, *words: str) -> str:
    """Which stages a `dvc repro` runs."""
    output = project.repro(*words, "tokenize@mine").stdout
    return ", ".join(sorted(project.stages_run(output))) or "nothing"


def comments(folder: Path) -> str:
    project = copy_of_base(folder)
    path = project.folder / "params.yaml"
    path.write_text(
        "# another comment\n" + path.read_text(encoding="utf-8").replace("\n", "   # here\n", 1), encoding="utf-8"
    )
    return stages_run(project)


def collected(folder: Path) -> str:
    """`dvc gc -w` while another state is checked out, and back."""
    project = copy_of_base(folder)
    digest = tokens(project.folder)
    project.run("dvc", "gc", "-w", "-f", "-q")
    shutil.rmtree(project.folder / "data")
    project.run("dvc", "checkout", "-q", *OUTS)
    return f"{stages_run(project)}; {'the same tokens' if tokens(project.folder) == digest else 'others'}"


def experiment(folder: Path) -> str:
    """`dvc exp run -S`, back to before, and `dvc exp apply`."""
    project = copy_of_base(folder)
    before = tokens(project.folder)
    change = "corpus.mine.text.split.test_fraction=0.3"
    project.run("dvc", "exp", "run", "-q", "-n", "more", "-S", change, "tokenize@mine")
    changed = tokens(project.folder)
    project.git("checkout", "-q", "--", ".")
    project.run("dvc", "checkout", "-q", *OUTS)
    assert tokens(project.folder) == before != changed
    project.run("dvc", "exp", "apply", "more", check=False)  # it misses what was never made: the runs
    assert tokens(project.folder) == changed
    return f"{changed}; {stages_run(project)} to do"


def queued(folder: Path) -> str:
    """`dvc exp run --queue` and `--run-all`: the workspace stays, the result is there to apply."""
    project = copy_of_base(folder)
    before = tokens(project.folder)
    change = "corpus.mine.text.split.test_fraction=0.3"
    project.run("dvc", "exp", "run", "-q", "--queue", "-n", "later", "-S", change, "tokenize@mine")
    for _ in range(3):  # a worker of DVC that finds its queue empty at first leaves, and `--run-all` waits for ever
        with contextlib.suppress(subprocess.TimeoutExpired):
            project.run("dvc", "exp", "run", "-q", "--run-all", timeout=120)
            break
    assert tokens(project.folder) == before
    project.run("dvc", "exp", "apply", "later", check=False)
    return tokens(project.folder)


def readded(folder: Path) -> str:
    """A corpus is taken out, the pipeline runs, and it comes back."""
    project = copy_of_base(folder)
    project.set(corpora=["other"])
    project.repro("-q", "tokenize@other")
    project.set(corpora=["mine"])
    return stages_run(project)


def habit_cases() -> list[Case]:
    """Habits with DVC."""
    rows: list[tuple[str, str, Any]] = [
        ("a comment in params.yaml changed", "nothing", comments),
        ("dvc gc -w and back", "nothing; the same tokens", collected),
        ("dvc exp run -S and exp apply", f"{MORE}; nothing to do", experiment),
        ("dvc exp run --queue and --run-all", MORE, queued),
        ("a corpus removed and added again", "nothing", readded),
    ]
    return [Case("DVC habit", name, expected, attempt) for name, expected, attempt in rows]


LENGTH = len(TEXT.encode())
TEST, MORE_TEST = LENGTH - int(LENGTH * (1.0 - 0.1)), LENGTH - int(LENGTH * (1.0 - 0.3))


def _blocks(test: int) -> str:
    """Blocks of 1024 bytes of the text before the test part; of ten one validates, the sixth."""
    sizes = [min(1024, LENGTH - test - start) for start in range(0, LENGTH - test, 1024)]
    validation = sum(size for number, size in enumerate(sizes) if number % 10 == 5)
    return f"train {LENGTH - test - validation}, validation {validation}, test {test}"


NUMBERS, MORE = _blocks(TEST), _blocks(MORE_TEST)
