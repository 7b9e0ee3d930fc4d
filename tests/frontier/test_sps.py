"""SPS: noise is called persistent by the reference protocol and not by ours; known exponents are found."""

import numpy as np
import pytest
from scipy import stats

from bdh.frontier import memory, persistence, sps
from bdh.frontier.persistence import by_damping, damping_alone, reference_protocol, rescaled_range
from bdh.frontier.sps import measure
from bdh.frontier.survey import Updates, survey, updates_of
from bdh.hebbian.coactivation import Coactivation
from benchmarks.control_series import LAPTOP, SHORT_MEMORY, autoregressive, gaussian_noise
from benchmarks.control_text import text
from tests.support.held_out_text import held_out, small_bdh

DRAWS = 60


def state_of(series_UX, window=128, damping=0.99):
    codes = np.maximum(series_UX, 0).reshape(len(series_UX), 2, 2, -1)
    tokens = window * np.arange(1, len(codes) + 1)
    return Coactivation(codes, tokens, np.zeros(len(codes), dtype=int), damping, 0.005, 100)


def noise_state(seed=0, updates=96, damping=0.99):
    return state_of(np.random.default_rng(seed).normal(size=(updates, 128)), damping=damping)


@pytest.mark.parametrize("exponent", [0.5, 0.65, 0.8, 0.95])
def test_sps_dfa_finds_the_exponent_of_fractional_gaussian_noise(exponent):
    found = [persistence.dfa(gaussian_noise(exponent, 2048, np.random.default_rng(seed))) for seed in range(20)]
    assert np.mean([value for value, _ in found]) == pytest.approx(exponent, abs=0.02)
    missed = sum(not low <= exponent <= high for _, (low, high) in found)
    assert missed <= stats.binom.ppf(0.999, 20, 0.05)


def test_sps_exponents_do_not_see_the_scale_of_a_series_or_a_constant_one():
    series = gaussian_noise(0.7, 1024, np.random.default_rng(0), series=3)
    scaled = series * np.array([[1.0], [50.0], [0.01]]) + 7.0
    for found in (persistence.dfa, memory.hurst):
        assert found(scaled)[0] == pytest.approx(found(series)[0], abs=1e-6)


def test_sps_autocorrelation_equals_the_sum_by_hand():
    series = autoregressive(0.5)(300, np.random.default_rng(0))
    lags = np.array([1, 4, 30])
    flat = series - series.mean(1, keepdims=True)
    expected = [((flat[:, :-k] * flat[:, k:]).mean(1) / (flat**2).mean(1)).mean() for k in lags]
    np.testing.assert_allclose(persistence.autocorrelation(series, lags), expected, rtol=1e-9)


@pytest.mark.parametrize(
    ("curve", "law"),
    [
        (lambda k: 0.5 * np.exp(-k / 12), "exponential"),
        (lambda k: 0.5 * k**-0.6, "power law"),
        (lambda k: 0.0 * k, "none"),
    ],
)
def test_sps_laws_of_decay_are_told_apart(curve, law):
    lags = np.arange(1, 65)
    noise = 0.005 * np.random.default_rng(0).normal(size=64)
    found = persistence.compare_laws(lags, curve(lags.astype(float)) + noise, 0.005)
    assert found["law"] == law
    if law == "exponential":
        assert found["tau_tokens"] == pytest.approx(12, rel=0.2)
    if law == "power law":
        assert found["exponent"] == pytest.approx(0.6, abs=0.1)


@pytest.mark.parametrize("exponent", [0.3, 0.5, 0.7, 0.9])
def test_sps_local_whittle_finds_the_exponent_and_covers_it(exponent):
    found = [memory.hurst(gaussian_noise(exponent, 8192, np.random.default_rng(seed))) for seed in range(20)]
    assert np.mean([value for value, _ in found]) == pytest.approx(exponent, abs=0.03)
    missed = sum(not low <= exponent <= high for _, (low, high) in found)
    assert missed <= stats.binom.ppf(0.999, 20, 0.06)


def test_sps_fitted_spectra_are_those_of_the_process():
    """Catches a fit that misses the plateau of slow fluctuations, which the null stands on."""
    series = autoregressive(0.9)(8192, np.random.default_rng(0))
    frequency = np.arange(1, 200) / 8192
    expected = 1 / (1 - 1.8 * np.cos(2 * np.pi * frequency) + 0.81)
    spectrum, order = memory.autoregression(series)
    assert order == 1
    np.testing.assert_allclose(spectrum[:, 1:200].mean(0) / expected, 1.0, atol=0.15)
    fading, constants = memory.two_memories(series)
    np.testing.assert_allclose(fading[:, 1:200].mean(0) / expected, 1.0, atol=0.25)
    assert max(constants) <= 8192 / memory.LONGEST


def test_sps_drawn_series_keep_what_the_series_share_and_have_the_exponents_of_their_spectrum():
    """Eight copies of one series say no more than one: their exponent varies as that of one does."""
    one = autoregressive(0.5)(8192, np.random.default_rng(1))[:1]
    same = np.repeat(one, 8, axis=0)
    spectra, _ = memory.autoregression(same)
    both = []
    for series in (same, one):
        process = memory.Drawn(series, spectra[: len(series)])
        both.append(np.array([process.exponent((2, draw)) for draw in range(100)]))
    np.testing.assert_allclose(both[0], both[1], atol=1e-3)
    assert both[0].mean() == pytest.approx(0.5, abs=0.04)


