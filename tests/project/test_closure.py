"""A stage reruns when, and only when, a file that it is made of changes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bdh.frontier.registry import METRICS
from bdh.models.catalog import known_variants
from bdh.project.closure import MIRRORS, PLAIN_STAGES, VARIANT_STAGES, closure, imports_of, write_manifests

ROOT = Path()
HEAVY = {"torch", "mlflow", "transformers"}


def write(root, path, text):
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")


@pytest.fixture
def project(tmp_path):
    write(tmp_path, "bdh/__init__.py", "")
    write(tmp_path, "bdh/a.py", "import os\nfrom bdh.nn import rope\n")
    write(tmp_path, "bdh/nn/__init__.py", "")
    write(tmp_path, "bdh/nn/rope.py", "def f():\n    from bdh import lazy\n")
    write(tmp_path, "bdh/lazy.py", "import bdh.tracking.store\n")
    write(tmp_path, "bdh/tracking/__init__.py", "")
    write(tmp_path, "bdh/tracking/store.py", "import bdh.unused\n")
    write(tmp_path, "bdh/unused.py", "")
    return tmp_path


def test_closure_follows_lazy_imports_and_packages_but_no_mirror(project):
    files = [file.as_posix() for file in closure(["bdh.a"], project)]
    assert files == ["bdh/__init__.py", "bdh/a.py", "bdh/lazy.py", "bdh/nn/__init__.py", "bdh/nn/rope.py"]


def test_closure_unknown_module_is_an_error(project):
    with pytest.raises(ModuleNotFoundError, match=r"bdh\.nothing"):
        closure(["bdh.nothing"], project)


def test_closure_of_a_variant_holds_its_file_and_no_stranger():
    for variant in known_variants():
        files = {file.as_posix() for file in closure(["stages.train", f"bdh.models.{variant}"], ROOT)}
        own = f"bdh/models/{variant}.py"
        assert own in files
        imported = {name for name in known_variants() if f"bdh.models.{name}" in imports_reached(variant)}
        others = {Path(f).stem for f in files if f.startswith("bdh/models/")} & set(known_variants())
        assert others == imported | {variant}


def test_closure_of_the_frontier_stage_holds_every_metric_of_the_registry(tmp_path, monkeypatch):
    monkeypatch.setattr("bdh.project.closure.CODE", tmp_path)
    write_manifests(ROOT)
    manifest = json.loads((tmp_path / "frontier/bdh.json").read_text())
    assert {f"bdh/frontier/{metric.name}.py" for metric in METRICS} <= set(manifest)
    assert "bdh/frontier/sps.py" not in json.loads((tmp_path / "compare.json").read_text())


def imports_reached(variant):
    reached, waiting = set(), [f"bdh.models.{variant}"]
    while waiting:
        module = waiting.pop()
        new = {m for m in imports_of(Path(*module.split(".")).with_suffix(".py"), ROOT) if m.startswith("bdh.models.")}
        waiting += [m for m in new - reached if m != module]
        reached |= new
    return reached


def test_closure_manifests_are_the_dependencies_of_the_pipeline(tmp_path, monkeypatch):
    pipeline = Path("dvc.yaml").read_text(encoding="utf-8")
    for stage in PLAIN_STAGES:
        assert f"data/code/{stage}.json" in pipeline
    for stage in VARIANT_STAGES:
        assert f"data/code/{stage}/${{item.variant}}.json" in pipeline


@pytest.mark.parametrize("stage", ["fetch", "tokenize", "compare"])
def test_closure_light_stages_load_nothing_heavy(stage):
    code = f"import json, sys, stages.{stage}; print(json.dumps(sorted(m.split('.')[0] for m in sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not HEAVY & set(json.loads(loaded))


@pytest.mark.parametrize("stage", [*PLAIN_STAGES, *VARIANT_STAGES])
def test_closure_holds_every_module_that_is_loaded(stage):
    code = (
        f"import json, sys, stages.{stage}\n"
        "print(json.dumps([m for m in sys.modules if m.split('.')[0] in ('bdh', 'stages')]))"
    )
    loaded = json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    files = {file.as_posix() for file in closure([f"stages.{stage}"], ROOT)}
    mirrored = {name for file in Path("bdh/tracking").glob("*.py") for name in imports_of(file, ROOT)}
    for module in loaded:
        path = Path(*module.split("."))
        here = path.with_suffix(".py") if path.with_suffix(".py").is_file() else path / "__init__.py"
        assert here.as_posix() in files or module.startswith(MIRRORS) or module in mirrored


def test_closure_manifests_do_not_depend_on_the_time(tmp_path, monkeypatch):
    for name in ("first", "second"):
        root = tmp_path / name
        for folder in ("bdh", "stages"):
            (root / folder).parent.mkdir(parents=True, exist_ok=True)
            (root / folder).symlink_to(Path(folder).absolute())
        write_manifests(root)
    first = sorted((tmp_path / "first/data/code").rglob("*.json"))
    assert len(first) == len(PLAIN_STAGES) + len(VARIANT_STAGES) * len(known_variants())
    for file in first:
        twin = tmp_path / "second" / file.relative_to(tmp_path / "first")
        assert file.read_bytes() == twin.read_bytes()
