"""Stage compare as DVC runs it: files written, bad input in one line, nothing read that params.yaml does not name."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

from bdh import tracking
from stages import compare
from tests.support.report_fixtures import Axes, write_diverged, write_everything

ROOT = Path(__file__).resolve().parents[2]
AXES = Axes(corpora=("sample_calls",), variants=("bdh", "transformer"))
KEY = "bdh-sample_calls-0"


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with params.yaml and the results of its two runs; tracking is off, champions are noted."""
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    params |= {"scale": "laptop", "corpora": list(AXES.corpora), "variants": list(AXES.variants), "seeds": [0]}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    write_everything(tmp_path, AXES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BDH_TRACKING", "off")
    return tmp_path


def test_compare_writes_page_table_summary_and_pointer(project, monkeypatch):
    crowned = []
    monkeypatch.setattr(tracking, "update_champions", crowned.append)
    compare.main()
    summary = json.loads((project / "reports/summary.json").read_text())
    assert summary["runs"] == {"expected": 2, "complete": 2}
    assert crowned == [summary]
    page = (project / "reports/index.html").read_text()
    assert page.startswith("<!DOCTYPE html>")
    files = set(re.findall(r'href="((?!#)[^"]+)"', page))
    assert {f"hebbian/{KEY}.json", "floors/sample_calls.json"} <= files
    assert [name for name in files if not (project / "reports" / name).is_file()] == []
    assert list(pd.read_csv(project / "reports/results.csv")["key"]) == [KEY, "transformer-sample_calls-0"]
    assert {"run_id", "experiment_id"} <= set(json.loads((project / "reports/run/compare/all.json").read_text()))


def test_compare_twice_gives_the_same_bytes(project):
    names = ("summary.json", "results.csv", "index.html")
    compare.main()
    first = [(project / "reports" / name).read_bytes() for name in names]
    compare.main()
    assert first == [(project / "reports" / name).read_bytes() for name in names]


def test_compare_reads_only_what_params_name(project):
    compare.main()
    before = (project / "reports/index.html").read_bytes()
    write_everything(project, Axes(corpora=("sample_plays",), variants=("bdh",)))
    write_everything(project, Axes(corpora=("sample_calls",), variants=("bdh_structured",)))
    (project / "data/results/train/stray.json").write_text("{")
    compare.main()
    assert (project / "reports/index.html").read_bytes() == before


FILES = [
    f"data/results/{folder}" for folder in ("train/{}.json", "timing/{}.json", "history/{}.csv", "hebbian/{}.json")
]
FILES += ["data/results/frontier/{}.json", "data/results/curves/{}.csv", "data/runs/{}/samples.json"]
FILES += ["data/hebbian/{}/units.parquet"]
CHOSEN = dict.fromkeys(("strongest", "witten_bell", "kneser_ney"), "kneser_ney_3")
OF_A_CORPUS = ["data/tokens/sample_calls/stats.json", "data/results/floors/sample_calls.json"]


@pytest.mark.parametrize("name", [*(name.format(KEY) for name in FILES), *OF_A_CORPUS])
def test_compare_without_a_result_file_names_it_and_writes_nothing(project, capsys, name):
    """A page was made from whatever was there, with exit code 0, down to an empty comparison."""
    (project / name).unlink()
    with pytest.raises(SystemExit) as ended:
        compare.main()
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error == f"error: results are missing: {name}; run `dvc repro`, which makes them\n"
    for written in ("index.html", "summary.json", "results.csv", "claims.json", "run"):
        assert not (project / "reports" / written).exists()


def test_compare_without_any_result_names_the_first_files_and_counts_the_rest(project, capsys):
    shutil.rmtree(project / "data")
    with pytest.raises(SystemExit):
        compare.main()
    error = capsys.readouterr().err
    assert error.startswith(
        "error: results are missing: data/tokens/sample_calls/stats.json, data/results/floors/sample_calls.json"
    )
    assert error.endswith(" and 15 more; run `dvc repro`, which makes them\n")


def test_compare_shows_a_training_that_diverged_and_everything_of_the_others(project):
    """One variant that diverged stopped the page for all others."""
    compare.main()
    alone = json.loads((project / "reports/summary.json").read_text())["corpora"]["sample_calls"]["variants"]["bdh"]
    write_diverged(project, "transformer-sample_calls-0")
    compare.main()
    page = (project / "reports/index.html").read_text()
    assert ">diverged at step 40</td>" in page
    assert "1 of 2 complete, 1 diverged" in page
    assert "transformer-sample_calls-0: diverged at step 40: the loss is nan (learning rate 9)" in page
    summary = json.loads((project / "reports/summary.json").read_text())
    assert summary["runs"] == {"expected": 2, "complete": 1, "diverged": 1}
    variants = summary["corpora"]["sample_calls"]["variants"]
    assert variants["bdh"] == alone | {name: variants["bdh"][name] for name in alone if name == "minus_bdh"}
    assert variants["transformer"]["seeds"] == 0
    assert "test_bits_per_byte" not in variants["transformer"]
    table = pd.read_csv(project / "reports/results.csv").set_index("key")
    assert table.loc["transformer-sample_calls-0", "missing"].startswith("diverged at step 40")
    assert pd.isna(table.loc[KEY, "missing"])
    rows = {row["number"]: row for row in json.loads((project / "reports/claims.json").read_text())["rows"]}
    assert rows[10]["verdict"] == "not measured yet"
    assert not any("transformer" in path for row in rows.values() for path in row["evidence"])


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        (f"data/results/train/{KEY}.json", "{", "is damaged"),
        (f"data/results/timing/{KEY}.json", "[]", "is damaged"),
        (f"data/results/hebbian/{KEY}.json", {"tokens": "many"}, "tokens is 'many', not a number"),
        (
            f"data/results/hebbian/{KEY}.json",
            {"arms": {"carry": {"by_position": [1.5]}}},
            "by_position is no list of rows",
        ),
        (
            f"data/results/hebbian/{KEY}.json",
            {"damping_sweep": {"rows": [{"value": 1}]}},
            "is no list of rows with damping",
        ),
        (f"data/results/frontier/{KEY}.json", '{"variant": "x", "corpus": "y", "seed": 1}', "describes the run x-y-1"),
        (f"data/results/frontier/{KEY}.json", '{"tmi": 1}', "describes the run None-None-None"),
        (f"data/results/history/{KEY}.csv", "a,b\n1,2\n", "no column step"),
        (f"data/results/history/{KEY}.csv", "step,loss\n0,1\n50,oops\n", "column loss holds text"),
        (f"data/results/curves/{KEY}.csv", "", "is damaged"),
        (f"data/results/curves/{KEY}.csv", 'metric,x,y,series\n"tmi', "is damaged"),
        (f"data/hebbian/{KEY}/units.parquet", "no parquet", "is damaged"),
        (f"data/runs/{KEY}/samples.json", "{", "is damaged"),
        (f"data/runs/{KEY}/samples.json", '["a text"]', "is no list of texts with their prompts"),
        (f"data/runs/{KEY}/samples.json", '{"a prompt": "a text"}', "is no list of texts with their prompts"),
        ("data/tokens/sample_calls/stats.json", "null", "is damaged"),
        (
            "data/results/floors/sample_calls.json",
            '{"corpus": "sample_plays"}',
            "is about sample_plays, not sample_calls",
        ),
        (
            "data/results/floors/sample_calls.json",
            {"chosen": {"strongest": "best_3"}},
            "is 'best_3', not the name of a model",
        ),
        (
            "data/results/floors/sample_calls.json",
            {"chosen": CHOSEN | {"ppm": "ppm_9"}},
            "floors/ppm_9 has no bits_per_byte",
        ),
    ],
)
def test_compare_damaged_file_is_one_line_and_exit_code_2(project, capsys, name, text, told):
    if isinstance(text, dict):
        text = json.dumps(json.loads((project / name).read_text()) | text)
    (project / name).write_text(text)
    with pytest.raises(SystemExit) as ended:
        compare.main()
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith("error: ")
    assert name in error
    assert told in error
    assert not (project / "reports/summary.json").exists()


def test_compare_runs_as_a_module_without_torch_and_mlflow(project):
    code = (
        "import runpy, sys; sys.argv = ['compare']\n"
        "try: runpy.run_module('stages.compare', run_name='__main__')\n"
        "except SystemExit as ended: assert not ended.code, ended.code\n"
        "assert not {'torch', 'mlflow', 'transformers'} & set(sys.modules), 'heavy import'"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "BDH_TRACKING": "off"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (project / "reports/index.html").exists()