@pytest.mark.parametrize("name", ["AR(1) .9, half-life 7 tokens", "noise and AR(1) .97", "AR(1) .5 and AR(1) .97"])
def test_sps_short_memory_is_told_by_one_of_its_two_fits(name):
    held = text(lengths=(LAPTOP // 8,) * 8, window=128)
    row = measure(Updates(SHORT_MEMORY[name](LAPTOP, np.random.default_rng(5))), [], held, 0.99, draws=DRAWS)[0]
    assert max(row["nulls"][null]["p"] for null in (sps.FORGETS, sps.FADES)) > 0.05
    assert row["short_memory"]["longest"] == LAPTOP / 64


def test_sps_half_life_of_damped_noise_is_that_of_damping_alone():
    held, noise = text(lengths=(2048,) * 8), np.random.default_rng(0).normal(size=(8, 16384))
    row = measure(Updates(noise), [], held, 0.99, draws=DRAWS)[0]
    assert row["half_life"]["damping_alone"] == pytest.approx(68.97, abs=0.01)
    assert row["half_life"]["tokens"] == pytest.approx(68.97, rel=0.2)
    lasting = measure(Updates(gaussian_noise(0.9, 16384, np.random.default_rng(0))), [], held, 0.99, draws=DRAWS)[0]
    assert lasting["half_life"]["tokens"] > 1.3 * lasting["half_life"]["null_high"]


def test_sps_persistence_that_untrained_weights_show_as_well_is_not_distinguishable():
    generator, held = np.random.default_rng(0), text(lengths=(2048,) * 4)
    series = [gaussian_noise(0.75, held.scored, generator) for _ in range(4)]
    row, _ = measure(
        Updates(series[0]), [sps.numbers(Updates(one), held) for one in series[1:]], held, 0.99, draws=DRAWS
    )
    assert row["p"] < 0.05
    assert row["verdict"] == "not distinguishable from its null"


def test_sps_blocks_in_random_order_hold_every_place_once():
    order = sps.block_order(100, np.random.default_rng(0))
    assert sorted(order.tolist()) == list(range(100))
    assert (np.diff(order) == 1).mean() > 0.85


def test_sps_what_depends_on_the_place_in_the_window_alone_is_taken_out():
    held = text()
    place = np.floor(np.log2(1 + (held.position - 1) % held.window))
    assert np.abs(sps.centred(np.stack([place, 3 * place]), held)).max() < 1e-9


def test_sps_projections_of_a_model_are_those_of_its_updates():
    model, held = small_bdh(), held_out(window=16)
    seen = []
    from bdh.nn.probe import listening

    with listening(lambda name, layer, tensor: seen.append(tensor) if name == "x_sparse" else None):
        found = updates_of(model, held, "cpu", False).projections
    assert found.shape == (8, held.scored)
    assert np.isfinite(found).all()
    assert (np.ptp(found, axis=1) > 0).all()
    scale = sum(float((tensor.double() ** 2).sum()) for tensor in seen)
    assert 0.2 * scale < np.abs(found).sum() / 8 * np.pi / 2 < 5 * scale
    np.testing.assert_allclose(survey(model, held, "cpu", False).updates.projections, found)


@pytest.mark.parametrize("damping", [0.95, 0.99, 0.999])
def test_sps_reference_protocol_calls_memoryless_noise_persistent(damping):
    assert reference_protocol(noise_state(damping=damping))["hurst"] > 0.9


def test_sps_reference_protocol_equals_a_fit_by_hand():
    state = noise_state(updates=40)
    sigma, snapshots = 0.0, []
    for code in state.codes:
        sigma = state.damping * sigma + state.eta * np.einsum("lhi,lhj->lhij", code, code)
        snapshots.append(sigma.reshape(-1) / np.linalg.norm(sigma))
    lags = np.arange(1, 11)
    similar = [np.mean([a @ b for a, b in zip(snapshots, snapshots[lag:], strict=False)]) for lag in lags]
    slope = np.polyfit(np.log(lags), np.log(similar), 1)[0]
    assert reference_protocol(state)["hurst"] == pytest.approx(1 + slope / 2, rel=1e-6)
    assert by_damping(state)["0.99"] == reference_protocol(state)["hurst"]
    assert damping_alone(state)["hurst"] < 1.0


@pytest.mark.parametrize("exponent", [0.0, -0.4, -1.0, -5.0])
def test_sps_reference_exponent_of_a_power_law(exponent):
    lags = np.arange(1, 30)
    assert rescaled_range(lags, lags**exponent) == pytest.approx(max(0.0, 1 + exponent / 2))


@pytest.mark.parametrize(
    ("own", "held", "reason"),
    [
        (None, text(), "taps no x_sparse"),
        (Updates(np.random.default_rng(0).normal(size=(8, 1022))), held_out(lengths=(512, 512)), "at least 1024"),
        (Updates(np.ones((8, 2048))), text(), "nothing varies"),
    ],
    ids=["none", "short", "constant"],
)
def test_sps_is_null_with_a_reason(own, held, reason):
    row, curve = measure(own, [], held, 0.99, draws=DRAWS)
    assert row["value"] is None
    assert row["verdict"] == "not measurable"
    assert reason in row["reason"]
    assert curve == []
