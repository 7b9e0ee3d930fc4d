"""Tables: every number is the one in the files, a mark or a verdict appears only where the rule allows it."""

import json
import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from bdh.report import headline
from bdh.report.data import measures
from bdh.report.data.inputs import flatten, load_inputs
from bdh.report.data.measures import adjusted
from bdh.report.data.summary import result_rows, summarise, write_results
from bdh.report.plots.outcomes import outcome_panels
from bdh.report.plots.training import training_panels
from bdh.report.tables.arms import arms_of, overlap_table, synapse_table
from bdh.report.tables.corpora import corpora_table, strata_tables
from bdh.report.tables.frontier import frontier_tables
from bdh.report.tables.leading import activity_table
from bdh.report.tables.quality import COLUMNS, quality_table
from tests.support.report_fixtures import Axes, write_diverged, write_everything

CORPUS = "sample_calls"


@pytest.fixture
def change(tmp_path, monkeypatch):
    """Write results, let the test change one file, and load them."""
    monkeypatch.chdir(tmp_path)

    def load(axes=None, **edits):
        axes = axes or Axes(corpora=(CORPUS,))
        write_everything(tmp_path, axes)
        for name, edit in edits.items():
            stage, _, key = name.partition("__")
            path = tmp_path / f"data/results/{stage}/{key.replace('__', '-')}.json"
            value = json.loads(path.read_text())
            edit(value)
            path.write_text(json.dumps(value))
        return load_inputs(axes)

    return load


def column(title, unit=None):
    return next(i for i, c in enumerate(COLUMNS) if c.title == title and unit in (None, c.unit))


def row(table, title):
    return next(r for r in table.rows if r.title == title)


def test_quality_table_shows_the_numbers_of_the_files(change, tmp_path):
    inputs = change()
    table = quality_table(inputs, CORPUS)
    cells = row(table, "transformer").cells
    static = json.loads((tmp_path / f"data/results/hebbian/transformer-{CORPUS}-0.json").read_text())["arms"]["static"]
    bits = static["bits_per_byte"]
    assert cells[column("test", "bits per byte")].value == bits
    assert cells[column("test", "perplexity per token")].value == static["perplexity"]
    assert cells[column("gain over unigram", "bits per byte")].value == pytest.approx(2.71 - bits)
    assert cells[column("gain over unigram", "percent")].value == pytest.approx((2.71 - bits) / 2.71)
    assert cells[column("above floor")].value == pytest.approx(bits - 0.61)
    assert cells[column("parameters")].text == "169,480"
    uniform = row(table, "uniform guess").cells[column("test", "bits per byte")].value
    read = json.loads((tmp_path / f"data/results/hebbian/bdh-{CORPUS}-0.json").read_text())
    assert uniform == pytest.approx(math.log2(1024) * read["tokens"] / read["bytes"])
    assert [r.title for r in table.rows if r.reference] == [
        "known floor", "Kneser-Ney 3-gram", "Witten-Bell 3-gram", "PPM-D 3-gram", "Kneser-Ney 3-gram across windows",
        "unigram", "uniform guess",
    ]  # fmt: skip


def test_ngrams_stand_in_the_table_at_the_order_that_validation_chose(change):
    """The fourth order has fewer bits on the test text (1.61): taking it would choose on the test."""
    inputs = change()
    table = quality_table(inputs, CORPUS)
    cells = row(table, "Kneser-Ney 3-gram").cells
    assert cells[column("test", "bits per byte")].value == 1.62
    assert cells[column("test", "perplexity per token")].value == pytest.approx(math.exp(3.24))
    assert cells[column("validation")].value == 1.62
    assert cells[column("minus n-gram")].value == 0
    assert cells[column("gain over unigram", "bits per byte")].value == pytest.approx(2.71 - 1.62)
    assert row(table, "PPM-D 3-gram").cells[column("minus n-gram")].value == pytest.approx(0.05)
    across = row(table, "Kneser-Ney 3-gram across windows").cells
    assert across[column("test", "bits per byte")].value == 1.55
    assert across[column("validation")].value is None
    floors = summarise(inputs)["corpora"][CORPUS]["floors"]
    assert floors == {
        "strongest": "kneser_ney_3", "strongest_bits_per_byte": 1.62, "witten_bell_3": 1.6400000000000001,
        "kneser_ney_3": 1.62, "ppm_3": 1.6700000000000002, "kneser_ney_3_across_windows": 1.55,
    }  # fmt: skip


