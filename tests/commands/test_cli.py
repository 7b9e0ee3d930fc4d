"""The `bdh` command as its users meet it: options, one-line errors, exit codes, and what each command prints."""

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main

from bdh import __main__ as cli
from bdh.commands import ui
from bdh.commands.doctor import corpus_checks, dvc_state
from bdh.commands.generate import pieces, until
from bdh.models.base import build
from bdh.params import load
from bdh.project.errors import shown
from bdh.project.files import RUNS, TOKENS
from bdh.training.checkpoints import save_run
from tests.support.shared import shared
from tests.support.toys import write_corpus
from tests.support.tracked_project import ROOT, UNWANTED, finished_project

KEY = "bdh-toy-0"
OPTIONS = {
    "tune": {"[VARIANT]...", "--corpus", "--jobs", "--draws", "--choose", "--trial"},
    "repro": {"[RUN]...", "--jobs", "--time-limit", "--executor", "--cluster", "--slurm"},
    "reproduce": {"RUN", "--tolerance", "--keep"},
    "doctor": set(),
    "ui": {"--port"},
    "audit": set(),
    "sync": set(),
    "generate": {"RUN...", "--prompt", "--tokens", "--temperature", "--top-k", "--seed", "--stop", "--json"},
    "golden": {"DIR"},
    "inspect": {"RUN", "--text", "--activity", "--top", "--html", "--json"},
    "export": {"RUN", "DIR"},
    "import": {"SOURCE", "--variant", "--corpus", "--layers", "--compare"},
    "study render": {"--study"},
    "study add": {"FOLDER|TAR", "--study", "--commit"},
    "study pack": {"TAR", "--study", "--from"},
    "study readme": {"--study"},
    "study run": {
        "[ROW]...", "--recipe", "--variant", "--corpus", "--seed", "--jobs", "--time-limit", "--study",
    },
}  # fmt: skip


