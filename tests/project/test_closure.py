"""A stage reruns when, and only when, a file that it is made of changes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from bdh.models.catalog import known_architectures
from bdh.params import load
from bdh.project.closure import MIRRORS, PLAIN_STAGES, VARIANT_STAGES, closure, imports_of
from stages.code import main as write_code

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


def test_closure_of_an_architecture_holds_its_file_and_no_stranger():
    for architecture in known_architectures():
        files = {file.as_posix() for file in closure(["stages.train", f"bdh.models.{architecture}"], ROOT)}
        imported = {name for name in known_architectures() if f"bdh.models.{name}" in imports_reached(architecture)}
        others = {Path(f).stem for f in files if f.startswith("bdh/models/")} & set(known_architectures())
        assert others == imported | {architecture}


def imports_reached(architecture):
    reached, waiting = set(), [f"bdh.models.{architecture}"]
    while waiting:
        module = waiting.pop()
        new = {m for m in imports_of(Path(*module.split(".")).with_suffix(".py"), ROOT) if m.startswith("bdh.models.")}
        waiting += [m for m in new - reached if m != module]
        reached |= new
    return reached


def test_closure_manifests_are_the_dependencies_of_the_pipeline():
    pipeline = yaml.safe_load(Path("dvc.yaml").read_text(encoding="utf-8"))["stages"]
    for stage in PLAIN_STAGES:
        assert f"data/code/{stage}.json" in pipeline[stage]["deps"]
    for stage in VARIANT_STAGES:
        assert f"data/code/{stage}/${{item.variant}}.json" in pipeline[stage]["deps"]
        assert not [path for path in pipeline[stage]["deps"] if path.startswith("bdh")]
    assert pipeline["code"]["params"] == ["variant"]


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
    for module in loaded:
        path = Path(*module.split("."))
        here = path.with_suffix(".py") if path.with_suffix(".py").is_file() else path / "__init__.py"
        assert here.as_posix() in files or module.startswith(MIRRORS)


def manifests(root, monkeypatch, **changes):
    """What stage `code` writes in a folder with the sources of this one, by path; `changes` by dotted name."""
    root.mkdir()
    for folder in ("bdh", "stages"):
        (root / folder).symlink_to(ROOT.absolute() / folder)
    raw = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
    for dotted, value in changes.items():
        variant, key = dotted.split(".")
        raw["variant"][variant][key] = value
    write(root, "params.yaml", yaml.safe_dump(raw))
    with monkeypatch.context() as patch:
        patch.chdir(root)
        write_code()
    return {
        path.relative_to(root / "data/code").as_posix(): path.read_bytes() for path in (root / "data").rglob("*.json")
    }


def test_closure_manifests_are_written_for_every_section_and_do_not_depend_on_the_time(tmp_path, monkeypatch):
    first = manifests(tmp_path / "first", monkeypatch)
    names = {f"{stage}/{variant}.json" for stage in VARIANT_STAGES for variant in load().variant}
    assert first.keys() == names | {f"{stage}.json" for stage in PLAIN_STAGES}
    assert manifests(tmp_path / "second", monkeypatch) == first


def test_closure_manifest_of_a_preset_changes_with_what_it_inherits_and_no_other_does(tmp_path, monkeypatch):
    before = manifests(tmp_path / "before", monkeypatch)
    assert "bdh/models/neuro.py" in json.loads(before["frontier/neuro_no_kwta.json"])["files"]
    after = manifests(tmp_path / "after", monkeypatch, **{"neuro.train": {"regime": "readout"}})
    changed = {name for name in before if before[name] != after[name]}
    presets = {name for name in load().variant if name.startswith("neuro_")}
    assert changed == {f"train/{name}.json" for name in presets}
    mute = manifests(tmp_path / "mute", monkeypatch, **{"neuro.family": "reservoir", "neuro_no_kwta.without": "k"})
    assert mute == before