def test_variant_above_the_strongest_ngram_is_said_so_though_it_beats_the_unigram(change):
    def bits(value):
        return lambda report: report["arms"]["static"].update(bits_per_byte=value)

    values = {"bdh": 1.5, "transformer": 1.62, "bdh_structured": 1.7}
    inputs = change(**{f"hebbian__{variant}__{CORPUS}__0": bits(value) for variant, value in values.items()})
    table, place = quality_table(inputs, CORPUS), column("minus n-gram")
    cells = {variant: row(table, variant).cells[place] for variant in values}
    assert [cells[v].value for v in values] == pytest.approx([-0.12, 0.0, 0.08])
    assert [cells[v].tone for v in values] == ["none", "bad", "bad"], "a tie beats nothing"
    line = next(line for line in headline.sentences(inputs) if "n-gram" in line)
    start = f"{CORPUS}: 1 of 3 variants predict better than the strongest n-gram model"
    start += " (Kneser-Ney 3-gram, 1.620 bits per byte): bdh"
    assert line == f"{start}; 3 of 3 variants beat the unigram baseline, by 1.01 to 1.21 bits per byte."
    summary = summarise(inputs)["corpora"][CORPUS]["variants"]
    assert summary["bdh_structured"]["gain_over_ngram_bits_per_byte"] == pytest.approx(-0.08)
    worse = change(**{f"hebbian__{variant}__{CORPUS}__0": bits(2.0) for variant in values})
    line = next(line for line in headline.sentences(worse) if "n-gram" in line)
    assert "0 of 3 variants predict better" in line
    assert "bits per byte);" in line, "nobody is named"


def test_table_says_when_the_ngrams_count_a_part_of_the_training_text(change):
    def short(report):
        report["train_tokens"] = 5000

    assert "count the training split" in " ".join(quality_table(change(), CORPUS).notes)
    notes = " ".join(quality_table(change(**{f"floors__{CORPUS}": short}), CORPUS).notes)
    assert "count the last 5,000 tokens of the training split" in notes


def test_plots_of_quality_have_the_line_of_the_strongest_ngram_or_say_where_it_is(change):
    def far(report):
        report["floors"]["kneser_ney_3"]["bits_per_byte"] = 40.0

    for load, drawn in ((change(), True), (change(**{f"floors__{CORPUS}": far}), False)):
        panels = [*training_panels(load, CORPUS), *outcome_panels(load, CORPUS)]
        for name in ("learning-steps", "learning-flops", "parameters"):
            panel = next(panel for panel in panels if panel.name == f"{CORPUS}-{name}")
            assert ("Kneser-Ney 3-gram (test)" in dict(panel.references)) == drawn
            assert ("Kneser-Ney 3-gram (test) 40.000" in panel.note) != drawn


def test_best_is_marked_only_over_seeds_and_when_every_interval_excludes_zero(change):
    def bits(value):
        def edit(report):
            chance = np.random.default_rng([round(value * 1e4), report["seed"]]).standard_normal()
            report["arms"]["static"]["bits_per_byte"] = value + 0.002 * float(chance)

        return edit

    def edits(bdh, transformer, structured, seeds):
        values = {"bdh": bdh, "transformer": transformer, "bdh_structured": structured}
        return {f"hebbian__{v}__{CORPUS}__{s}": bits(b) for v, b in values.items() for s in seeds}

    def best(seeds, *values):
        table = quality_table(change(Axes(corpora=(CORPUS,), seeds=seeds), **edits(*values, seeds)), CORPUS)
        marked = column("test", "bits per byte")
        return [r.title for r in table.rows if r.cells[marked].best], " ".join(table.notes)

    assert best((0, 1, 2), 1.5, 1.7, 1.8)[0] == ["bdh"]
    assert best((0, 1, 2), 1.9, 1.7, 1.8)[0] == ["transformer"]
    assert best((0, 1, 2), 1.5, 1.8, 1.5001)[0] == []
    found, notes = best((0,), 1.5, 1.7, 1.8)
    assert found == []
    assert "No variant is marked best: one seed: not judged." in notes