def bdh(capsys, *words):
    """Exit code, standard output and standard error of one command."""
    with pytest.raises(SystemExit) as ended:
        cli.main(words)
    captured = capsys.readouterr()
    return ended.value.code, captured.out, captured.err


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """An empty repository as the current folder."""
    for name in UNWANTED:
        monkeypatch.delenv(name, raising=False)
    for name in ("dvc.yaml", "params.yaml"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def with_run(repository):
    """A repository with one small run on a corpus of bytes."""
    write_corpus(repository / TOKENS / "toy")
    shape = {"n_layer": 1, "n_embd": 16, "n_head": 2, "mlp_internal_dim_multiplier": 4}
    model = build("bdh", vocab_size=256, seed=0, **shape)
    config = {"variant": "bdh", "architecture": "bdh", "vocab_size": 256, "corpus": "toy", "seed": 0, "model": shape}
    save_run(repository / RUNS / KEY, model, config)
    return repository


def commands():
    """Every command by its words."""
    top = typer.main.get_command(cli.app).commands
    inner = {f"study {name}": command for name, command in top["study"].commands.items()}
    return {name: command for name, command in top.items() if name != "study"} | inner


def test_cli_has_these_options_and_no_others():
    found = {}
    for name, command in commands().items():
        options = [option for option in command.params if option.name != "help"]
        found[name] = {option.opts[0] if option.opts[0].startswith("-") else option.metavar for option in options}
    assert found == OPTIONS


def test_cli_every_command_says_what_it_is_for():
    for name, command in commands().items():
        assert command.help, name
        for option in command.params:
            assert getattr(option, "help", None), (name, option.name)


def test_cli_runs_as_a_module_and_imports_nothing_heavy():
    code = "import sys, bdh.__main__; sys.exit(', '.join({'torch', 'mlflow', 'pandas', 'dvc'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stderr.strip() == ""
    done = subprocess.run([sys.executable, "-m", "bdh", "--help"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert all(name.split()[0] in done.stdout for name in OPTIONS)


@pytest.mark.parametrize(
    "words", [["ui"], ["audit"], ["sync"], ["doctor"], ["generate", "bdh-toy-0"]], ids=lambda w: w[0]
)
def test_cli_outside_a_repository_is_one_line(capsys, tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    code, out, err = bdh(capsys, *words)
    assert (code, out) == (2, "")
    assert err == f"error: {tmp_path} is not inside a Hatchery repository (no dvc.yaml here or above); cd into one\n"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["hatch"], "No such command 'hatch'"),
        (["generate"], "Missing argument 'RUN...'"),
        (["generate", "x", "--tokens", "many"], "'--tokens': Input should be a valid integer"),
        (["generate", "x", "--tokens", "0"], "--tokens"),
        (["ui", "--port", "99999"], "--port"),
        (["audit", "--fast"], "--fast"),
        (["golden", "/nowhere"], "/nowhere is no folder"),
    ],
)
def test_cli_mistakes_are_one_line_and_exit_2(capsys, repository, words, told):
    code, out, err = bdh(capsys, *words)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert told.lower() in err.lower()


def test_cli_unreachable_store_is_one_line(capsys, repository, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    for command in ("audit", "sync", "ui"):
        code, _, err = bdh(capsys, command)
        assert code == 2
        assert err.startswith("error: http://127.0.0.1:9 does not answer")
        assert err.count("\n") == 1


def test_generate_continues_the_prompt_and_repeats_itself(capsys, with_run):
    first = bdh(capsys, "generate", KEY, "--prompt", "the cat", "--tokens", "30", "--seed", "3")
    assert first == bdh(capsys, "generate", KEY, "--prompt", "the cat", "--tokens", "30", "--seed", "3")
    code, out, err = first
    assert (code, err) == (0, "")
    assert out.startswith("the cat")
    other = bdh(capsys, "generate", KEY, "--prompt", "the cat", "--tokens", "30", "--seed", "4")
    assert other[1] != out
    greedy = [bdh(capsys, "generate", KEY, "--prompt", "a", "--temperature", "0", "--seed", str(s))[1] for s in (1, 2)]
    assert greedy[0] == greedy[1]


def test_generate_writes_several_runs_side_by_side_and_as_json(capsys, with_run):
    """Each run writes what it writes alone, in a table on one screen and in JSON for programs."""
    other = "eq8-toy-0"
    shape = {"n_layer": 1, "n_embd": 16, "n_head": 2, "mlp_internal_dim_multiplier": 4}
    config = {"variant": "eq8", "architecture": "eq8", "vocab_size": 256, "corpus": "toy", "seed": 0, "model": shape}
    save_run(with_run / RUNS / other, build("eq8", vocab_size=256, seed=0, **shape), config)
    given = ("--prompt", "the cat", "--tokens", "9", "--temperature", "0")
    alone = [bdh(capsys, "generate", key, *given)[1] for key in (KEY, other)]
    code, out, _ = bdh(capsys, "generate", KEY, other, "--json", *given)
    assert code == 0
    assert [one["prompt"] + one["text"] + "\n" for one in json.loads(out)] == alone
    assert [one["run"] for one in json.loads(out)] == [KEY, other]
    code, out, _ = bdh(capsys, "generate", KEY, other, *given)
    assert code == 0
    assert out.splitlines()[0] == "the cat"
    assert out.splitlines()[1].split() == [KEY, other]


def test_generate_reads_the_prompt_from_standard_input(capsys, with_run, monkeypatch):
    wanted = bdh(capsys, "generate", KEY, "--prompt", "the cat", "--tokens", "5")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"the cat")))
    assert bdh(capsys, "generate", KEY, "--prompt", "-", "--tokens", "5") == wanted
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xff")))
    code, _, err = bdh(capsys, "generate", KEY, "--prompt", "-")
    assert (code, "--prompt is not UTF-8" in err) == (2, True)


@pytest.mark.parametrize(
    ("pieces_of_text", "stops", "wanted"),
    [
        (["ab", "c\n", "\nd"], ["\n\n"], "abc"),
        (["ab", "c\n", "d"], ["\n\n"], "abc\nd"),
        (["abcd"], ["d", "b"], "a"),
        (["abcd"], [], "abcd"),
        (["x"], ["x"], ""),
    ],
)
def test_generate_stops_before_the_first_of_some_texts(pieces_of_text, stops, wanted):
    """A stop text that comes in two pieces, and one that only begins."""
    assert "".join(until(iter(pieces_of_text), stops)) == wanted


