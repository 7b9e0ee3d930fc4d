"""SEC: what both owe to tokens, places or drifts is not taken for coupling; planted coupling is seen, per token."""

import dataclasses
import functools

import numpy as np
import pytest
from scipy import stats
from scipy.stats import spearmanr

from bdh.frontier import sec
from bdh.frontier.concepts import Passages
from bdh.frontier.sec import Pairs, correlation, measure, numbers, reference_protocol
from bdh.frontier.survey import Reading, Texts, survey
from benchmarks.control_text import FEW, UNCOUPLED, Scene, as_reading, coupled, repeated_words, sec_scene
from tests.support.held_out_text import held_out, small_bdh

TEXT = held_out(lengths=(260,) * 12, window=32, seed=5)


def reading_of(seed, coupling=0.0, text=TEXT):
    """Surprisal and densities that share `coupling`."""
    generator = np.random.default_rng(seed)
    surprise_P = np.abs(generator.normal(size=text.scored))
    density_LP = np.abs(generator.normal(size=(3, text.scored)) + coupling * surprise_P)
    return Reading("xy_sparse", density_LP / 10, np.append(surprise_P[1:], 0.0), density_LP[0] / 10)


@functools.cache
def twins():
    return [numbers(reading_of(900 + seed), TEXT) for seed in range(20)]


@pytest.mark.parametrize("name", [name for name in UNCOUPLED if name != "independent series"])
def test_sec_what_has_another_cause_is_not_coupling(name):
    """Catches a cause that the residuals still hold: the value would be far from 0, not just its p now and then."""
    rows = [sec_scene(UNCOUPLED[name], twins=0)(seed) for seed in range(2)]
    values = [row["value"] for row in rows if row["value"] is not None]
    assert "not distinguishable from its null" in {row["verdict"] for row in rows} or not values
    assert not values or abs(np.mean(values)) < 0.12


def test_sec_two_documents_are_too_few_to_judge():
    documents, make = FEW["two documents with a common drift of 0.3 sd"]
    row = sec_scene(make, documents)(0)
    assert row["verdict"] == "not measurable"
    assert "2 documents, at least 8" in row["reason"]


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_sec_positive_control_planted_coupling_is_found_with_its_sign(sign):
    planted = reading_of(0, coupling=2.0)
    if sign < 0:
        planted = dataclasses.replace(planted, density=1.0 - planted.density, first_code=1.0 - planted.first_code)
    row, curve = measure(planted, twins(), TEXT)
    assert row["verdict"] == ("above its null" if sign > 0 else "below its null")
    assert sign * row["value"] > 0.3
    assert row["ci_low"] < row["value"] < row["ci_high"]
    assert row["ci_low"] * row["ci_high"] > 0
    assert all(sign * layer > 0.1 for layer in row["layers"])
    ends = [point["y"] for point in curve if point["series"] == "trained"]
    assert sign * (ends[-1] - ends[0]) > 0


def test_sec_standard_errors_are_those_of_leaving_out_one_unit_at_a_time():
    """The jackknife over units, by hand, where units are of equal size."""
    scene = Scene(3)
    reading, pairs = as_reading(coupled(scene, 0.2)), Pairs(scene.text)
    a, b = pairs.partial(reading.density.mean(0), reading.nats)
    for unit in ("document", "token", "before"):
        found, groups = pairs.against((a, b), unit), pairs.units[unit]
        without = np.array([correlation(a[groups != one], b[groups != one]) for one in np.unique(groups)])
        units = without.size
        jackknife = np.sqrt((units - 1) / units * ((without - without.mean()) ** 2).sum())
        assert found["sd"] == pytest.approx(jackknife, rel=0.15)
        assert found["units"] == units
        assert found["freedom"] <= units - 1
        assert found["p"] == pytest.approx(2 * stats.t.sf(abs(found["z"]), found["freedom"]))


def test_sec_takes_passages_where_the_text_has_too_few_documents():
    few, many = held_out(lengths=(200,) * 3), held_out(lengths=(200,) * 9)
    passages = Passages(many, np.arange(many.scored), many.token_document)
    assert sec.text_of(Texts(few, passages)) is many
    assert sec.text_of(Texts(few)) is few
    assert sec.text_of(Texts(many, Passages(few, np.arange(few.scored), few.token_document))) is many


