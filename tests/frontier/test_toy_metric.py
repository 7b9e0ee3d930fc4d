"""A metric costs one module and one entry of the registry: from `dvc repro` to the report, the page and MLflow."""

import json
import sqlite3
from contextlib import closing

import pytest

from tests.support.project import Project

pytestmark = [pytest.mark.pipeline, pytest.mark.slow, pytest.mark.timeout(600)]
KEY = "bdh-sample_plays-0"
MODULE = '''"""TOY: surprisal of the held-out text beside that of untrained twins."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bdh.frontier.rows import Measured, metric_row, point

if TYPE_CHECKING:
    from bdh.frontier.survey import Context, Subject


def compute(context: Context) -> Measured:
    """The row of a run and its curve."""
    value, twins = float(context.own.nats.mean()), [twin["value"] for twin in context.twins["toy"]]
    row = metric_row(
        value,
        nulls={},
        interval=(value - 0.1, value + 0.1),
        n=context.texts.text.scored,
        untrained=twins,
        reference=None,
        reference_untrained=[],
        z=1.5,
    )
    return row, [point("toy", 1.0, value, "trained"), point("toy", 2.0, float("nan"), "trained")]


def alone(subject: Subject) -> Measured:
    """What an untrained twin shows."""
    value = float(subject.own.nats.mean())
    return {"value": value}, [point("toy", 1.0, value, "untrained twin")]
'''
ENTRY = """
    Metric("toy", "TOY", "surprise of a toy", (Axes("Plot of a toy", "toys", "surprise"),), headline=("value", "n")),
"""


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """A copy of the project with the metric, after `dvc repro` of one variant on one corpus."""
    project = Project(tmp_path_factory.mktemp("toy") / "project")
    project.make_small(["bdh"], ["sample_plays"])
    project.set(**{"frontier.twins": 2, "frontier.graph_nulls": 2, "frontier.null_draws": 20, "frontier.bootstrap": 20})
    (project.folder / "bdh/frontier/toy.py").write_text(MODULE)
    registry = project.folder / "bdh/frontier/registry.py"
    start = "METRICS: tuple[Metric, ...] = ("
    registry.write_text(registry.read_text().replace(start, start + ENTRY))
    project.repro()
    return project


def metrics(project):
    """Latest metrics of every active MLflow run by the name of its stage; how busy the machine was is left out."""
    tables = "latest_metrics m join tags t using (run_uuid) join runs r using (run_uuid)"
    where = "t.key = 'dvc.stage' and r.lifecycle_stage = 'active'"
    found = {}
    with closing(sqlite3.connect(project.folder / "mlflow.db")) as store:
        rows = store.execute(f"select t.value, m.key, m.value from {tables} where {where}").fetchall()
    for stage, name, value in rows:
        if not name.startswith("system/"):
            found.setdefault(stage, {})[name] = value
    return found


def test_toy_metric_is_in_the_report_and_the_curves(toy):
    found = json.loads((toy.folder / f"reports/frontier/{KEY}.json").read_text())
    assert found["toy"]["value"] > 0
    assert found["toy"]["twins"] == 2
    curves = (toy.folder / f"reports/curves/{KEY}.csv").read_text()
    assert f"toy,1.0,{found['toy']['value']},trained" in curves
    assert ",untrained twin" in curves.split("toy,1.0,", 2)[2].splitlines()[0]
    assert "nan" not in curves, "the runner leaves out points that no axis can hold"


def test_toy_metric_is_on_the_page_and_in_the_summary(toy):
    page = (toy.folder / "reports/index.html").read_text()
    for words in ("TOY, surprise of a toy", "Plot of a toy"):
        assert words in page
    summary = json.loads((toy.folder / "reports/summary.json").read_text())
    found = json.loads((toy.folder / f"reports/frontier/{KEY}.json").read_text())["toy"]
    assert summary["corpora"]["sample_plays"]["variants"]["bdh"]["toy_value"] == found["value"]
    assert summary["corpora"]["sample_plays"]["variants"]["bdh"]["toy_n"] == found["n"]


def test_toy_metric_is_in_mlflow_beside_the_model_too(toy):
    found = metrics(toy)
    value = json.loads((toy.folder / f"reports/frontier/{KEY}.json").read_text())["toy"]["value"]
    assert found[f"frontier@{KEY}"]["toy/value"] == value
    assert found[f"train@{KEY}"]["frontier/toy"] == value
    assert "frontier/toy_n" in found[f"train@{KEY}"]


def test_toy_metric_a_refilled_store_holds_what_the_live_stages_logged(toy):
    """The stage logged names of its own choice (MCL, the state graph) that refilling knew nothing of."""
    live = metrics(toy)
    for file in toy.folder.glob("mlflow.db*"):
        file.rename(file.with_name(f"live-{file.name}"))
    toy.run("bdh", "sync")
    refilled = metrics(toy)
    for stage in (f"frontier@{KEY}", f"train@{KEY}"):
        assert refilled[stage] == live[stage]
    assert {"tmi/value", "toy/value"} <= set(live[f"frontier@{KEY}"])