def test_generate_takes_a_folder_and_works_below_the_root(capsys, with_run, monkeypatch):
    by_key = bdh(capsys, "generate", KEY, "--prompt", "a", "--tokens", "5")
    monkeypatch.chdir(with_run / "data/runs")
    assert bdh(capsys, "generate", f"./{KEY}", "--prompt", "a", "--tokens", "5") == by_key


def test_generate_unknown_run_lists_the_known_ones(capsys, with_run):
    code, _, err = bdh(capsys, "generate", "bdh-toy-1")
    assert code == 2
    assert err == f"error: unknown run 'bdh-toy-1'; known runs: {KEY}\n"


def test_generate_without_any_run_says_what_makes_them(capsys, repository):
    assert "dvc repro" in bdh(capsys, "generate", KEY)[2]


def test_generate_empty_prompt_is_a_mistake(capsys, with_run):
    code, _, err = bdh(capsys, "generate", KEY, "--prompt", "")
    assert code == 2
    assert "--prompt" in err


@pytest.mark.parametrize("text", ["plain", "čaj a 茶 und 🐉!", "é" * 20, ""])
def test_generated_signs_come_out_whole(text):
    def decode(ids):
        return bytes(ids).decode("utf-8", errors="replace")

    found = list(pieces(decode, text.encode()))
    assert "".join(found) == text
    assert all("\N{REPLACEMENT CHARACTER}" not in piece for piece in found)


def test_generated_text_is_written_as_it_comes_and_broken_bytes_do_not_pile_up():
    asked = []

    def broken():
        for index in range(1000):
            asked.append(index)
            yield 0xFF

    stream = pieces(lambda ids: bytes(ids).decode("utf-8", errors="replace"), broken())
    next(stream)
    assert len(asked) < 10


def test_golden_passes_on_the_project_s_own_vectors(capsys):
    code, out, _ = bdh(capsys, "golden", str(ROOT / "tests/golden"))
    assert code == 0
    assert "official_small" in out
    assert "passed" in out


def test_golden_unchecked_file_is_a_failure(capsys, tmp_path):
    (tmp_path / "unheard_of.npz").write_bytes((ROOT / "tests/golden/official_small.npz").read_bytes())
    code, out, _ = bdh(capsys, "golden", str(tmp_path))
    assert code == 1
    assert "no checker" in out


def test_golden_passes_on_the_official_vectors(capsys, tmp_path):
    for path in shared("golden").glob("official_*.npz"):
        (tmp_path / path.name).symlink_to(path)
    code, out, _ = bdh(capsys, "golden", str(tmp_path))
    assert code == 0, out


def test_doctor_reports_every_subject(capsys, repository, monkeypatch):
    monkeypatch.setattr("bdh.commands.doctor._answers", lambda url: False)
    code, out, _ = bdh(capsys, "doctor")
    assert code == 1, "a folder without .dvc is a problem"
    for subject in ("versions", "params.yaml", "device", "corpus sample_plays", "MLflow store", "disk", "DVC"):
        assert subject in out
    assert "dvc init" in out
    assert "generated here" in out
    assert "BDH_CORPORA_MIRROR" in out


def test_doctor_finds_corpora_in_the_mirror_and_on_disk(repository, monkeypatch):
    monkeypatch.setattr("bdh.commands.doctor._answers", lambda url: False)
    mirror = repository / "mirror"
    (mirror / "tinyshakespeare").mkdir(parents=True)
    (mirror / "tinyshakespeare/input.txt").write_text("x")
    (repository / "data/raw/sample_calls").mkdir(parents=True)
    monkeypatch.setenv("BDH_CORPORA_MIRROR", str(mirror))
    rows = {check.name: (check.state, check.detail, check.remedy) for check in corpus_checks(load())}
    assert rows["corpus shakespeare (not chosen)"] == ("ok", f"mirror {mirror}", "")
    assert rows["corpus sample_calls"] == ("ok", "fetched: data/raw/sample_calls", "")
    assert rows["corpus sample_plays"] == ("ok", "generated here", "")


def test_doctor_calls_only_a_chosen_corpus_a_problem(repository, monkeypatch):
    monkeypatch.setattr("bdh.commands.doctor._answers", lambda url: False)
    text = (repository / "params.yaml").read_text()
    (repository / "params.yaml").write_text(text.replace("  - sample_plays\n", "  - shakespeare\n", 1))
    rows = {check.name: (check.state, check.remedy) for check in corpus_checks(load())}
    state, remedy = rows["corpus shakespeare"]
    assert state == "problem"
    assert "BDH_CORPORA_MIRROR" in remedy
    assert {state for name, (state, _) in rows.items() if "not chosen" in name} <= {"ok", "note"}


