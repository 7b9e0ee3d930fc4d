"""SPS: noise is called persistent by the reference protocol and not by ours; planted long memory is seen."""

import numpy as np
import pytest

from bdh.metrics import sps
from bdh.metrics.sps import Settings, compute
from bdh.plasticity.coactivation import Coactivation

SETTINGS = Settings(draws=200, resamplings=200)


def state_of(series_UX, window=128, damping=0.99):
    codes = np.maximum(series_UX, 0).reshape(len(series_UX), 2, 2, -1)
    tokens = window * np.arange(1, len(codes) + 1)
    return Coactivation(codes, tokens, np.zeros(len(codes), dtype=int), damping, 0.005, 100)


def noise(seed, updates=96):
    return state_of(np.random.default_rng(seed).normal(size=(updates, 128)))


def long_memory(seed, updates=96):
    """A sum of processes that forget over 2 to 64 updates."""
    generator, total = np.random.default_rng(seed), 0.0
    for scale in (2, 8, 64):
        keep, series = np.exp(-1 / scale), np.zeros((updates + 300, 128))
        for t in range(1, len(series)):
            series[t] = keep * series[t - 1] + np.sqrt(1 - keep**2) * generator.normal(size=128)
        total = total + series[300:]
    return state_of(total)


@pytest.mark.parametrize("seed", range(8))
def test_sps_negative_control_memoryless_codes_are_not_distinguishable(seed):
    row, _ = compute(noise(seed), [noise(100 + seed), noise(200 + seed), noise(300 + seed)], SETTINGS)
    assert row["verdict"] == "not distinguishable from its null"
    assert abs(row["value"] + 1 / 96) < 0.01
    assert row["reference_protocol"] > 0.9
    assert row["reference_protocol_untrained"] > 0.9


@pytest.mark.parametrize("seed", range(3))
def test_sps_positive_control_planted_long_memory_is_found(seed):
    row, curve = compute(long_memory(seed), [noise(100), noise(101), noise(102)], SETTINGS)
    assert row["verdict"] == "above its null"
    assert row["value"] > 0.2
    assert row["ci_low"] < row["value"] < row["ci_high"]
    assert row["ci_low"] > 0.1
    assert {"innovations", "snapshots (cosine)", "snapshots, damping alone"} <= {point["series"] for point in curve}


def test_sps_persistence_that_untrained_weights_show_as_well_is_not_distinguishable():
    row, _ = compute(long_memory(0), [long_memory(1), long_memory(2), long_memory(3)], SETTINGS)
    assert row["p"] < 0.05
    assert row["verdict"] == "not distinguishable from its null"


def test_sps_autocorrelation_equals_that_of_the_matrices():
    state = noise(0, updates=20)
    flat = np.einsum("ulhi,ulhj->ulhij", state.codes, state.codes).reshape(20, -1)
    flat = flat - flat.mean(0)
    kernel, lags = sps.centred(state.kernel()), np.array([1, 4])
    expected = [(flat[:-lag] * flat[lag:]).sum(1).mean() / (flat**2).sum(1).mean() for lag in lags]
    np.testing.assert_allclose(sps.autocorrelation(kernel, lags), expected, rtol=1e-9)


def test_sps_reference_protocol_equals_a_fit_by_hand():
    state = long_memory(0, updates=40)
    sigma, snapshots = 0.0, []
    for code in state.codes:
        sigma = state.damping * sigma + state.eta * np.einsum("lhi,lhj->lhij", code, code)
        snapshots.append(sigma.reshape(-1) / np.linalg.norm(sigma))
    lags = np.arange(1, 11)
    similar = [np.mean([a @ b for a, b in zip(snapshots, snapshots[lag:], strict=False)]) for lag in lags]
    slope = np.polyfit(np.log(lags), np.log(similar), 1)[0]
    assert sps.reference_protocol(state)["hurst"] == pytest.approx(1 + slope / 2, rel=1e-6)


@pytest.mark.parametrize("exponent", [0.0, -0.4, -1.0, -5.0])
def test_sps_hurst_of_a_power_law(exponent):
    lags = np.arange(1, 30)
    assert sps.hurst(lags, lags**exponent) == pytest.approx(max(0.0, 1 + exponent / 2))


def test_sps_short_windows_are_left_out():
    state = noise(0)
    tokens = state.tokens.copy()
    tokens[50:] -= 100
    short = Coactivation(state.codes, tokens, state.document, 0.99, 0.005, 100)
    assert compute(short, [], SETTINGS)[0]["n"] == 95


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        (None, "taps no x_sparse"),
        (noise(0, updates=5), "at least 12"),
        (state_of(np.ones((30, 128))), "nothing varies"),
        (state_of(np.zeros((30, 128))), "nothing varies"),
    ],
    ids=["none", "few", "constant", "silent"],
)
def test_sps_is_null_with_a_reason(state, reason):
    row, curve = compute(state, [], SETTINGS)
    assert row["value"] is None
    assert reason in row["reason"]
    assert curve == []


def test_sps_half_lives():
    row, _ = compute(noise(0), [], SETTINGS)
    assert row["half_life_tokens"] == pytest.approx(68.97, abs=0.01)
    assert row["half_life_updates_tokens"] == pytest.approx(128 * 68.97, rel=1e-3)
