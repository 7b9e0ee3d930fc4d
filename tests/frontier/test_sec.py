"""SEC: accidents of untrained weights are not taken for coupling; planted coupling is seen, per token."""

import dataclasses

import numpy as np
import pytest
from scipy.stats import spearmanr

from bdh.frontier.sec import Pairs, correlation, measure, numbers, reference_protocol
from bdh.frontier.survey import Reading, survey
from benchmarks.controls import repeated_words
from tests.support.held_out_text import held_out, small_bdh

SETTINGS = {"draws": 200, "resamplings": 200}
TEXT = held_out(lengths=(260,) * 10, window=32, seed=5)


def reading_of(seed, coupling=0.0, by_token=0.0, text=TEXT):
    """Surprisal and densities that share `coupling` beside what both owe to the token (`by_token`)."""
    generator = np.random.default_rng(seed)
    habit = generator.normal(size=64)[text.inputs]
    surprise_P = np.abs(generator.normal(size=text.scored) + by_token * habit)
    nats = np.append(surprise_P[1:], 0.0)
    density_LP = np.abs(generator.normal(size=(3, text.scored)) + coupling * surprise_P + by_token * habit)
    return Reading("xy_sparse", density_LP / 10, nats, density_LP[0] / 10)


def twins(by_token=0.0):
    return [numbers(reading_of(900 + seed, by_token=by_token), TEXT) for seed in range(3)]


@pytest.mark.parametrize("seed", range(6))
def test_sec_negative_control_independent_series_are_not_distinguishable(seed):
    row, _ = measure(reading_of(seed), twins(), TEXT, **SETTINGS)
    assert row["verdict"] == "not distinguishable from its null"
    assert abs(row["value"]) < 0.1


@pytest.mark.parametrize("seed", range(3))
def test_sec_what_both_owe_to_the_token_is_not_coupling(seed):
    row, _ = measure(reading_of(seed, by_token=2.0), twins(by_token=2.0), TEXT, **SETTINGS)
    assert row["spearman"]["value"] > 0.3
    assert row["spearman"]["p"] < 0.05
    assert row["verdict"] == "not distinguishable from its null"


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_sec_positive_control_planted_coupling_is_found_with_its_sign(sign):
    planted = reading_of(0, coupling=2.0)
    if sign < 0:
        planted = dataclasses.replace(planted, density=1.0 - planted.density, first_code=1.0 - planted.first_code)
    row, curve = measure(planted, twins(), TEXT, **SETTINGS)
    assert row["verdict"] == ("above its null" if sign > 0 else "below its null")
    assert sign * row["value"] > 0.3
    assert row["ci_low"] < row["value"] < row["ci_high"]
    assert row["ci_low"] * row["ci_high"] > 0
    assert all(sign * layer > 0.1 for layer in row["layers"])
    ends = [point["y"] for point in curve if point["series"] == "trained"]
    assert sign * (ends[-1] - ends[0]) > 0


def test_sec_coupling_to_the_next_token_is_not_mistaken_for_the_one_just_read():
    planted = reading_of(0, coupling=2.0)
    late = dataclasses.replace(planted, nats=np.roll(planted.nats, 1))
    assert measure(late, twins(), TEXT, **SETTINGS)[0]["verdict"] == "not distinguishable from its null"


def test_sec_untrained_models_are_not_distinguishable():
    readings = [survey(small_bdh(seed, scale=1.0), TEXT, "cpu", False).reading for seed in range(5)]
    verdicts = [
        measure(one, [numbers(other, TEXT) for other in readings[:i] + readings[i + 1 :]], TEXT, **SETTINGS)[0][
            "verdict"
        ]
        for i, one in enumerate(readings)
    ]
    assert set(verdicts) == {"not distinguishable from its null"}


def test_sec_spearman_equals_scipy_and_pairs_a_density_with_the_surprisal_of_the_same_token():
    reading, pairs = reading_of(3, coupling=0.5), Pairs(TEXT)
    density = reading.density.mean(0)
    inside = np.flatnonzero(TEXT.position > 1)
    assert (TEXT.targets[inside - 1] == TEXT.inputs[inside]).all()
    expected = spearmanr(density[inside], reading.nats[inside - 1]).statistic
    assert correlation(*pairs.ranks(density, reading.nats)) == pytest.approx(expected, abs=1e-12)


def test_sec_partial_ranks_have_no_mean_left_per_token_and_place():
    pairs = Pairs(TEXT)
    for series in pairs.partial(reading_of(3, by_token=1.0).density[0], reading_of(3, by_token=1.0).nats):
        for group in (pairs.token, pairs.place):
            means = np.bincount(group, weights=series) / np.maximum(np.bincount(group), 1)
            assert np.abs(means).max() < 0.02 * series.std()


def test_sec_shifts_turn_every_document_by_itself():
    pairs = Pairs(TEXT)
    for shift in pairs.shifts(5, seed=0):
        assert sorted(shift.tolist()) == list(range(pairs.places.size))
        assert (pairs.document[shift] == pairs.document).all()
        assert len(set(((shift - np.arange(shift.size)) % 259)[pairs.document == 2])) <= 2


def test_sec_reference_protocol_is_pearson_over_windows():
    reading = reading_of(1, coupling=1.0)
    windows = [slice(a, b) for a, b in zip(TEXT.bounds, TEXT.bounds[1:], strict=False) if b - a >= 16]
    density = [reading.first_code[window].mean() for window in windows]
    loss = [min(np.exp(reading.nats[window].mean()), 1000) for window in windows]
    assert reference_protocol(reading, TEXT) == pytest.approx(np.corrcoef(density, loss)[0, 1])
    assert reference_protocol(dataclasses.replace(reading, nats=reading.nats + 50), TEXT) is None


def test_sec_is_null_with_a_reason():
    assert "no density" in measure(None, [], TEXT, **SETTINGS)[0]["reason"]
    dense = dataclasses.replace(reading_of(0), density=np.ones((2, TEXT.scored)))
    assert "nothing varies" in measure(dense, [], TEXT, **SETTINGS)[0]["reason"]
    short = held_out(lengths=(9, 9), window=4)
    row, _ = measure(reading_of(0, text=short), [], short, **SETTINGS)
    assert row["value"] is None
    assert "fewer than 64" in row["reason"]


def test_sec_positive_control_density_that_falls_as_a_repeated_word_becomes_known_is_found():
    row = repeated_words(0)
    assert row["verdict"] == "above its null"
    assert row["value"] > 0.3
    assert repeated_words(0, shuffled=True)["verdict"] == "not distinguishable from its null"
