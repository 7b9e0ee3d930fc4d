"""A stage reruns when, and only when, a file that it is made of changes."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from bdh.frontier.registry import METRICS
from bdh.models.catalog import known_architectures
from bdh.params import load
from bdh.project.closure import (
    PLAIN_STAGES,
    SHAPE_STAGE,
    VARIANT_STAGES,
    closure,
    fingerprint,
    imports_of,
    is_quiet,
    manifest,
    meaning,
    write_manifests,
)
from bdh.project.errors import RunError
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


def test_closure_leaves_out_what_only_shows_or_mirrors():
    """What a reworded progress display used to do: train everything again."""
    files = {file.as_posix() for file in closure(["stages.train", "stages.fetch", "stages.compare"], ROOT)}
    assert {"bdh/training/loop.py", "bdh/corpora/fetch.py", "bdh/report/page.py"} <= files
    for quiet in ("training/display.py", "corpora/progress.py", "project/errors.py", "project/lockfile.py"):
        assert (ROOT / "bdh" / quiet).is_file()
        assert f"bdh/{quiet}" not in files
    assert not {file for file in files if file.startswith("bdh/tracking")}
    assert "stages/__init__.py" not in files


def test_closure_a_name_that_begins_like_a_quiet_one_is_not_left_out():
    assert is_quiet("bdh.tracking.store")
    assert not is_quiet("bdh.tracking_of_neurons")
    assert not is_quiet("stages.train")


def test_closure_holds_the_templates_beside_its_modules(project):
    write(project, "bdh/nn/page.html", "<p>")
    write(project, "bdh/nn/parts/page.css", "p {}")
    write(project, "bdh/nn/notes.txt", "not a template")
    write(project, "bdh/other/__init__.py", "")
    write(project, "bdh/other/page.html", "<p>")
    before = manifest(["bdh.a"], project)
    assert {name for name in before if not name.endswith(".py")} == {"bdh/nn/page.html", "bdh/nn/parts/page.css"}
    write(project, "bdh/nn/page.html", "<b>")
    assert changed(before, manifest(["bdh.a"], project)) == {"bdh/nn/page.html"}


def changed(before, after):
    return {name for name in before | after if before.get(name) != after.get(name)}


def test_closure_a_file_that_is_no_python_is_one_line(project):
    write(project, "bdh/nn/rope.py", "def f(:\n")
    with pytest.raises(RunError, match=r"bdh/nn/rope\.py, line 1: .*mend it"):
        manifest(["bdh.a"], project)


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
    assert f"data/code/{SHAPE_STAGE}/${{key}}.json" in pipeline[SHAPE_STAGE]["deps"]
    listed = ["variant", "recipe", "tuned", "scale", "scales", "corpus", "corpora", "variants"]
    assert pipeline["code"]["params"] == listed


@pytest.mark.parametrize("stage", PLAIN_STAGES)
def test_closure_light_stages_load_nothing_heavy(stage):
    code = f"import json, sys, stages.{stage}; print(json.dumps(sorted(m.split('.')[0] for m in sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not HEAVY & set(json.loads(loaded))


@pytest.mark.parametrize("stage", [*PLAIN_STAGES, *VARIANT_STAGES, SHAPE_STAGE])
def test_closure_holds_every_module_that_is_loaded(stage):
    code = (
        f"import json, sys, stages.{stage}\n"
        "print(json.dumps([m for m in sys.modules if m.split('.')[0] in ('bdh', 'stages')]))"
    )
    loaded = json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    files = {file.as_posix() for file in closure([f"stages.{stage}"], ROOT)}
    quiet = [file for file in Path("bdh").rglob("*.py") if is_quiet(".".join(file.with_suffix("").parts))]
    mirrored = {name for file in quiet for name in imports_of(file, ROOT)}
    for module in loaded:
        path = Path(*module.split("."))
        here = path.with_suffix(".py") if path.with_suffix(".py").is_file() else path / "__init__.py"
        assert here.as_posix() in files or is_quiet(module) or module in mirrored


def test_closure_manifest_holds_what_a_stage_imports_by_name(tmp_path):
    for folder in ("bdh", "stages"):
        (tmp_path / folder).symlink_to(Path(folder).absolute())
    names = {stage: ["bdh.golden.vectors"] for stage in ("frontier", "twins")}
    shapes = {"mine": {"plays": {"n": 4}}}
    write_manifests({"mine": "bdh"}, {"mine": {"of": "bdh"}}, names, shapes, tmp_path)
    twins = json.loads((tmp_path / "data/code/twins/mine-plays.json").read_text(encoding="utf-8"))
    assert {"bdh/golden/vectors.py", "bdh/models/bdh.py", "stages/twins.py"} <= set(twins["files"])
    assert twins["model"] == {"n": 4}
    frontier = json.loads((tmp_path / "data/code/frontier/mine.json").read_text(encoding="utf-8"))
    train = json.loads((tmp_path / "data/code/train/mine.json").read_text(encoding="utf-8"))
    assert {"bdh/golden/vectors.py", "bdh/models/bdh.py", "stages/frontier.py"} <= set(frontier["files"])
    assert "bdh/golden/vectors.py" not in train["files"]
    assert train["inherited"] == {"of": "bdh"}
    assert "inherited" not in frontier


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
    params = load()
    names |= {f"{SHAPE_STAGE}/{variant}-{corpus}.json" for variant in params.variants for corpus in params.corpora}
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


def test_closure_of_the_frontier_stage_holds_every_metric_of_the_registry(tmp_path, monkeypatch):
    """The stage imports metrics by the names in the registry, which no import statement shows."""
    found = manifests(tmp_path / "all", monkeypatch)
    files = set(json.loads(found["frontier/bdh.json"])["files"])
    assert {f"bdh/frontier/{metric.name}.py" for metric in METRICS} <= files
    assert "bdh/frontier/sps.py" not in json.loads(found["compare.json"])["files"]


PROGRAM = '''
"""What it is."""
import sys

RATE = 0.5  # per step
"""What RATE is."""


class Grid:
    """A grid."""

    def step(self, x, scale=2):
        """One step."""
        kept = f"; {x} is kept" if x else ""
        table = {"mean": x * scale}
        if x < 0:
            raise ValueError(f"x is {x}{kept}")
        assert x < 9, "x is large"
        if x == 3:
            raise self._wrong("three")
        _tell("a step is done")
        sys.stderr.write("done" + str(x))
        display.note(f"step {x}")
        log.warning("%s is near", x)
        return f"{table['mean']:.3f} of {x!r}"

    def _wrong(self, text):
        return RuntimeError("wrong: " + text)


def _tell(text):
    log.info(text)
'''


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("What it is.", "What this is."),
        ('        """One step."""\n', ""),
        ("What RATE is.", "Another text."),
        ("  # per step", "  # for every step"),
        ("x is {x}{kept}", "{x} is below zero{kept}"),
        ("; {x} is kept", "; there is {x}"),
        ("x is large", "x is too large"),
        ('"three"', '"it is three"'),
        ("wrong: ", "not right: "),
        ("a step is done", "one more step"),
        ('"done"', '"ready"'),
        ("step {x}", "at step {x} of many"),
        ("%s is near", "near: %s"),
        (
            "return f\"{table['mean']:.3f} of {x!r}\"",
            "return (\n            f\"{table['mean']:.3f}\"\n            f' of {x!r}'\n        )",
        ),
        ("(self, x, scale=2)", "(\n        self,\n        x,\n        scale=2,\n    )"),
        ("x * scale", "(x * scale)"),
    ],
)
def test_fingerprint_ignores_what_cannot_change_a_result(old, new):
    """Each of these edits used to run everything again that is made of the file."""
    assert PROGRAM.count(old) == 1
    assert meaning(PROGRAM.replace(old, new)) == meaning(PROGRAM)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("RATE = 0.5", "RATE = 0.25"),
        ("RATE = 0.5", "RATE = 1"),
        ("scale=2", "scale=2.0"),
        ("scale=2", "scale=True"),
        ("x * scale", "x + scale"),
        ("x * scale", "(x + x) * scale"),
        ('{"mean": ', '{"average": '),
        ("ValueError", "KeyError"),
        ("x < 0", "x <= 0"),
        ("x < 9", "x < 8"),
        ("of {x!r}", "out of {x!r}"),
        ("of {x!r}", "of {x!s}"),
        (":.3f", ":.4f"),
        ("import sys", "import sys as system"),
        ("class Grid", "@frozen\nclass Grid"),
        ("return RuntimeError", "yield RuntimeError"),
    ],
)
def test_fingerprint_follows_what_may_change_a_result(old, new):
    assert PROGRAM.count(old) == 1
    assert meaning(PROGRAM.replace(old, new)) != meaning(PROGRAM)


@pytest.mark.parametrize(
    "pair",
    [
        (
            'def f(x):\n    name = save("{}.csv")\n    say(f"{{name}} is written")',
            "a function that only seems to speak",
        ),
        ('def f(x):\n    reason = "{}"\n    say(reason)\n    return reason', "a text that is said and returned"),
        ('def _say(lines, text):\n    lines.append(text)\n\n_say(call, "{}")', "the text of a sample corpus"),
        ('raise SystemExit("{}")', "no error"),
        ('raise DivergedError(3, "{}")', "an error whose text is a result"),
        ('def f(error="{}"):\n    raise ValueError(error)', "a default"),
        ('f(help="{}")', "a keyword of any function"),
        ('log = table["{}"]', "a key"),
        ('write("{}")', "a file"),
    ],
    ids=lambda pair: pair[1],
)
def test_fingerprint_keeps_texts_that_are_no_messages(pair):
    assert meaning(pair[0].format("one")) != meaning(pair[0].format("two"))


def test_fingerprint_keeps_the_messages_of_the_page(tmp_path):
    """The page shows texts: there every string counts, and comments still do not."""
    for place, matters in (("bdh/report/page.py", True), ("bdh/frontier/run.py", False)):
        write(tmp_path, place, 'raise ValueError("one")')
        before = fingerprint(Path(place), tmp_path)
        write(tmp_path, place, 'raise ValueError("one")  # with a remark')
        assert fingerprint(Path(place), tmp_path) == before
        write(tmp_path, place, 'raise ValueError("two")')
        assert (fingerprint(Path(place), tmp_path) != before) is matters


def test_fingerprint_of_the_sample_corpora_follows_their_texts():
    """`_say` in the generator of calls writes text of the corpus, while `_say` of the kernels writes a log."""
    for file, text, matters in (
        ("bdh/corpora/sample/calls.py", "This ends the call.", True),
        ("bdh/project/processes.py", "the dvc process that started this stage is gone", False),
    ):
        source = Path(file).read_text(encoding="utf-8")
        assert text in source
        assert (meaning(source.replace(text, "Other words.")) != meaning(source)) is matters


def test_fingerprint_is_the_same_under_other_versions_of_python():
    code = (
        "import hashlib, sys\nfrom pathlib import Path\nfrom bdh.project.closure import fingerprint\n"
        "files = sorted([*Path('bdh').rglob('*.py'), *Path('stages').glob('*.py')])\n"
        "print('fingerprint', hashlib.sha256(''.join(fingerprint(f, Path()) for f in files).encode()).hexdigest())"
    )
    found = {}
    for name in (sys.executable, "python3.11", "python3.12", "python3.13", "python3.14"):
        path = shutil.which(name)
        done = path and subprocess.run([path, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
        if done and done.returncode == 0:
            found[name] = done.stdout
    if len(found) < 2:
        pytest.skip("there is one version of Python here")
    assert len(set(found.values())) == 1, found
