"""Which Python runs a stage: the one that runs dvc, whatever `python` the PATH names, or one line says what to do."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

import stages
from bdh.commands.repro import this_python_first
from tests.support.project import ROOT, Project
from tests.support.tracked_project import finished_project

HERE = Path(sys.executable).parent
NOT_IMPORTED = {"dvc", "ruamel-yaml-clib"}


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """The bin folder of an interpreter without any package."""
    folder = tmp_path_factory.mktemp("bare")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    return folder / "bin"


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return Project(tmp_path_factory.mktemp("project"))


def path_of(*folders):
    return os.pathsep.join([*map(str, folders), "/usr/bin", "/bin"])


def run(command, folder, path, **environment):
    """The command's result with this PATH, and only what dvc itself would put into the environment."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("DVC_", "PYTHON", "HATCHERY"))}
    kept |= {"PATH": path, "DVC_NO_ANALYTICS": "1", **environment}
    return subprocess.run(command, cwd=folder, env=kept, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("command", [[str(HERE / "dvc")], [sys.executable, "-m", "dvc"]], ids=["dvc", "python -m dvc"])
def test_stage_runs_in_the_interpreter_of_dvc(project, bare, command):
    """`.venv/bin/dvc repro` without an activated environment used to end in a traceback."""
    if not Path(command[0]).exists():
        pytest.skip("dvc has no script beside this interpreter")
    shutil.rmtree(project.folder / "data", ignore_errors=True)
    done = run([*command, "repro", "--force", "fetch@sample_plays"], project.folder, path_of(bare))
    assert done.returncode == 0, done.stdout + done.stderr
    assert (project.folder / "data/code/train/bdh.json").is_file()
    assert (project.folder / "data/raw/sample_plays/provenance.json").is_file()


def test_stage_prefers_the_interpreter_of_dvc_to_another_environment_that_looks_complete(project, tmp_path):
    """A `python` with all packages in versions of its own is not what the results are made with."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path], check=True)
    (packages,) = tmp_path.glob("lib/python*/site-packages")
    for name in stages.NEEDED:
        package = packages.joinpath(*name.split("."))
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("raise RuntimeError('the wrong environment')\n" if "." not in name else "")
    (packages / "ruamel/__init__.py").write_text("")
    command = [sys.executable, "-m", "dvc", "repro", "--single-item", "--force", "fetch@sample_plays"]
    run([sys.executable, "-m", "stages.code"], project.folder, path_of())
    done = run(command, project.folder, path_of(tmp_path / "bin"))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("named", [True, False], ids=["a bare python", "no python"])
def test_repro_lets_python_be_its_own_interpreter(tmp_path_factory, tmp_path, bare, named):
    """`.venv/bin/bdh repro` without an activated environment used to end in a traceback."""
    project = finished_project(tmp_path_factory).copy_to(tmp_path / "copy")
    (project.folder / "bdh/extra.py").write_text("")
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("sh", "bash", "git"):
        if found := shutil.which(name):
            (tools / name).symlink_to(found)
    path = os.pathsep.join([*([str(bare)] if named else []), str(tools)])
    done = project.run("bdh", "repro", PATH=path, SHELL="/bin/sh", BDH_TRACKING="off")
    assert "Running stage 'code'" in done.stdout


def test_repro_names_its_interpreter_python_where_its_folder_has_none(tmp_path, monkeypatch):
    """An interpreter that is only called `python3` is `python` to what `bdh repro` starts."""
    (tmp_path / "python3").write_text('#!/bin/sh\necho "python3 $*"\n')
    (tmp_path / "python3").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python3"))
    before = os.environ["PATH"]
    with this_python_first():
        told = subprocess.run(["sh", "-c", "python -m 'a b'"], capture_output=True, text=True, check=True).stdout
    assert told == "python3 -m a b\n"
    assert os.environ["PATH"] == before


def test_stage_started_by_hand_goes_on_in_the_environment_of_the_project(project, bare):
    environment = project.folder / ".venv"
    if not (Path(sys.prefix) / "bin/python").exists():
        pytest.skip("this interpreter has no folder that can stand for an environment")
    environment.symlink_to(sys.prefix)
    try:
        done = run(["python", "-m", "stages.fetch", "no_such_corpus"], project.folder, path_of(bare))
    finally:
        environment.unlink()
    assert done.returncode == 2
    assert "no_such_corpus" in done.stderr


@pytest.mark.parametrize("beside", ["", "torch"], ids=["bare", "some packages"])
def test_stage_without_its_packages_is_one_line(bare, tmp_path, beside):
    """What nobody can mend for the user is told in one line, with exit code 2."""
    shutil.copytree(ROOT / "stages", tmp_path / "stages")
    if beside:
        (tmp_path / f"{beside}.py").write_text("")
    done = run(["python", "-m", "stages.train", "bdh", "sample_plays", "0"], tmp_path, path_of(bare))
    assert (done.returncode, done.stdout) == (2, "")
    first = next(name for name in stages.NEEDED)
    assert re.fullmatch(
        rf"error: this python \(.*/bin/python\) lacks {first}, .* more; run `bdh repro`, .*\n", done.stderr
    )


def test_stage_that_is_only_imported_changes_no_interpreter(bare, tmp_path):
    shutil.copytree(ROOT / "stages", tmp_path / "stages")
    done = run(["python", "-c", "import stages; print('imported')"], tmp_path, path_of(bare))
    assert (done.returncode, done.stdout) == (0, "imported\n")


def test_needed_packages_are_those_of_the_project():
    declared = tomllib.loads(Path(ROOT, "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    wanted = {re.split(r"[^\w.-]", line)[0].lower().replace(".", "-") for line in declared} - NOT_IMPORTED
    owners = metadata.packages_distributions()
    found = {name: {owner.lower().replace(".", "-") for owner in owners[name.split(".")[0]]} for name in stages.NEEDED}
    assert wanted <= set().union(*found.values()), "stages/__init__.py: NEEDED lacks a package"
    assert all(owners & wanted for owners in found.values()), "stages/__init__.py: NEEDED names a stranger"
    assert stages.missing() == []
