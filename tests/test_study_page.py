"""README.md and the committed pages show what reports/reference holds."""

import json
import shutil
from pathlib import Path

from bdh.report.study.page import render_study
from bdh.report.study.plan import load_study
from bdh.report.study.readme import digest, with_study

ROOT = Path(__file__).resolve().parents[1]
STUDY = Path("reports/reference")


def test_study_of_the_readme_is_that_of_the_summary(monkeypatch):
    monkeypatch.chdir(ROOT)
    summary = json.loads((STUDY / "summary.json").read_text(encoding="utf-8"))
    readme = Path("README.md").read_text(encoding="utf-8")
    assert with_study(readme, summary) == readme, "run `bdh study readme`"
    assert digest(summary) in Path("docs/images/study.svg").read_text(encoding="utf-8"), "run `bdh study readme`"


def test_study_summary_is_that_of_its_cells(monkeypatch, tmp_path):
    """A row was edited by hand, or a cell came in without `bdh study render`."""
    monkeypatch.chdir(ROOT)
    copy = tmp_path / STUDY
    shutil.copytree(STUDY, copy)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "benchmarks/results").mkdir(parents=True)
    shutil.copy(ROOT / "benchmarks/results/h200_scaling.json", tmp_path / "benchmarks/results")
    render_study(load_study(STUDY))
    made, kept = (json.loads((folder / "summary.json").read_text()) for folder in (copy, ROOT / STUDY))
    for part in ("cells", "rows", "not_run", "corpora"):
        assert made[part] == kept[part], "run `bdh study render`"