def test_interval_behind_the_lowest_comes_from_the_units(change, tmp_path):
    change()
    for variant, factor in (("bdh", 1.0), ("transformer", 1.2), ("bdh_structured", 1.0)):
        scale_units(tmp_path, f"{variant}-{CORPUS}-0", factor)
    inputs = load_inputs(Axes(corpora=(CORPUS,)))
    apart = measures.compare_variants(inputs, CORPUS, "transformer", "bdh")
    assert apart.low > 0.2
    assert apart.over == "documents"
    assert not measures.compare_variants(inputs, CORPUS, "bdh_structured", "bdh").excludes_zero
    cell = row(quality_table(inputs, CORPUS), "transformer").cells[-1]
    assert cell.detail.startswith("[+0.2")


def scale_units(root, key, factor):
    """Give every unit the same bits per byte times `factor`, with a little noise of its own."""
    path = root / f"data/hebbian/{key}/units.parquet"
    table = pd.read_parquet(path)
    noise = 1 + 0.01 * np.random.default_rng(len(key)).standard_normal(len(table))
    table["nats"] = table["bytes"] * factor * noise
    table.to_parquet(path, index=False)
    report = root / f"data/results/hebbian/{key}.json"
    value = json.loads(report.read_text())
    static = table[table["arm"] == "static"]
    value["arms"]["static"]["bits_per_byte"] = float(static["nats"].sum() / math.log(2) / static["bytes"].sum())
    report.write_text(json.dumps(value))


def test_single_document_corpora_are_not_tested(change, tmp_path):
    inputs = change()
    for run in inputs.runs:
        path = tmp_path / f"data/hebbian/{run.key}/units.parquet"
        pd.read_parquet(path).groupby("arm", sort=False).head(1).to_parquet(path, index=False)
    table = quality_table(load_inputs(Axes(corpora=(CORPUS,))), CORPUS)
    assert all(cell.detail == "" for r in table.rows for cell in r.cells[-1:])
    assert not any(cell.best for r in table.rows for cell in r.cells)
    assert "is not tested" in headline.sentences(load_inputs(Axes(corpora=(CORPUS,))))[0]


def test_several_seeds_show_mean_deviation_and_n(change):
    inputs = change(Axes(corpora=(CORPUS,), seeds=(0, 1, 2)))
    bits = [measures.test_bits(run) for run in inputs.of(CORPUS, "bdh")]
    cell = row(quality_table(inputs, CORPUS), "bdh").cells[column("test", "bits per byte")]
    assert cell.value == pytest.approx(np.mean(bits))
    low, high = stats.ttest_1samp(bits, 0.0).confidence_interval()
    assert cell.detail == f"± {(high - low) / 2:.3f}, n 3"
    gap = measures.compare_variants(inputs, CORPUS, "transformer", "bdh")
    assert gap is not None
    assert (gap.over, gap.seeds, gap.units) == ("seeds and documents", 3, 24)


def test_variant_below_unigram_is_said_so(change):
    def worse(report):
        report["arms"]["static"]["bits_per_byte"] = 3.5

    inputs = change(**{f"hebbian__bdh__{CORPUS}__0": worse})
    assert row(quality_table(inputs, CORPUS), "bdh").cells[column("gain over unigram", "percent")].value < 0
    assert any("2 of 3 variants beat the unigram" in line and "not bdh." in line for line in headline.sentences(inputs))


def test_unigram_is_that_of_the_tokens_that_were_judged(change):
    def judged(report):
        report["unigram_bits_per_byte"] = 1.9

    table = quality_table(change(**{f"hebbian__bdh__{CORPUS}__0": judged}), CORPUS)
    assert row(table, "unigram").cells[column("test", "bits per byte")].value == 1.9


def test_synapse_table_shows_the_interval_of_one_seed_and_does_not_judge_it(change):
    def worse(report):
        report["arms"]["carry"] |= {"difference_to_static": 0.1, "ci_low": 0.05, "ci_high": 0.2}

    def unsure(report):
        report["arms"]["carry"] |= {"difference_to_static": -0.1, "ci_low": -0.3, "ci_high": 0.1}

    inputs = change(**{f"hebbian__bdh__{CORPUS}__0": worse, f"hebbian__bdh_structured__{CORPUS}__0": unsure})
    table = synapse_table(inputs, CORPUS)
    carry = 1 + arms_of(inputs.of(CORPUS)).index("carry")
    assert row(table, "bdh").cells[carry].detail == "[+0.050, +0.200]\none seed: not judged"
    assert row(table, "bdh_structured").cells[carry].tone == "none"
    assert row(table, "transformer").cells[carry].detail == "not run"
    assert any("carry of transformer" in note and "no state of constant size" in note for note in table.notes)


