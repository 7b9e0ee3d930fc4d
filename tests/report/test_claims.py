"""The claims ledger: numbers planted on either side of every rule give the verdict that the rule states."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from bdh.report.claims.finding import NOT_MEASURED, NOT_SUPPORTED, SUPPORTED, TOO_SMALL
from bdh.report.claims.ledger import CLAIMS, claims_table, judge, ledger_rows, write_ledger
from bdh.report.data.inputs import Inputs, load_inputs
from bdh.report.data.spread import NOT_DISTINCT
from bdh.report.page import render_page
from tests.support.report_fixtures import Axes, write_everything

CORPUS = "sample_calls"


def jittered(value, seed):
    """The value with a chance of its own in every training."""
    return value + 0.002 * float(np.random.default_rng([round(value * 1e4), seed]).standard_normal())


@pytest.fixture
def verdict(tmp_path, monkeypatch):
    """Write results, edit those of some variants, and return the verdict on one claim."""
    monkeypatch.chdir(tmp_path)

    def judged(number, edits=None, axes=None):
        axes = axes or Axes(corpora=(CORPUS,))
        write_everything(tmp_path, axes)
        for variant, corpus, seed in axes.runs():
            for (stage, name), edit in (edits or {}).items():
                path = tmp_path / f"reports/{stage}/{variant}-{corpus}-{seed}.json"
                if variant == name:
                    value = json.loads(path.read_text())
                    edit(value, seed)
                    path.write_text(json.dumps(value))
        return {claim.number: finding for claim, finding in judge(load_inputs(axes))}[number].verdict

    return judged


def metric(name, **numbers):
    return {
        ("frontier", variant): lambda report, seed: report[name].update(numbers)
        for variant in ("bdh", "bdh_structured")
    }


@pytest.mark.parametrize(
    ("number", "name", "inside", "below"), [(1, "tmi", 0.6, 0.1), (2, "sps", 0.7, 0.5), (3, "sec", 0.3, 0.0)]
)
def test_claims_of_frontier_metrics_follow_ranges_and_nulls(verdict, number, name, inside, below):
    right = {"reference_protocol": inside, "reference_protocol_untrained": below}
    above = "above its null"
    assert verdict(number, metric(name, verdict=above, **right)) == SUPPORTED
    assert verdict(number, metric(name, verdict=above, **right | {"reference_protocol": 0.95})) == NOT_SUPPORTED
    assert (
        verdict(number, metric(name, verdict=above, **right | {"reference_protocol_untrained": 0.9})) == NOT_SUPPORTED
    )
    assert verdict(number, metric(name, verdict="not distinguishable from its null", **right)) == NOT_DISTINCT
    assert verdict(number, metric(name, verdict="below its null", **right)) == NOT_DISTINCT
    assert verdict(number, metric(name, reference_protocol=None)) == NOT_MEASURED


def test_claim_4_needs_transcripts_at_scale(verdict):
    def set_perplexity(value):
        return {
            ("hebbian", v): lambda r, s: r["arms"]["static"].update(perplexity=value) for v in ("bdh", "bdh_structured")
        }

    gpu = Axes(corpora=("transcripts",), scale="gpu")
    assert verdict(4) == NOT_MEASURED
    assert verdict(4, set_perplexity(80.0), Axes(corpora=("transcripts",))) == TOO_SMALL
    assert verdict(4, set_perplexity(80.0), gpu) == SUPPORTED
    assert verdict(4, set_perplexity(30.0), gpu) == NOT_SUPPORTED


def test_claim_5_needs_both_densities(verdict):
    def set_density(trained, untrained):
        def edit(report, seed):
            report["density"]["x_sparse"]["mean"] = trained
            report["untrained"]["density"]["x_sparse"] = None if untrained is None else {"mean": untrained}

        return {("frontier", v): edit for v in ("bdh", "bdh_structured")}

    assert verdict(5, set_density(0.10, 0.50)) == SUPPORTED
    assert verdict(5, set_density(0.02, 0.50)) == NOT_SUPPORTED
    assert verdict(5, set_density(0.10, 0.30)) == NOT_SUPPORTED
    assert verdict(5, set_density(0.10, None)) == NOT_MEASURED


def test_claim_6_compares_both_dampings_with_the_untrained_twin(verdict):
    def persistence(own, twin):
        def edit(report, seed):
            names = ("0.95", "0.99")
            report["sps"]["reference_protocol_by_damping"] = dict(zip(names, own, strict=True))
            report["sps"]["reference_protocol_by_damping_untrained"] = dict(zip(names, twin, strict=True))

        return {("frontier", v): edit for v in ("bdh", "bdh_structured")}

    assert verdict(6) == NOT_MEASURED
    assert verdict(6, persistence((0.53, 0.66), (0.9, 0.9))) == SUPPORTED
    assert verdict(6, persistence((0.53, 0.66), (0.52, 0.67))) == NOT_DISTINCT
    assert verdict(6, persistence((0.99, 0.99), (0.99, 0.99))) == NOT_SUPPORTED
    mixed = persistence((0.53, 0.66), (0.9, 0.9)) | {
        ("frontier", "bdh"): persistence((0.99, 0.66), (0.9, 0.9))["frontier", "bdh"]
    }
    assert verdict(6, mixed) == NOT_SUPPORTED


def test_claim_11_needs_three_lengths_of_training(verdict):
    def trained(steps, value):
        return {
            ("train", steps[0]): lambda report, seed: report.update(steps_done=steps[1]),
            ("frontier", steps[0]): lambda report, seed: report["tmi"].update(reference_protocol=value),
        }

    axes = Axes(variants=("bdh", "bdh_a", "bdh_b"), corpora=(CORPUS,))
    rising = trained(("bdh", 2000), 0.2) | trained(("bdh_a", 5100), 0.5) | trained(("bdh_b", 8000), 0.7)
    assert verdict(11, rising, axes) == SUPPORTED
    assert verdict(11, rising | trained(("bdh_b", 8000), 0.5), axes) == NOT_SUPPORTED
    assert verdict(11, rising | trained(("bdh_b", 6500), 0.7), axes) == NOT_MEASURED


def test_ledger_is_written_as_json_and_csv_with_its_evidence(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    axes = Axes(corpora=(CORPUS,))
    write_everything(tmp_path, axes)
    inputs = load_inputs(axes)
    found = json.loads(write_ledger(tmp_path, inputs)[0].read_text())
    assert [row["number"] for row in found["rows"]] == list(range(1, 17))
    assert found["scale"] == "laptop"
    by_number = {row["number"]: row for row in found["rows"]}
    assert by_number[1]["evidence"] == [f"reports/frontier/{v}-{CORPUS}-0.json" for v in ("bdh", "bdh_structured")]
    assert all((tmp_path / path).exists() for row in found["rows"] for path in row["evidence"])
    with (tmp_path / "claims.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [row["verdict"] for row in table] == [row["verdict"] for row in ledger_rows(inputs)]
    assert table[0]["evidence"].split() == by_number[1]["evidence"]


def test_ledger_on_the_page_links_to_the_sections_that_it_rests_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    axes = Axes(corpora=(CORPUS,))
    write_everything(tmp_path, axes)
    page = render_page(load_inputs(axes))
    table = page[page.index('<table id="claims"') : page.index("</table>", page.index('<table id="claims"'))]
    assert '2 files <a href="#frontier">' in table
    assert table.count("<a href=") > 6


def test_claim_7_needs_several_seeds(verdict):
    def set_tmi(start):
        return lambda report, seed: report["tmi"].update(value=start + 0.001 * seed, null_mean=0.2)

    three = Axes(corpora=(CORPUS,), seeds=(0, 1, 2))
    better = {("frontier", "bdh"): set_tmi(0.3), ("frontier", "bdh_structured"): set_tmi(0.4)}
    worse = {("frontier", "bdh"): set_tmi(0.4), ("frontier", "bdh_structured"): set_tmi(0.3)}
    same = {("frontier", "bdh"): set_tmi(0.3), ("frontier", "bdh_structured"): set_tmi(0.3)}
    assert verdict(7, better) == TOO_SMALL
    assert verdict(7, better, three) == SUPPORTED
    assert verdict(7, worse, three) == NOT_SUPPORTED
    assert verdict(7, same, three) == NOT_DISTINCT
    assert verdict(7, axes=Axes(variants=("bdh",), corpora=(CORPUS,))) == NOT_MEASURED


SEEDS = Axes(corpora=(CORPUS,), seeds=(0, 1, 2))


def arms(**bits):
    """Bits per byte of arms with a chance of their own in every training; None takes the arm away."""

    def edit(report, seed):
        for arm, value in bits.items():
            nothing = {"bits_per_byte": None, "difference_to_static": None, "reason": "not read"}
            report["arms"][arm] |= nothing if value is None else {"bits_per_byte": jittered(value, seed)}

    return edit


def in_bdh(edit):
    return {("hebbian", variant): edit for variant in ("bdh", "bdh_structured")}


@pytest.mark.parametrize(
    ("carry", "expected"),
    [
        ({"carry": 1.8}, SUPPORTED),
        ({"carry": 2.2}, NOT_SUPPORTED),
        ({"carry": 2.0001, "overlap": 2.1, "shuffled": 2.1}, NOT_DISTINCT),
        ({"carry": 1.8, "overlap": 1.8001}, NOT_SUPPORTED),
        ({"carry": 1.8, "overlap": 1.7}, NOT_SUPPORTED),
        ({"carry": 1.8, "shuffled": 1.8001}, NOT_SUPPORTED),
        ({"carry": 1.8, "shuffled": 1.7}, NOT_SUPPORTED),
        ({"carry": 1.8, "overlap": None}, NOT_MEASURED),
        ({"carry": 1.8, "shuffled": None}, NOT_MEASURED),
        ({"carry": 2.2, "shuffled": None}, NOT_SUPPORTED),
        ({"carry": None}, NOT_MEASURED),
    ],
    ids=[
        "beats all three",
        "worse than static",
        "as good as static",
        "as good as a moved window",
        "worse than a moved window",
        "as good as a stranger's state",
        "worse than a stranger's state",
        "no moved window",
        "one document",
        "worse than static, one document",
        "no state",
    ],
)
def test_claim_8_wants_carry_below_static_a_moved_window_and_a_strangers_state(verdict, carry, expected):
    level = {"static": 2.0, "overlap": 1.9, "shuffled": 1.95}
    assert verdict(8, in_bdh(arms(**level | carry)), SEEDS) == expected
    one_bad = in_bdh(arms(**level | {"carry": 1.8})) | {("hebbian", "bdh"): arms(**level | carry)}
    held = {NOT_MEASURED: SUPPORTED} if carry["carry"] is None else {}
    assert verdict(8, one_bad, SEEDS) == held.get(expected, expected), "the weakest variant decides"


def test_claim_8_is_not_judged_by_one_seed(verdict):
    for carry in (1.0, 3.0):
        assert verdict(8, in_bdh(arms(static=2.0, overlap=1.9, shuffled=1.95, carry=carry))) == TOO_SMALL
    assert verdict(8) == TOO_SMALL, "intervals over documents alone do not hold the chance of training"


def test_claim_9_wants_not_a_single_exact_zero(verdict):
    def density(value):
        return {("frontier", "transformer"): lambda r, s: r["density"].update(mlp_sparse={"mean": value})}

    assert verdict(9, density(1.0)) == SUPPORTED
    assert verdict(9, density(0.9999)) == NOT_SUPPORTED
    assert verdict(9, axes=Axes(variants=("bdh",), corpora=(CORPUS,))) == NOT_MEASURED


def test_claim_10_follows_who_carries_a_state(verdict):
    def cannot(report, seed):
        report["arms"]["carry"] = {"difference_to_static": None, "reason": "none"}

    assert verdict(10) == SUPPORTED
    assert verdict(10, {("hebbian", "bdh"): cannot}) == NOT_SUPPORTED
    assert verdict(10, axes=Axes(variants=("bdh",), corpora=(CORPUS,))) == NOT_MEASURED


def test_claims_12_13_and_15_compare_variants_over_seeds(verdict):
    def bits(value):
        return lambda report, seed: report["arms"]["static"].update(bits_per_byte=jittered(value, seed))

    slim = Axes(variants=("slim_backprop", "slim_hebbian", "slim_hybrid"), corpora=(CORPUS,), seeds=(0, 1, 2))
    wins = {("hebbian", v): bits(b) for v, b in zip(slim.variants, (2.0, 2.1, 1.9), strict=True)}
    loses = wins | {("hebbian", "slim_hybrid"): bits(2.05)}
    assert verdict(12, wins, slim) == SUPPORTED
    assert verdict(12, loses, slim) == NOT_SUPPORTED
    assert verdict(12) == NOT_MEASURED

    ablations = (("neuro_no_kwta", ("neuro", "without", "kwta")), ("neuro_only_kwta", ("neuro_none", "only", "kwta")))
    names = ("neuro", "neuro_no_kwta", "neuro_none", "neuro_only_kwta")
    neuro = Axes(variants=names, corpora=(CORPUS,), seeds=(0, 1, 2), ablations=ablations)
    needed = {("hebbian", v): bits(b) for v, b in zip(names, (2.0, 2.1, 1.0, 0.9), strict=True)}
    useless = needed | {("hebbian", "neuro_no_kwta"): bits(1.9)}
    assert verdict(15, needed, neuro) == SUPPORTED
    assert verdict(15, useless, neuro) == NOT_SUPPORTED

    pair = Axes(variants=("bdh", "transformer"), corpora=(CORPUS,), seeds=(0, 1, 2))

    def sized(count):
        return {("train", "transformer"): lambda report, seed: report.update(parameters=count)}

    level = {("hebbian", "bdh"): bits(2.0), ("hebbian", "transformer"): bits(2.1)}
    behind = level | {("hebbian", "bdh"): bits(2.2)}
    assert verdict(13, level | sized(150_000), pair) == SUPPORTED
    assert verdict(13, behind | sized(150_000), pair) == NOT_SUPPORTED
    assert verdict(13, level | sized(300_000), pair) == NOT_MEASURED


def test_claims_ask_for_families_and_ablations_whatever_a_variant_is_called(verdict):
    """Names that began with `bdh_`, `transformer`, `slim` and `neuro_no_` were counted, and no others."""

    def bits(value):
        return lambda report, seed: report["arms"]["static"].update(bits_per_byte=jittered(value, seed))

    families = (("hatchling", "bdh"), ("bdh_alike", "other"), ("attention", "transformer"))
    axes = Axes(variants=("hatchling", "bdh_alike", "attention"), corpora=(CORPUS,), seeds=(0, 1, 2), families=families)
    level = {"static": 2.0, "overlap": 1.9, "shuffled": 1.95}
    better, worse = arms(**level, carry=1.8), arms(**level, carry=2.2)
    assert verdict(8, {("hebbian", "hatchling"): better, ("hebbian", "bdh_alike"): worse}, axes) == SUPPORTED
    assert verdict(8, {("hebbian", "hatchling"): worse, ("hebbian", "bdh_alike"): better}, axes) == NOT_SUPPORTED
    assert verdict(10, {}, axes) == NOT_SUPPORTED, "the fixture lets any name without `transformer` carry a state"

    names = ("neuro", "calmer", "neuro_no_more")
    axes = Axes(
        variants=names,
        corpora=(CORPUS,),
        seeds=(0, 1, 2),
        families=(("calmer", "neuro"),),
        ablations=(("calmer", ("neuro", "without", "modulation")),),
    )
    needed = {("hebbian", v): bits(b) for v, b in zip(names, (2.0, 2.1, 1.0), strict=True)}
    assert verdict(15, needed, axes) == SUPPORTED
    assert verdict(15, needed | {("hebbian", "calmer"): bits(1.9)}, axes) == NOT_SUPPORTED


def test_claim_16_takes_every_damping_that_was_resolved(verdict):
    def swept(long):
        rows = [{"damping": 0.95, "half_life_tokens": 13.5, "half_life_measured_tokens": None},
                {"damping": 0.99, "half_life_tokens": 69.0, "half_life_measured_tokens": 66.0},
                {"damping": 0.999, "half_life_tokens": 692.8, "half_life_measured_tokens": long}]  # fmt: skip

        def change(report, seed):
            report["damping_sweep"] = {"rows": rows}

        return {("hebbian", "bdh"): change, ("hebbian", "bdh_structured"): change}

    assert verdict(16, swept(690.0)) == SUPPORTED
    assert verdict(16, swept(400.0)) == NOT_SUPPORTED
    assert verdict(
        16, {("hebbian", v): lambda r, s: r.pop("damping_sweep", None) for v in ("bdh", "bdh_structured")}
    ) == (NOT_MEASURED)


def scaled(**efficiencies):
    """An edit of every run that writes the results of scaling instead."""

    def write(_report, _seed):
        rows = [{"work": work, "metric": "efficiency", "ratio": ratio} for work, ratio in efficiencies.items()]
        path = Path("benchmarks/results/h200_scaling.json")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"rows": rows}))

    return {("train", "bdh"): write}


def test_claim_14_needs_eight_gpus_and_tells_the_curve_below(verdict):
    assert verdict(14) == NOT_MEASURED
    assert verdict(14, scaled(ddp_2=0.98, ddp_4=0.97, ddp_8_recurrent_trained=0.99)) == NOT_MEASURED
    inputs = load_inputs(Axes(corpora=(CORPUS,)))
    told = {claim.number: finding.measured for claim, finding in judge(inputs)}[14]
    assert "not measured at 8" in told
    assert "bdh: 2 GPUs 98.0%, 4 GPUs 97.0%" in told
    assert {row["number"]: row["evidence"] for row in ledger_rows(inputs)}[14] == [inputs.scaling.path.as_posix()]
    assert verdict(14, scaled(ddp_2=0.98, ddp_8=0.93)) == SUPPORTED
    assert verdict(14, scaled(ddp_8=0.7)) == NOT_SUPPORTED


def test_ledger_has_every_claim_with_a_rule_or_a_need():
    assert [claim.number for claim in CLAIMS] == list(range(1, 17))
    inputs = Inputs("laptop", ("bdh",), (CORPUS,), (0,), runs=(), families={"bdh": "bdh"})
    findings = judge(inputs)
    assert {finding.verdict for _, finding in findings} == {NOT_MEASURED}
    assert all(finding.rule for _, finding in findings)
    assert len(claims_table(inputs).rows) == 16
