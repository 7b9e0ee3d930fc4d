"""Paired tests over seeds and text: what they equal, how often they err, and what the report says of them."""

import json
import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from bdh.report import headline
from bdh.report.data import measures
from bdh.report.data.inputs import load_inputs
from bdh.report.data.spread import (
    Side,
    crossed_difference,
    crossed_half,
    crossed_parts,
    discoveries,
    over_pairs,
    paired_seeds,
)
from bdh.report.data.summary import result_rows, summarise
from bdh.report.tables.arms import sweep_panel, sweep_table
from bdh.report.tables.corpora import strata_tables
from bdh.report.tables.quality import against_bdh_table, standings
from tests.support.report_fixtures import Axes, write_everything

CORPUS = "sample_calls"


def units(bits, size):
    return pd.DataFrame(
        {"kind": "document", "id": np.arange(len(size)), "nats": bits * size * math.log(2), "bytes": size}
    )


def tables(random, seeds, count, shift, of_seed, of_text, of_both=0.05):
    """One pair of tables per seed with a true difference `shift`, and chance of seeds, of texts, and of both."""
    size = random.integers(2000, 4000, count)
    base, text = 2 + 0.3 * random.standard_normal(count), of_text * random.standard_normal(count)
    found = []
    for _ in range(seeds):
        noise = of_seed * random.standard_normal() + text + of_both * random.standard_normal(count)
        found.append((units(base + shift + noise, size), units(base, size)))
    return found


def test_paired_seeds_equal_scipy():
    a, b = np.array([1.0, 1.2, 1.15, 1.4]), np.array([1.5, 1.45, 1.7, 1.6])
    found, known = paired_seeds((a - b).tolist()), stats.ttest_rel(a, b)
    interval = known.confidence_interval()
    assert (found.low, found.high, found.p) == pytest.approx((interval.low, interval.high, known.pvalue))
    assert (found.seeds, found.covers_seeds) == (4, True)
    alone = paired_seeds([0.3])
    assert (alone.value, alone.low, alone.p, alone.covers_seeds) == (0.3, None, None, False)


@pytest.mark.parametrize(("of_seed", "of_text"), [(0.05, 0.0), (0.0, 0.1), (0.05, 0.1)])
def test_crossed_difference_errs_no_more_than_its_level_and_finds_what_is_planted(of_seed, of_text):
    random = np.random.default_rng(8)
    wrong = found = 0
    for _ in range(400):
        wrong += crossed_difference(tables(random, 3, 12, 0.0, of_seed, of_text)).excludes_zero
        found += crossed_difference(tables(random, 3, 12, -0.5, of_seed, of_text)).high < 0
    assert wrong <= 30, "more than 7.5 % of 400; 5 % are due, 32 would come up once in 60"
    assert found >= 396


def test_one_seed_alone_would_take_the_chance_of_training_for_a_difference():
    """The control of the above: an interval over documents of one seed errs far more often when seeds differ."""
    random = np.random.default_rng(8)
    drawn = [tables(random, 1, 12, 0.0, 0.1, 0.02)[0] for _ in range(200)]
    sides = [(Side(2.0, a), Side(2.0, b)) for a, b in drawn]
    whole = [tuple(Side(_bits(side.units), side.units) for side in pair) for pair in sides]
    found = [over_pairs([pair]) for pair in whole]
    assert sum(gap.excludes_zero for gap in found) > 100
    assert not any(gap.covers_seeds for gap in found)


def _bits(table):
    return float(table["nats"].sum() / math.log(2) / table["bytes"].sum())


def test_pairs_fall_back_where_text_is_missing_short_or_of_another_evaluation():
    random = np.random.default_rng(2)
    pairs = tables(random, 3, 12, 0.1, 0.02, 0.02)
    sides = [(Side(_bits(a), a), Side(_bits(b), b)) for a, b in pairs]
    assert over_pairs(sides).over == "seeds and documents"
    assert over_pairs(sides).value == pytest.approx(np.mean([a.bits - b.bits for a, b in sides]))
    without = [(Side(a.bits, None), b) for a, b in sides]
    stale = [(Side(a.bits + 0.01, a.units), b) for a, b in sides]
    short = [(Side(_bits(a[:5]), a[:5]), Side(_bits(b[:5]), b[:5])) for a, b in pairs]
    for other in (without, stale, short):
        assert over_pairs(other).over == "seeds"
        assert over_pairs(other).covers_seeds
    one = over_pairs(without[:1])
    assert (one.low, one.over) == (None, "nothing")


