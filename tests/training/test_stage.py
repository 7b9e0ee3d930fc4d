"""The stage `train` as DVC starts it: files, exit codes, kills."""

import csv
import hashlib
import json
import math
import re
import signal
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bdh.project.errors import RunError
from bdh.tracking import Tracker
from bdh.training.checkpoints import load_run
from bdh.training.validation import ValidationSet
from stages import compare, frontier, hebbian
from stages.train import app
from tests.support.report_fixtures import dump, floors
from tests.support.stage_project import MODEL, make_project, start
from tests.support.toys import write_corpus

pytestmark = pytest.mark.slow
MOMENTS = [["step", 2], ["checkpoint", 2], ["step", 3], ["validation", 2], ["checkpoint", 1], ["run folder", 1]]
FORKS = """
import json, os, signal, sys
from pathlib import Path
import matplotlib.backends.backend_agg, matplotlib.figure, torch._dynamo
from bdh.training import checkpoints, resume, state
from stages.train import app

def dying(original, at, half=False):
    calls = []
    def wrapped(*args, **kwargs):
        calls.append(1)
        if len(calls) == at:
            if half:
                Path(args[1]).write_bytes(b"half of a file")
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)
    return wrapped

def stage(folder, moment, at):
    os.chdir(folder)
    if moment == "step":
        state.Training.advance = dying(state.Training.advance, at)
    elif moment == "validation":
        state.Training.validate = dying(state.Training.validate, at)
    elif moment == "checkpoint":
        resume.save_file = dying(resume.save_file, at, half=True)
    elif moment == "run folder":
        checkpoints.save_file = dying(checkpoints.save_file, at, half=True)
    app(["bdh", "sample_plays", "0"], standalone_mode=False)

straight, killed, moments = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
ends = []
for folder, moment, at in [(straight, "never", 0), *((killed, *m) for m in moments), (killed, "never", 0)]:
    child = os.fork()
    if child == 0:
        stage(folder, moment, at)
        os._exit(0)
    ends.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print(json.dumps(ends))
"""


@pytest.fixture(autouse=True)
def _untracked(monkeypatch):
    monkeypatch.setenv("BDH_TRACKING", "off")


