"""The registry of metrics: light, complete, and the only place that the mirror, the view and the page ask."""

import importlib
import inspect
import json
import subprocess
import sys

import pytest

from bdh.frontier import registry
from bdh.frontier.registry import METRICS, rows
from bdh.frontier.rows import metric_row
from bdh.frontier.survey import Context
from bdh.tracking import mirror
from bdh.tracking.store import columns


def report():
    """A frontier report with a value of its own in every row."""
    found = {"bits_per_byte": 2.0, "perplexity": 9.0, "dead_neurons_share": 0.1, "density": {"x_sparse": {"mean": 0.2}}}
    found |= {"weight_sparsity": {"exact_zeros": 0.3}, "nats_per_token": 1.5}
    for place, row in enumerate(rows()):
        whole = metric_row(
            10.0 + place, nulls={}, interval=(None, None), n=5, untrained=[1.0], reference=None, reference_untrained=[]
        ) | {"z": 20.0 + place}  # fmt: skip
        section = found
        *above, last = row.path.split("/")
        for part in above:
            section = section.setdefault(part, {})
        section[last] = whole
    return found


def test_registry_is_plain_data_without_torch():
    code = "import json, sys, bdh.frontier.registry; print(json.dumps(sorted({m.split('.')[0] for m in sys.modules})))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not {"torch", "numpy", "scipy", "pandas", "mlflow"} & set(json.loads(loaded))


def test_registry_names_are_unique_and_every_metric_takes_the_same_context():
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    assert len({row.path for row in rows()}) == len(list(rows())) >= len(METRICS)
    for metric in METRICS:
        (parameter,) = inspect.signature(importlib.import_module(metric.module).compute).parameters.values()
        assert parameter.annotation == Context.__name__
        assert "\n" not in metric.description
        assert metric.headline


def test_registry_numbers_of_every_metric_reach_the_run_the_model_and_the_view(tmp_path, monkeypatch):
    """MCL and the state graph were logged by a live stage and lost when a store was refilled; the view had neither."""
    monkeypatch.chdir(tmp_path)
    path = mirror.main_report("frontier", "bdh-sample_plays-0")
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(report()))
    run = mirror.stage_metrics("frontier", "bdh-sample_plays-0")
    beside = mirror.headlines("frontier", "bdh-sample_plays-0")
    for place, row in enumerate(rows()):
        assert run[f"{row.path}/value"] == 10.0 + place
        assert run[f"{row.path}/untrained_mean"] == 1.0
        assert beside[f"frontier/{row.path}"] == 10.0 + place
        assert ("z" in row.metric.headline) == (f"frontier/{row.path}_z" in beside)
        assert f"metrics.`frontier/{row.path}`" in columns()
    assert {"bits_per_byte", "weights/exact_zeros", "density/x_sparse"} <= set(run)
    assert {"frontier/dead_neurons_share", "frontier/density/x_sparse"} <= set(beside)


@pytest.mark.parametrize("missing", [{}, {"tmi": None, "degrees": {"in": None}}])
def test_registry_reads_a_report_that_is_older_than_a_metric(missing):
    assert set(registry.run_numbers(missing).values()) == {None}
    assert set(registry.headlines(missing).values()) == {None}