def test_sec_pairs_never_reach_over_a_gap_in_a_document():
    """Passages leave windows out: the first token of a window was predicted in none that was read."""
    whole = held_out(lengths=(129,) * 9, window=32)
    kept = np.flatnonzero(((whole.position - 1) // 32) % 2 == 0)
    gaps = dataclasses.replace(
        whole,
        inputs=whole.inputs[kept],
        targets=whole.targets[kept],
        position=whole.position[kept],
        bounds=32 * np.arange(19),
        document=np.repeat(np.arange(9), 2),
    )
    assert ((gaps.position[Pairs(gaps).places] - 1) % 32 > 0).all()


def test_sec_coupling_to_the_next_token_is_not_mistaken_for_the_one_just_read():
    planted = reading_of(0, coupling=2.0)
    late = dataclasses.replace(planted, nats=np.roll(planted.nats, 1))
    assert measure(late, twins(), TEXT)[0]["verdict"] == "not distinguishable from its null"


def test_sec_untrained_models_are_not_distinguishable():
    readings = [survey(small_bdh(seed, scale=1.0), TEXT, "cpu", False).reading for seed in range(21)]
    others = [numbers(one, TEXT) for one in readings]
    verdicts = [measure(one, others[:i] + others[i + 1 :], TEXT)[0]["verdict"] for i, one in enumerate(readings[:5])]
    assert verdicts.count("not distinguishable from its null") >= 4


def test_sec_spearman_equals_scipy_and_pairs_a_density_with_the_surprisal_of_the_same_token():
    reading, pairs = reading_of(3, coupling=0.5), Pairs(TEXT)
    density = reading.density.mean(0)
    assert (TEXT.targets[pairs.places - 1] == TEXT.inputs[pairs.places]).all()
    expected = spearmanr(density[pairs.places], reading.nats[pairs.places - 1]).statistic
    assert correlation(*pairs.ranks(density, reading.nats)) == pytest.approx(expected, abs=1e-12)


def test_sec_partial_ranks_have_no_mean_left_per_pair_place_and_stretch():
    pairs, reading = Pairs(TEXT), reading_of(3)
    pair = TEXT.inputs[pairs.places - 1] * 64 + TEXT.inputs[pairs.places]
    place = (TEXT.position[pairs.places] - 1) % TEXT.window
    stretch = pairs.units["document"] * 1000 + (TEXT.position[pairs.places] - 1) // sec.STRETCH
    for series in pairs.partial(reading.density[0], reading.nats):
        for group in (pair, place, stretch):
            means = np.bincount(group, weights=series) / np.maximum(np.bincount(group), 1)
            assert np.abs(means).max() < 1e-3 * series.std()


def test_sec_reference_protocol_is_pearson_over_windows():
    reading = reading_of(1, coupling=1.0)
    windows = [slice(a, b) for a, b in zip(TEXT.bounds, TEXT.bounds[1:], strict=False) if b - a >= 16]
    density = [reading.first_code[window].mean() for window in windows]
    loss = [min(np.exp(reading.nats[window].mean()), 1000) for window in windows]
    assert reference_protocol(reading, TEXT) == pytest.approx(np.corrcoef(density, loss)[0, 1])
    assert reference_protocol(dataclasses.replace(reading, nats=reading.nats + 50), TEXT) is None


def test_sec_is_null_with_a_reason():
    assert "no density" in measure(None, [], TEXT)[0]["reason"]
    dense = dataclasses.replace(reading_of(0), density=np.ones((2, TEXT.scored)))
    assert "nothing varies" in measure(dense, [], TEXT)[0]["reason"]
    short = held_out(lengths=(9,) * 9, window=4)
    row, _ = measure(reading_of(0, text=short), [], short)
    assert row["value"] is None
    assert "256 are needed" in row["reason"]


def test_sec_positive_control_density_that_falls_as_a_repeated_word_becomes_known_is_found():
    row = repeated_words(0)
    assert row["verdict"] == "above its null"
    assert row["value"] > 0.15
    assert repeated_words(0, shuffled=True)["verdict"] == "not distinguishable from its null"