def test_doctor_names_the_mistake_in_params(capsys, repository):
    (repository / "params.yaml").write_text("scale: laptop\n")
    code, out, _ = bdh(capsys, "doctor")
    assert code == 1
    assert "PROBLEM" in out
    assert "this key is missing" in out


def test_doctor_reports_a_store_that_cannot_be_read(capsys, repository):
    (repository / "mlflow.db").write_text("no database, but long enough to be taken for one" * 20)
    out = bdh(capsys, "doctor")[1]
    assert "not a database" in out
    assert "bdh sync" in out


def test_doctor_says_what_dvc_has_to_do(tmp_path_factory, tmp_path, monkeypatch):
    project = finished_project(tmp_path_factory).copy_to(tmp_path / "copy")
    monkeypatch.chdir(project.folder)
    assert dvc_state().detail == "every stage is up to date"
    (project.folder / "bdh/extra.py").write_text("")
    assert dvc_state().detail == "stages with something to do: 1"
    (project.folder / "dvc.yaml").write_text("stages: [")
    assert dvc_state().state == "problem"


@pytest.mark.parametrize(
    ("keep", "told"), [(0, "empty (0 bytes)"), (0.9, "broken"), (-1, "broken")], ids=["empty", "cut", "no stages"]
)
def test_dvc_lock_that_was_cut_is_recognised(capsys, repository, keep, told):
    """doctor said "mend dvc.yaml", audit advised to delete pointers or said that all agree."""
    lock = b"schema: '2.0'\nstages:\n  code:\n    cmd: python -m stages.code\n    deps:\n    - path: bdh\n"
    Path("dvc.lock").write_bytes(b"- 1\n" if keep < 0 else lock[: int(len(lock) * keep)])
    (repository / ".dvc").mkdir(exist_ok=True)
    (repository / ".git").mkdir(exist_ok=True)
    for said in (f"{dvc_state().detail}; {dvc_state().remedy}", bdh(capsys, "audit")[2], bdh(capsys, "sync")[2]):
        assert told in said
        assert "rm dvc.lock" in said
        assert "dvc repro" in said
    assert bdh(capsys, "audit")[0] == 2


def test_doctor_shows_no_secret_and_names_a_mirror_that_refuses(capsys, repository, monkeypatch):
    monkeypatch.setattr("bdh.commands.doctor._answers", lambda url: False)
    monkeypatch.setenv("BDH_CORPORA_MIRROR", "http://me:hunter2x/yz@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:hunter3x@zw@127.0.0.1:9")
    out = bdh(capsys, "doctor")[1]
    assert "hunter" not in out
    assert "zw" not in out
    assert "BDH_CORPORA_MIRROR: http://***@127.0.0.1:9" in out


def test_ui_shows_no_secret(capsys):
    ui.show_address(shown("http://me:hunter2x@127.0.0.1:5000"), "1")
    assert "hunter" not in capsys.readouterr().out
    assert "hunter" not in " ".join(ui.server_command(5000))


def test_audit_and_sync_on_a_finished_project(capsys, tmp_path_factory, tmp_path, monkeypatch):
    project = finished_project(tmp_path_factory).copy_to(tmp_path / "copy")
    for name in UNWANTED:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(project.folder / "reports")
    code, out, err = bdh(capsys, "audit")
    assert (code, err) == (1, "")
    assert "train@bdh-sample_plays-0" in out
    assert "bdh sync" in out
    code, out, err = bdh(capsys, "sync")
    assert (code, err) == (0, "")
    assert "4 rebuilt" in out
    monkeypatch.chdir(project.folder)
    assert bdh(capsys, "audit") == (0, "dvc.lock, 4 pointers and the MLflow store agree\n", "")
    assert "4 kept" in bdh(capsys, "sync")[1]
    pointer = json.loads((project.folder / "reports/run/train/bdh-sample_plays-0.json").read_text())
    assert set(pointer) == {"run_id", "experiment_id", "started", "ended"}