def test_overlap_table_tells_a_repaired_border_from_a_state_that_does_more(change):
    """The fixture gains in the first quarter alone; the transformer has a moved window and no state to compare."""
    inputs = change()
    table = overlap_table(inputs, CORPUS)
    assert [r.title for r in table.rows] == ["bdh", "bdh_structured"]
    titles = ["carry", "shuffled", *(f"carry, tokens {32 * i} to {32 * i + 31}" for i in range(4))]
    assert [c.title for c in table.columns] == titles
    carry, shuffled, *quarters = row(table, "bdh").cells
    run = inputs.of(CORPUS, "bdh")[0]
    gap = run.hebbian.number("arms/carry/bits_per_byte") - run.hebbian.number("arms/overlap/bits_per_byte")
    assert carry.value == pytest.approx(gap)
    assert carry.detail.endswith("one seed: not judged")
    assert shuffled.detail.endswith("one seed: not judged")
    assert [cell.value for cell in quarters] == pytest.approx([4 * gap, 0.0, 0.0, 0.0])


def test_overlap_table_is_not_there_without_the_arm(change):
    def without(report):
        report["arms"]["overlap"] = {"bits_per_byte": None, "reason": "hebbian.overlaps does not list 0.5"}

    names = ("bdh", "bdh_structured")
    assert overlap_table(change(**{f"hebbian__{name}__{CORPUS}__0": without for name in names}), CORPUS) is None


def test_observe_is_exactly_zero_or_a_fault(change):
    table = synapse_table(change(), CORPUS)
    observe = [c.title for c in table.columns].index("observe")
    assert row(table, "bdh").cells[observe].text == "0"
    assert "as it must be" in row(table, "bdh").cells[observe].detail

    def changed(report):
        report["arms"]["observe"]["difference_to_static"] = 1e-9

    table = synapse_table(change(**{f"hebbian__bdh__{CORPUS}__0": changed}), CORPUS)
    assert "FAULT" in row(table, "bdh").cells[observe].detail


def test_frontier_tables_show_value_null_and_verdict(change):
    tables = {table.name.rpartition("-")[2]: table for table in frontier_tables(change(), CORPUS)}
    assert list(tables) == ["tmi", "sps", "sec"]
    titles = [c.title for c in tables["tmi"].columns]
    cells = dict(zip(titles, row(tables["tmi"], "bdh").cells, strict=True))
    assert (cells["value"].value, cells["untrained twins"].value, cells["p"].value) == (0.31, 0.25, None)
    assert cells["nulls"].detail.startswith("permuted: 0.240 ± 0.020\n")
    assert cells["reference protocol"].value == 0.11
    assert cells["verdict"].text == "one seed: not judged"
    assert [r.title for r in tables["tmi"].rows] == ["bdh", "bdh_structured"]
    assert any("Not for transformer: the model has no neuron graph" in note for note in tables["tmi"].notes)


def test_frontier_verdicts_of_several_seeds_hold_in_the_family(change):
    """The largest p over seeds and nulls, adjusted with everything that is judged; a metric below its null is named."""

    def tmi(p):
        return lambda report: report["tmi"].update(p=p, nulls={"permuted": {"mean": 0.24, "sd": 0.02, "p": p}})

    def told(p):
        edits = {f"frontier__{v}__{CORPUS}__{s}": tmi(p) for v in ("bdh", "bdh_structured") for s in (0, 1)}
        inputs = change(Axes(corpora=(CORPUS,), seeds=(0, 1)), **edits)
        table = next(t for t in frontier_tables(inputs, CORPUS) if t.name.endswith("tmi"))
        return row(table, "bdh").cells[-1].text, inputs

    assert told(0.012)[0] == "not distinguishable from its null", "0.012 among so many tests"
    word, inputs = told(1e-9)
    assert word == "above its null"
    assert adjusted(inputs)["metric", CORPUS, "bdh", "tmi"] > 1e-9
    assert {key[0] for key in adjusted(inputs)} == {"variant", "arm", "stratum", "sweep", "beyond", "metric"}