def test_discoveries_equal_a_known_example_and_hold_their_rate():
    """Benjamini and Yekutieli by hand: p * m * (1 + 1/2 + 1/3) / rank, made monotone from the largest."""
    assert discoveries({}) == {}
    found = discoveries({("a",): 0.01, ("b",): 0.04, ("c",): 0.03})
    assert list(found) == [("a",), ("b",), ("c",)]
    assert list(found.values()) == pytest.approx([0.055, 0.22 / 3, 0.22 / 3])
    random = np.random.default_rng(4)
    wrong = sum(min(discoveries({(str(i),): p for i, p in enumerate(random.random(60))}).values()) < 0.05
                for _ in range(200))  # fmt: skip
    assert wrong <= 17, "5 % of 200 families without any difference may have one called so, and 2 standard errors"


def test_a_tie_over_several_seeds_is_an_interval_of_nothing_and_one_seed_has_none():
    assert (paired_seeds([0.0, 0.0]).low, paired_seeds([0.0, 0.0]).high, paired_seeds([0.0]).low) == (0.0, 0.0, None)
    assert paired_seeds([0.1, 0.1]).low is None, "two seeds that do not differ: not believable, no interval"
    size = np.arange(1000, 1012)
    same = units(np.full(12, 2.0), size)
    assert crossed_difference([(same, same)] * 3).high == 0.0


def test_blocks_of_text_are_no_units_beside_seeds():
    """Blocks of one document vary together: an interval over them would be too narrow."""
    random = np.random.default_rng(2)
    pairs = [
        tuple(t.assign(kind="block of 1024 tokens") for t in pair) for pair in tables(random, 3, 12, 0.1, 0.1, 0.1)
    ]
    sides = [tuple(Side(_bits(side), side) for side in pair) for pair in pairs]
    assert crossed_difference(pairs) is None
    assert over_pairs(sides).over == "seeds"
    assert over_pairs(sides[:1]).p is None


REPEATS, BLOCKS = 2000, 8
SHARES = (0.0, 0.1, 0.3, 0.5)
MOST_WRONG = 0.05 + 2 * math.sqrt(0.05 * 0.95 / REPEATS)


def differences(random, seeds, share, of_seed, documents=14):
    """Differences in bits (R,S,U) without a true one: seeds, documents and their blocks vary, and all by chance alone.

    share: of the variance of a block that is between documents.
    """
    size = random.integers(2000, 4000, documents).astype(float)
    text = math.sqrt(share) * random.standard_normal((REPEATS, 1, documents))
    blocks = random.standard_normal((REPEATS, 1, documents, BLOCKS)).mean(-1) * math.sqrt(1 - share)
    both = 0.3 * random.standard_normal((REPEATS, seeds, documents))
    every = of_seed * random.standard_normal((REPEATS, seeds, 1))
    return (text + blocks + both + every) * size, size


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("of_seed", [0.0, 0.1, 0.5])
def test_intervals_over_seeds_and_documents_cover_whatever_varies(seeds, of_seed):
    """The rate at which an interval leaves out the truth, for every share of variance between documents."""
    random = np.random.default_rng([seeds, round(10 * of_seed)])
    for share in SHARES:
        bits, size = differences(random, seeds, share, of_seed)
        mean, by_seed, by_text = crossed_parts(bits, size)
        wrong = np.mean(np.abs(mean) > crossed_half(by_seed, by_text, seeds, size.size))
        assert wrong <= MOST_WRONG, (share, wrong)


def test_one_quantile_for_the_sum_of_both_variances_would_miss_at_two_seeds():
    """The control of the above: Satterthwaite's degrees of freedom, the usual way, miss more often than 5 %."""
    bits, size = differences(np.random.default_rng(0), 2, 0.0, 0.3, documents=24)
    mean, by_seed, by_text = crossed_parts(bits, size)
    freedom = (by_seed + by_text) ** 2 / (by_seed**2 + by_text**2 / (size.size - 1))
    wrong = np.mean(np.abs(mean) > stats.t.ppf(0.975, freedom) * np.sqrt(by_seed + by_text))
    assert wrong > MOST_WRONG


def test_p_over_seeds_and_documents_is_the_level_at_which_the_interval_reaches_zero():
    gap = crossed_difference(tables(np.random.default_rng(3), 3, 12, -0.1, 0.05, 0.05))
    pairs = tables(np.random.default_rng(3), 3, 12, -0.1, 0.05, 0.05)
    size = pairs[0][0]["bytes"].to_numpy(float)
    bits = np.stack([((a["nats"] - b["nats"]) / math.log(2)).to_numpy() for a, b in pairs])
    _, by_seed, by_text = crossed_parts(bits, size)
    assert crossed_half(by_seed, by_text, 3, 12, gap.p) == pytest.approx(abs(gap.value))
    assert (gap.p < 0.05) == gap.excludes_zero


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def load(seeds):
        axes = Axes(corpora=(CORPUS,), seeds=seeds)
        write_everything(tmp_path, axes)
        return load_inputs(axes)

    return load


def cells(table, title):
    found = next(row for row in table.rows if row.title == title)
    return dict(zip([f"{c.title} {c.unit}".strip() for c in table.columns], found.cells, strict=True))