def results(folder, key="bdh-sample_plays-0"):
    """Every file of a finished run that must repeat, by its hash."""
    paths = [folder / f"data/runs/{key}" / n for n in ("model.safetensors", "config.json", "samples.json")]
    paths += [folder / f"data/results/train/{key}.json", folder / f"data/results/history/{key}.csv"]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs of the stage, in processes of their own: (undisturbed folder, killed folder, exit codes, stderr)."""
    folder = tmp_path_factory.mktemp("runs")
    straight, killed = make_project(folder / "straight"), make_project(folder / "killed")
    process = start(folder, "-c", FORKS, str(straight), str(killed), json.dumps(MOMENTS))
    out, errors = process.communicate(timeout=240)
    assert out, errors
    return straight, killed, json.loads(out.splitlines()[-1]), errors


@pytest.fixture(scope="module")
def straight(runs):
    """A run that nothing disturbed."""
    return runs[0]


def test_stage_refits_and_a_kill_in_either_training_changes_nothing(straight, tmp_path):
    """12 steps of the first training; the next ones belong to the second, whose kill must not repeat the first."""
    whole, killed = (make_project(tmp_path / name, refit=True) for name in ("whole", "killed"))
    moments = [["step", 5], ["step", 11], ["step", 2]]
    process = start(tmp_path, "-c", FORKS, str(whole), str(killed), json.dumps(moments))
    out, errors = process.communicate(timeout=240)
    assert out, errors
    assert json.loads(out.splitlines()[-1]) == [0, -9, -9, -9, 0], errors
    assert results(killed) == results(whole)
    key = "bdh-sample_plays-0"
    once, twice = (json.loads((f / f"data/results/train/{key}.json").read_text()) for f in (straight, whole))
    assert once["best_step"] > 3, "or the third kill would find no second training"
    assert twice["refit"] is True
    assert "refit" not in once
    same = [name for name in once if not name.startswith("density/")]
    assert [twice[name] for name in same] == [once[name] for name in same]
    weights = "model.safetensors"
    assert results(whole)[weights] != results(straight)[weights]
    assert results(whole)[f"{key}.csv"] == results(straight)[f"{key}.csv"]
    assert not (whole / "data/checkpoints/bdh-sample_plays-0").exists()


def test_stage_writes_the_run_and_its_reports(straight):
    key = "bdh-sample_plays-0"
    config = json.loads((straight / f"data/runs/{key}/config.json").read_text())
    assert config["variant"] == "bdh"
    assert config["model"] | MODEL == config["model"]
    assert config["train"]["window"] == 16
    model, _ = load_run(straight / f"data/runs/{key}")
    report = json.loads((straight / f"data/results/train/{key}.json").read_text())
    assert report["parameters"] == config["parameters"] == model.parameter_count()
    assert report["steps_done"] == 12
    assert report["judged"] in ("raw", "average")
    with (straight / f"data/results/history/{key}.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["step"] for row in rows] == ["0", "4", "8", "12"]
    assert {"density_x_sparse_0", "density_y_sparse_0", "density_xy_sparse_0", "state_norm_rho"} <= rows[0].keys()
    timing = json.loads((straight / f"data/results/timing/{key}.json").read_text())
    assert {"seconds", "tokens_per_s", "peak_memory_mib", "device", "torch", "threads"} <= timing.keys()
    samples = json.loads((straight / f"data/runs/{key}/samples.json").read_text())
    assert len(samples) == 3
    assert all(sample["prompt"] and sample["text"] for sample in samples)


def test_stage_leaves_no_checkpoints_behind(straight):
    assert not [path for path in (straight / "data/checkpoints").rglob("*") if path.suffix != ".lock"]


def test_stage_killed_again_and_again_gives_the_same_bytes(runs):
    straight, killed, ends, errors = runs
    assert ends == [0, *[-signal.SIGKILL] * len(MOMENTS), 0], errors
    assert errors.count("going on from the checkpoint of step") >= 3
    assert results(killed) == results(straight)
    assert not list(killed.glob("data/checkpoints/*/*"))


BAD = [
    (("nonsense", "sample_plays", "0"), {}, {}, "unknown variant 'nonsense'"),
    (("bdh", "nonsense", "0"), {}, {}, "unknown corpus 'nonsense'"),
    (("bdh", "sample_calls", "0"), {}, {}, "holds no tokenized corpus"),
    (("bdh", "sample_plays", "0"), {}, {"window": 5000}, "train.window: a window of 5000 tokens"),
    (("bdh", "sample_plays", "0"), {}, {"learning_rule": "hebbian"}, "train.learning_rule: bdh"),
    (("transformer", "sample_plays", "0"), {}, {"l21": 0.5}, "train.l21: transformer has no such penalty"),
    (("bdh", "sample_plays", "0"), {"device": "cuda"}, {}, "there is no GPU"),
]


@pytest.mark.parametrize(("arguments", "params", "train", "message"), BAD, ids=[case[-1][:20] for case in BAD])
def test_stage_bad_input_is_one_line_and_exit_code_2(tmp_path, monkeypatch, arguments, params, train, message):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.chdir(make_project(tmp_path, params, **train))
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2, result.output
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert message in lines[0]


def test_stage_empty_validation_split_is_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(make_project(tmp_path))
    write_corpus(tmp_path / "data/tokens/sample_plays", "sample_plays", validation="")
    result = CliRunner().invoke(app, ["bdh", "sample_plays", "0"])
    assert result.exit_code == 2
    assert "the validation split is empty" in result.stderr


def test_stage_tells_the_tracker_everything(tmp_path, monkeypatch):
    seen = {"rows": [], "files": []}

    class Recording(Tracker):
        def log_history(self, rows):
            seen["rows"] += rows

        def log_dataset(self, name, digest, source, context):
            seen["dataset"] = (name, digest, source, context)

        def log_file(self, path, folder=""):
            assert path.exists()
            seen["files"].append((path.name, folder))

    class Context:
        def __init__(self, stage, key, **details):
            seen.update(stage=stage, key=key, **details)

        def __enter__(self):
            assert seen["resume_folder"].is_dir()
            return Recording()

        def __exit__(self, kind, error, trace):
            seen["error"] = kind

    monkeypatch.setattr("stages.train.tracked", Context)
    monkeypatch.chdir(make_project(tmp_path))
    assert CliRunner().invoke(app, ["bdh", "sample_plays", "0"]).exit_code == 0
    assert (seen["stage"], seen["key"], seen["error"]) == ("train", "bdh-sample_plays-0", None)
    assert seen["tags"] == {"scale": "laptop", "variant": "bdh", "corpus": "sample_plays", "seed": "0"}
    assert seen["params"] | {"train.steps": 12, "model.n_embd": 8, "device": "cpu"} == seen["params"]
    assert [row["step"] for row in seen["rows"]] == [0, 4, 8, 12]
    assert all(isinstance(value, int | float) for row in seen["rows"] for value in row.values())
    assert seen["dataset"] == ("sample_plays", "0" * 36, "data/tokens/sample_plays", "training")
    assert seen["files"] == [("curves.png", "figures"), ("samples.json", "samples")]


def test_stage_gives_the_transformer_the_training_window(tmp_path, monkeypatch):
    monkeypatch.chdir(make_project(tmp_path))
    assert CliRunner().invoke(app, ["transformer", "sample_plays", "1"]).exit_code == 0
    config = json.loads(Path("data/runs/transformer-sample_plays-1/config.json").read_text())
    assert config["model"]["block_size"] == config["model"]["window"] == 16
    assert config["seed"] == 1


def test_stage_with_other_settings_starts_afresh(tmp_path, monkeypatch):
    from bdh.params import load
    from bdh.training.run import describe

    monkeypatch.chdir(make_project(tmp_path))
    one = describe(load(), "bdh", "sample_plays", 0).checkpoints().path
    assert describe(load(), "bdh", "sample_plays", 0).checkpoints().path == one
    assert describe(load(), "bdh", "sample_plays", 1).checkpoints().path.name != one.name
    code = tmp_path / "data/code/train/bdh.json"
    code.parent.mkdir(parents=True)
    code.write_text("{}")
    two = describe(load(), "bdh", "sample_plays", 0).checkpoints().path
    make_project(tmp_path, learning_rate=0.5)
    three = describe(load(), "bdh", "sample_plays", 0).checkpoints().path
    assert len({one.name, two.name, three.name}) == 3
    assert one.parent == two.parent == three.parent == Path("data/checkpoints/bdh-sample_plays-0")


def test_stage_that_diverges_ends_well_and_the_others_tell_it(tmp_path, monkeypatch):
    """It ended with exit code 2, and nothing after it could run: not for any other variant either."""
    key, run = "bdh-sample_plays-0", ("bdh", "sample_plays", 0)
    axes = {"corpora": ["sample_plays"], "variants": ["bdh"], "seeds": [0]}
    monkeypatch.chdir(make_project(tmp_path, axes, learning_rate=100.0, weight_decay=1e6))
    (tmp_path / f"data/runs/{key}").mkdir(parents=True)
    (tmp_path / f"data/runs/{key}/model.safetensors").write_text("of an earlier training")
    result = CliRunner().invoke(app, [str(word) for word in run])
    assert result.exit_code == 0, result.output
    warnings = [line for line in result.stderr.splitlines() if line.startswith("warning: ")]
    assert len(warnings) == 1
    assert re.match(rf"warning: {key}: diverged at step \d+: .* it has no result$", warnings[0])
    assert [path.name for path in (tmp_path / f"data/runs/{key}").iterdir()] == ["config.json"]
    assert not list(tmp_path.glob("data/checkpoints/*/*"))
    with pytest.raises(RunError, match="has no model: training diverged at step"):
        load_run(tmp_path / f"data/runs/{key}")
    report = json.loads((tmp_path / f"data/results/train/{key}.json").read_text())
    assert report["parameters"] > 0
    assert report["diverged"].keys() == {"step", "reason"}
    assert not any(name.startswith(("validation", "density")) for name in report)

    dump(tmp_path / "data/results/floors/sample_plays.json", floors("sample_plays"))
    hebbian.main(*run)
    frontier.main(*run)
    compare.main()
    for stage in ("hebbian", "frontier"):
        reason = json.loads((tmp_path / f"data/results/{stage}/{key}.json").read_text())["reason"]
        assert reason == f"not measured: training diverged at step {report['diverged']['step']}"
        assert (tmp_path / f"data/results/run/{stage}/{key}.json").exists()
    assert list((tmp_path / f"data/hebbian/{key}").iterdir())
    assert json.loads((tmp_path / "reports/summary.json").read_text())["runs"]["diverged"] == 1
    assert f">diverged at step {report['diverged']['step']}</td>" in (tmp_path / "reports/index.html").read_text()


def test_stage_that_diverges_before_its_first_validation_still_has_a_history(tmp_path, monkeypatch):
    axes = {"corpora": ["sample_plays"], "variants": ["bdh"], "seeds": [0]}
    monkeypatch.chdir(make_project(tmp_path, axes))
    score = ValidationSet.score
    monkeypatch.setattr(ValidationSet, "score", lambda *given: replace(score(*given), nats_per_token=math.nan))
    assert CliRunner().invoke(app, ["bdh", "sample_plays", "0"]).exit_code == 0
    history = tmp_path / "data/results/history/bdh-sample_plays-0.csv"
    assert history.read_text() == "step,validation_nats\n"
    assert json.loads((tmp_path / "data/results/train/bdh-sample_plays-0.json").read_text())["diverged"]["step"] == 0
