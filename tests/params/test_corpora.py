"""The corpus sections of params.yaml: all valid, still valid after DVC rewrote the file, and enough for own texts."""

import os
import shutil
import subprocess
import sys
from itertools import takewhile
from pathlib import Path

import pytest
import typer
import yaml
from dvc.utils.hydra import apply_overrides

import stages.fetch
import stages.tokenize
from bdh.corpora.tokens import TokenCorpus
from bdh.params import load
from tests.support import corpus_cases

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = {"sample_plays", "sample_calls", "shakespeare", "transcripts", "tinystories", "divine_comedy"}


def documented() -> dict:
    """The example section that the comment above `corpus` shows."""
    lines = iter((ROOT / "params.yaml").read_text(encoding="utf-8").splitlines())
    while next(lines) != "#   mine:":
        pass
    rest = takewhile(lambda line: line.startswith("#   "), lines)
    return yaml.safe_load("\n".join(["mine:", *(line.removeprefix("#   ") for line in rest)]))


def run(folder: Path, monkeypatch: pytest.MonkeyPatch, corpus: str) -> TokenCorpus:
    monkeypatch.chdir(folder)
    for stage, program in (("fetch", stages.fetch.main), ("tokenize", stages.tokenize.main)):
        monkeypatch.setattr(sys, "argv", [stage, corpus])
        with pytest.raises(SystemExit) as ended:
            typer.run(program)
        assert not ended.value.code
    return TokenCorpus.open(folder / "data/tokens" / corpus)


def test_params_have_every_corpus_that_ships() -> None:
    assert load(ROOT / "params.yaml").corpus.keys() >= SHIPPED


def test_params_give_transcripts_the_two_stage_model_on_a_gpu(tmp_path: Path) -> None:
    params = load(ROOT / "params.yaml").model_copy(update={"scale": "gpu"})
    overrides = params.corpus["transcripts"].scales.gpu
    train = params.train_of("bdh", "transcripts")
    assert overrides.model == {"n_layer": 4, "n_embd": 128, "n_head": 4, "mlp_internal_dim_multiplier": 128}
    assert (train.steps, train.batch_size, train.window, train.l1, train.l21) == (8000, 32, 512, 0.0, 0.0)


def test_params_rewritten_by_dvc_give_the_same_corpora(tmp_path: Path) -> None:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    before = load(tmp_path / "params.yaml")
    apply_overrides(tmp_path / "params.yaml", ["seeds=[0,1]"])
    assert load(tmp_path / "params.yaml").corpus == before.corpus
    apply_overrides(tmp_path / "params.yaml", ["corpus.sample_calls.text.split.train_until=2017-12-31"])
    after = load(tmp_path / "params.yaml").corpus["sample_calls"]
    assert after.text.split.train_until.isoformat() == "2017-12-31"


@pytest.mark.parametrize("rewritten", [False, True])
def test_own_text_needs_its_section_alone(rewritten: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my").mkdir()
    (tmp_path / "my/texts.txt").write_text("".join(f"line {n:03d}.\n" for n in range(10_000)), encoding="utf-8")
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    params["corpus"]["mine"] = documented()["mine"]
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
    if rewritten:
        apply_overrides(tmp_path / "params.yaml", ["corpora=[mine]"])
    corpus = run(tmp_path, monkeypatch, "mine")
    sizes = {split: len(corpus.tokens(split)) for split in ("train", "validation", "test")}
    assert sizes["test"] == sum(sizes.values()) // 10
    assert sizes["validation"] == 4096 * len(corpus.segments("validation"))
    assert corpus.name == "mine"
    assert documented()["mine"]["source"]["licence"] == "mine"


def test_own_table_needs_its_section_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"body": f"text {number}", "day": f"20{10 + number}-05-06"} for number in range(14)]
    corpus_cases.write_table(tmp_path / "own.parquet", rows)
    section = corpus_cases.table_section(Path("own.parquet"), {"text": "body", "date": "day"})
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    params["corpus"]["own"] = section.model_dump(mode="json", exclude_unset=True)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
    corpus = run(tmp_path, monkeypatch, "own")
    assert corpus.documents.query("split == 'test'").date.tolist() == [f"20{year}-05-06" for year in range(19, 24)]


def test_additions_of_a_user_break_no_test(tmp_path: Path) -> None:
    """A corpus as the comment shows it, a variant's section, and a model file that has no section yet.

    Fixed lists of what params.yaml holds failed on them.
    """
    caches = shutil.ignore_patterns("__pycache__", ".*")
    for folder in ("bdh", "stages", "tests"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=caches)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for name in ("own_model", "own_model_without_section"):
        shutil.copy(ROOT / "bdh/models/transformer.py", tmp_path / f"bdh/models/{name}.py")
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    params["corpus"] |= documented()
    params["corpora"].append("mine")
    params["variant"]["own_model"] = {"model": {"n_layer": 3}, "train": {"steps": 5}}
    params["variants"].append("own_model")
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
    example = yaml.safe_dump(documented(), sort_keys=False).splitlines()
    with (tmp_path / "params.yaml").open("a", encoding="utf-8") as file:
        file.writelines(f"#   {line}\n" for line in example)
    tests = ["tests/params/test_corpora.py", "tests/params/test_load.py", "tests/models/test_contract.py"]
    chosen = "that_ships or own_text or own_table or section or shipped or distinct or resolves"
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests, "-k", chosen]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