def test_one_seed_says_that_nothing_over_seeds_is_measured(results):
    inputs = results((0,))
    table = against_bdh_table(inputs, CORPUS)
    found = cells(table, "transformer")
    assert found["verdict over seeds"].text == "one seed: not judged"
    assert (found["seeds n"].text, found["over"].text) == ("1", "24 documents, this seed only")
    assert (found["p"].value, found["p, adjusted false discovery"].value) == (None, None)
    assert "nothing over seeds is measured" in headline.label(inputs)
    assert summarise(inputs)["over_seeds"] == "one seed: not judged"
    assert not [name for name in summarise(inputs)["corpora"][CORPUS]["variants"]["bdh"] if name.endswith("_low")]
    row = result_rows(inputs)[0]
    assert row["over_seeds/n"] == 1
    assert "over_seeds/low" not in row


def test_several_seeds_stand_in_table_results_and_summary_with_n(results):
    inputs = results((0, 1, 2))
    found = cells(against_bdh_table(inputs, CORPUS), "transformer")
    assert found["over"].text == "3 seeds, 24 documents"
    assert found["verdict over seeds"].text == "worse"
    standing = standings(inputs, CORPUS)["transformer"]
    assert standing.adjusted >= standing.gap.p
    summary = summarise(inputs)["corpora"][CORPUS]["variants"]["transformer"]
    assert (summary["test_bits_per_byte_n"], summary["minus_bdh"]["seeds"]) == (3, 3)
    assert summary["test_bits_per_byte_low"] < summary["test_bits_per_byte"] < summary["test_bits_per_byte_high"]
    rows = [row for row in result_rows(inputs) if row["variant"] == "transformer"]
    assert {row["over_seeds/minus_bdh_over"] for row in rows} == {"seeds and documents"}
    assert rows[0]["over_seeds/minus_bdh"] == pytest.approx(summary["minus_bdh"]["bits_per_byte"])
    assert measures.judge_arm(inputs, CORPUS, "bdh", "carry").word == "better"
    means = {name.removesuffix("_sd") for name in summary if name.endswith("_sd")}
    assert all(f"{name}_n" in summary for name in means)


def test_sweep_shows_every_damping_and_only_variants_with_a_state(results, tmp_path):
    inputs = results((0,))
    table = sweep_table(inputs, CORPUS)
    assert [c.title for c in table.columns] == ["damping 0.95", "damping 0.99", "damping 1"]
    assert [row.title for row in table.rows] == ["bdh", "bdh_structured"]
    report = json.loads((tmp_path / f"data/results/hebbian/bdh-{CORPUS}-0.json").read_text())
    values = [row["difference_to_static"] for row in report["damping_sweep"]["rows"]]
    assert [cell.value for cell in table.rows[0].cells] == values
    panel = sweep_panel(inputs, CORPUS)
    assert [curve.label for curve in panel.curves] == ["bdh", "bdh_structured"]
    assert panel.curves[0].x == pytest.approx([13.51, 68.97], rel=1e-3)
    assert sweep_table(inputs, "none") is None


def test_strata_show_intervals_or_that_they_are_not_measurable(results):
    table = next(t for t in strata_tables(results((0,)), CORPUS) if t.name.endswith("by-role"))
    analyst, executive = next(row for row in table.rows if row.title == "bdh, carry minus static").cells
    assert (analyst.text, analyst.value, analyst.note) == ("not measurable", None, "not measurable: too few")
    assert executive.value is not None
    assert executive.detail.endswith("one seed: not judged")
    counts = {row.title: [cell.text for cell in row.cells] for row in table.rows if row.reference}
    assert counts == {"documents": ["2", "8"], "tokens": ["700", "700"], "bytes": ["2,500", "2,500"]}


@pytest.mark.parametrize(
    ("arms", "which"),
    [
        (("carry",), "bdh, carry minus static; bdh_structured, carry minus static"),
        (
            ("carry", "carry_corpus", "shuffled", "overlap", "overlap_quarter"),
            "every arm minus static, of every variant",
        ),
    ],
)
def test_strata_leave_out_rows_in_which_nothing_is_measurable_and_say_so(results, tmp_path, arms, which):
    results((0,))
    for path in (tmp_path / "data/results/hebbian").glob("*.json"):
        report = json.loads(path.read_text())
        for arm in arms:
            for part in report["arms"].get(arm, {}).get("by_role", {}).values():
                part.pop("difference_to_static", None)
                part["reason"] = "not measurable: too few"
        path.write_text(json.dumps(report))
    table = next(t for t in strata_tables(load_inputs(Axes(corpora=(CORPUS,))), CORPUS) if t.name.endswith("by-role"))
    titles = [row.title for row in table.rows]
    assert "bdh, static" in titles
    assert not any(title.endswith(f"{arm.replace('_', ' ')} minus static") for title in titles for arm in arms)
    assert table.notes[-1] == f"Left out, since no stratum has enough units: {which}."
