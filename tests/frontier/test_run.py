"""The stages hebbian and frontier as they are run, and what their reports hold."""

import csv
import json
from pathlib import Path

import pytest
import yaml

from bdh.models.base import build
from bdh.params import load
from bdh.project.files import RUNS, TOKENS, run_key
from bdh.training.checkpoints import save_run
from stages import fetch, frontier, hebbian, tokenize, twins

ROOT = Path(__file__).resolve().parents[2]
SHAPES = {
    "bdh": {"n_layer": 2, "n_embd": 16, "n_head": 2, "mlp_internal_dim_multiplier": 8},
    "transformer": {"block_size": 32, "match": "none", "width": 16, "depth": 1, "heads": 2},
}
FILES = ("data/results/hebbian/{}.json", "data/results/frontier/{}.json", "data/results/curves/{}.csv")


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A folder with a small generated corpus and two untrained runs, evaluated twice."""
    folder = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("BDH_TRACKING", "off")
        _write_params(folder)
        fetch.main("sample_calls")
        tokenize.main("sample_calls")
        vocab = json.loads((TOKENS / "sample_calls" / "stats.json").read_text())["tokenizer"]["vocab_size"]
        for variant in SHAPES:
            key = run_key(variant, "sample_calls", 0)
            config = {"variant": variant, "architecture": variant, "vocab_size": vocab}
            model = load().model_of(variant, "sample_calls")
            config |= {"corpus": "sample_calls", "seed": 0, "model": model}
            save_run(RUNS / key, build(variant, vocab_size=vocab, seed=0, **model), config)
            hebbian.main(variant, "sample_calls", 0)
            twins.main(variant, "sample_calls")
            frontier.main(variant, "sample_calls", 0)
        yield folder


def _write_params(folder):
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["device"] = "cpu"
    params["corpus"]["sample_calls"]["source"]["documents"] = 32
    params["corpus"]["sample_calls"]["tokenizer"]["vocab_size"] = 300
    params["hebbian"] |= {"bootstrap": 50, "laptop": {"window": 32, "max_tokens": 1600}}
    params["frontier"] |= {"graph_nulls": 2, "null_draws": 30, "bootstrap": 30, "twins": 2}
    params["frontier"]["laptop"]["max_tokens"] = 1407
    params["variant"] |= {variant: {"model": shape} for variant, shape in SHAPES.items()}
    (folder / "params.yaml").write_text(yaml.safe_dump(params))


def report(folder, kind, variant):
    return json.loads((folder / "data/results" / kind / f"{variant}-sample_calls-0.json").read_text())


def test_frontier_stages_give_the_same_files_again(project, monkeypatch):
    monkeypatch.chdir(project)
    monkeypatch.setenv("BDH_TRACKING", "off")
    paths = [project / pattern.format("bdh-sample_calls-0") for pattern in FILES]
    paths += sorted((project / "data/hebbian/bdh-sample_calls-0").iterdir())
    before = [path.read_bytes() for path in paths]
    hebbian.main("bdh", "sample_calls", 0)
    frontier.main("bdh", "sample_calls", 0)
    assert [path.read_bytes() for path in paths] == before
    assert len(paths) == 6


def test_frontier_takes_its_headline_from_the_static_arm(project):
    for variant in SHAPES:
        static = report(project, "hebbian", variant)["arms"]["static"]
        found = report(project, "frontier", variant)
        assert found["bits_per_byte"] == static["bits_per_byte"]
        assert found["perplexity"] == static["perplexity"]


def test_frontier_measures_a_text_whose_eighth_is_not_whole(project):
    """1407 / 8 rounds up: the largest window of the DFA did not fit, SPS was nan and the stage ended in a traceback."""
    found = report(project, "frontier", "bdh")
    assert found["sps"]["n"] == 1407
    assert found["sps"]["ci_low"] < found["sps"]["value"] < found["sps"]["ci_high"]


def test_frontier_rows_are_complete(project):
    found = report(project, "frontier", "bdh")
    for metric in ("tmi", "sps", "sec"):
        row = found[metric]
        numbers = ("value", "null_mean", "null_sd", "z", "p", "n", "reference_protocol", "untrained_mean")
        assert all(row[name] is not None for name in numbers), metric
        assert row["twins"] == 2
        assert "reason" not in row
    assert set(found["density"]) == {"x_sparse", "y_sparse", "xy_sparse"}
    assert len(found["density"]["x_sparse"]["layers"]) == 2
    assert 0 <= found["dead_neurons_share"] < 1
    assert found["untrained"]["bits_per_byte"] > 0
    assert len(set(found["untrained"]["seeds"]) - {0}) == 2


def test_frontier_untrained_run_is_not_distinguishable_from_untrained_twins(project):
    found = report(project, "frontier", "bdh")
    verdicts = {found[metric]["verdict"] for metric in ("tmi", "sps", "sec", "mcl", "state_graph")}
    assert verdicts <= {"not distinguishable from its null", "not measurable"}
    assert found["tmi"]["verdict"] == found["sps"]["verdict"] == "not distinguishable from its null"
    assert {found["degrees"][side]["verdict"] for side in ("in", "out")} <= verdicts | {"not measurable"}


def test_frontier_variant_without_graph_and_sparse_codes_has_reasons(project):
    found = report(project, "frontier", "transformer")
    for metric in ("tmi", "sps", "sec"):
        assert found[metric]["value"] is None
        assert found[metric]["reason"]
    assert found["dead_neurons_share"] == 0
    assert found["density"]["mlp_sparse"]["mean"] == 1, "a GELU unit is never exactly zero"
    arms = report(project, "hebbian", "transformer")["arms"]
    assert arms["static"]["bits_per_byte"] > 0
    assert arms["carry"]["bits_per_byte"] is None
    assert arms["carry"]["reason"]


def test_frontier_curves_are_one_long_table(project):
    with (project / "data/results/curves/bdh-sample_calls-0.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert set(rows[0]) == {"metric", "x", "y", "series"}
    assert {row["metric"] for row in rows} == {"bits_per_byte_by_position", "tmi", "sps", "sec", "degrees"} | (
        {"mcl"} & {row["metric"] for row in rows}
    )
    arms = {row["series"] for row in rows if row["metric"] == "bits_per_byte_by_position"}
    assert {"static", "carry", "observe"} <= arms
    assert all(float(row["x"]) >= 0 and abs(float(row["y"])) < 1e3 for row in rows)


def test_frontier_without_stage_b_is_one_line_and_exit_2(project, monkeypatch, capsys):
    monkeypatch.chdir(project)
    monkeypatch.setenv("BDH_TRACKING", "off")
    with pytest.raises(SystemExit) as stopped:
        frontier.main("bdh", "sample_calls", 7)
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1


def test_hebbian_strata_of_calls_are_years_and_sectors(project):
    static = report(project, "hebbian", "bdh")["arms"]["static"]
    assert all(2019 <= int(year) <= 2030 for year in static["by_year"])
    assert sum(part["tokens"] for part in static["by_year"].values()) == static["tokens"]
    assert sum(part["tokens"] for part in static["by_sector"].values()) == static["tokens"]