def test_activity_strata_and_corpora_tables_show_the_numbers_of_the_files(change):
    inputs = change(Axes())
    table = activity_table(inputs, CORPUS)
    cells = dict(zip([c.title for c in table.columns], row(table, "bdh").cells, strict=True))
    assert (cells["density of x"].value, cells["dead neurons"].value, cells["zero weights"].value) == (0.12, 0.04, 0.01)
    assert (cells["training speed"].text, cells["state of a stream"].text) == ("14,913", "1.0 MiB")
    assert row(table, "transformer").cells[0].value is None
    tables = strata_tables(inputs, CORPUS)
    assert [t.caption.rpartition(" by ")[2] for t in tables] == ["year", "sector", "role of the speaker"]
    assert [r.title for r in tables[0].rows if r.reference] == ["documents", "tokens", "bytes"]
    assert strata_tables(inputs, "sample_plays") == []
    texts = corpora_table(inputs)
    cells = dict(zip([c.title for c in texts.columns], row(texts, CORPUS).cells, strict=True))
    assert (cells["train"].value, cells["removed"].value, cells["licence"].text) == (92_341, 2, "MIT")
    assert "made by this project" in texts.notes[0]


def test_survivorship_is_noted_for_real_companies_only(change):
    assert not any("survivorship" in note for note in corpora_table(change(Axes())).notes)
    assert any("survivorship" in note for note in corpora_table(change(Axes(corpora=("transcripts",)))).notes)


def test_results_hold_one_row_per_run_and_every_single_value(change, tmp_path):
    inputs = change(Axes(seeds=(0, 1)))
    write_results(tmp_path / "results.csv", result_rows(inputs))
    table = pd.read_csv(tmp_path / "results.csv").set_index("key")
    assert len(table) == 12
    run = inputs.runs[3]
    assert table.loc[run.key, "hebbian/arms/static/bits_per_byte"] == measures.test_bits(run)
    assert table.loc[run.key, "frontier/tmi/null_sd"] == 0.02 or run.variant == "transformer"
    assert table.loc[run.key, "timing/tokens_per_s"] == run.timing.number("tokens_per_s")
    assert not any(column.endswith("by_position") for column in table.columns)


def test_summary_has_no_times_and_names_the_lowest_run(change):
    inputs = change(Axes(seeds=(0, 1)))
    summary = summarise(inputs)
    assert not any("tokens_per_s" in name or "memory" in name or "seconds" in name for name in flatten(summary))
    assert summary["runs"] == {"expected": 12, "complete": 12}
    lowest = summary["corpora"][CORPUS]["lowest"]
    every = {run.key: measures.test_bits(run) for run in inputs.of(CORPUS)}
    assert lowest["key"] == min(every, key=every.get)
    variant = summary["corpora"][CORPUS]["variants"]["bdh"]
    assert variant["test_bits_per_byte"] == pytest.approx((every[f"bdh-{CORPUS}-0"] + every[f"bdh-{CORPUS}-1"]) / 2)
    assert variant["test_bits_per_byte_sd"] > 0
    json.dumps(summary, allow_nan=False)


def test_seed_that_diverged_is_in_no_mean_and_in_no_line(change, tmp_path):
    axes = Axes(corpora=(CORPUS,), seeds=(0, 1, 2))
    whole = change(axes)
    write_diverged(tmp_path, f"bdh-{CORPUS}-1")
    inputs = load_inputs(axes)
    table = quality_table(inputs, CORPUS)
    cell = row(table, "bdh").cells[column("test", "bits per byte")]
    bits = [measures.test_bits(run) for run in whole.of(CORPUS, "bdh")]
    assert cell.value == pytest.approx((bits[0] + bits[2]) / 2)
    assert cell.detail.endswith("n 2")
    assert any(note.startswith("No numbers, and in no mean: bdh, seed 1: diverged at step 40") for note in table.notes)
    lines = [curve for panel in training_panels(inputs, CORPUS) for curve in panel.curves if curve.label == "bdh"]
    assert lines
    assert all(len(curve.x) >= 6 for curve in lines)


def test_caution_when_models_read_less_than_the_baselines(change, tmp_path):
    inputs = change()
    assert not any("documents of the test split" in note for note in quality_table(inputs, CORPUS).notes)
    path = tmp_path / f"data/tokens/{CORPUS}/stats.json"
    stats = json.loads(path.read_text())
    stats["splits"]["test"]["documents"] = 60
    path.write_text(json.dumps(stats))
    notes = quality_table(load_inputs(Axes(corpora=(CORPUS,))), CORPUS).notes
    assert any("Models read 24 of 60 documents" in note for note in notes)
