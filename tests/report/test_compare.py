"""Stage compare as DVC runs it: files written, bad input in one line, nothing read that params.yaml does not name."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

from bdh import tracking
from stages import compare
from tests.support.report_fixtures import Axes, write_everything

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
    assert (project / "reports/index.html").read_text().startswith("<!DOCTYPE html>")
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
    (project / "reports/train/stray.json").write_text("{")
    compare.main()
    assert (project / "reports/index.html").read_bytes() == before


def test_compare_goes_on_without_some_results(project):
    (project / f"reports/hebbian/{KEY}.json").unlink()
    (project / f"reports/curves/{KEY}.csv").unlink()
    compare.main()
    assert json.loads((project / "reports/summary.json").read_text())["runs"] == {"expected": 2, "complete": 1}
    missing = pd.read_csv(project / "reports/results.csv")["missing"][0]
    assert f"reports/hebbian/{KEY}.json is missing (stage hebbian)" in missing


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        (f"reports/train/{KEY}.json", "{", "is damaged"),
        (f"reports/timing/{KEY}.json", "[]", "is damaged"),
        (f"reports/hebbian/{KEY}.json", '{"tokens": "many"}', "tokens is 'many', not a number"),
        (f"reports/frontier/{KEY}.json", '{"variant": "x", "corpus": "y", "seed": 1}', "describes the run x-y-1"),
        (f"reports/history/{KEY}.csv", "a,b\n1,2\n", "no column step"),
        (f"reports/history/{KEY}.csv", "step,loss\n0,1\n50,oops\n", "column loss holds text"),
        (f"reports/curves/{KEY}.csv", "", "is damaged"),
        (f"reports/curves/{KEY}.csv", 'metric,x,y,series\n"tmi', "is damaged"),
        (f"data/hebbian/{KEY}/units.parquet", "no parquet", "is damaged"),
        (f"data/runs/{KEY}/samples.json", "{", "is damaged"),
        ("data/tokens/sample_calls/stats.json", "null", "is damaged"),
    ],
)
def test_compare_damaged_file_is_one_line_and_exit_code_2(project, capsys, name, text, told):
    (project / name).write_text(text)
    with pytest.raises(SystemExit) as ended:
        compare.main()
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith("error: ")
    assert name in error
    assert told in error


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
