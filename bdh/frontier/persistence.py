"""How correlations of a series fade: autocorrelation, half-life, laws of decay, Hurst exponent, reference protocol.

- The autocorrelation, the lag at which it is down to a half, and an exponential against a power law by AIC.
- The Hurst exponent by detrended fluctuation analysis (Peng et al. 1994) of several series at once, with a jackknife
  interval: 1/2 for a series without memory, above it where deviations of one sign follow each other over all scales,
  for fractional Gaussian noise its H.
- SPS as the two-stage reference computes it, so that its numbers can be read again: cosine of snapshots of the
  coactivation state at lag k averaged over time, k = 1 .. S/4, slope of its log on log k, H = 1 + slope/2 clipped to
  0..1. The state is a damped sum of non-negative updates: its snapshots stay alike, and H is near 1, even when the
  text is memoryless noise.

None stands for what cannot be measured: too short a series, or one that does not vary.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
from scipy.stats import t as student

from bdh.hebbian.coactivation import Coactivation, cosine, inner_products, pearson, sums

UNDECIDED = 2.0
GRID = 80
FEWEST_LAGS = 3
SMALLEST = 8
PARTS = 8
PER_OCTAVE = 2
FEWEST_SNAPSHOTS = 8
DAMPINGS = (0.95, 0.99, 0.999)


def autocorrelation(series_KP: np.ndarray, lags: np.ndarray) -> np.ndarray:
    """Mean over K de-meaned series of mean_t s[t] s[t+k] / mean_t s[t]^2 at every lag k of `lags`.

    A series that never varies counts for nothing; zero where none varies, and at lags that no two points have.
    """
    series_KP = series_KP - series_KP.mean(1, keepdims=True)
    power_K = (series_KP**2).mean(1)
    varying = power_K > 0
    if not varying.any():
        return np.zeros(lags.size)
    kept, power = series_KP[varying], power_K[varying]
    length = kept.shape[1]
    inside = lags[lags < length]
    found = np.zeros(lags.size)
    if not inside.size:
        return found
    spectrum = np.abs(np.fft.rfft(kept, n=2 * length)) ** 2
    products = np.fft.irfft(spectrum)[:, : int(inside.max()) + 1]
    found[lags < length] = (products[:, inside] / (length - inside) / power[:, None]).mean(0)
    return found


def half_life(lags: np.ndarray, correlation: np.ndarray) -> float | None:
    """Smallest lag, interpolated, at which the correlation is down to 1/2; None when it never is within `lags`."""
    below = np.flatnonzero(correlation <= 0.5)
    if below.size == 0:
        return None
    lags, correlation = np.append(0, lags), np.append(1.0, correlation)
    at = int(below[0]) + 1
    fallen = (correlation[at - 1] - 0.5) / (correlation[at - 1] - correlation[at])
    return float(lags[at - 1] + fallen * (lags[at] - lags[at - 1]))


def compare_laws(lags: np.ndarray, correlation: np.ndarray, noise: float) -> dict[str, Any]:
    """Which of c exp(-k/tau) and c k^-gamma fits the correlations better, by AIC of least squares.

    `aic_difference`: AIC of the exponential minus that of the power law; `law`: `power law` above 2, `exponential`
    below -2, `undecided` between or with fewer than three lags, `none` when the correlations as a whole are within two
    `noise` of zero (the standard error of one of them without correlation).
    """
    if lags.size < FEWEST_LAGS:
        return {"law": "undecided", "aic_difference": None, "tau_tokens": None, "exponent": None}
    if float(np.mean(correlation)) * np.sqrt(lags.size) < 2 * noise:
        return {"law": "none", "aic_difference": None, "tau_tokens": None, "exponent": None}
    taus = np.geomspace(0.3, 10 * lags.max(), GRID)
    exponents = np.geomspace(0.02, 6.0, GRID)
    tau, exponential = _fit(np.exp(-lags[None, :] / taus[:, None]), correlation)
    exponent, power = _fit(lags[None, :].astype(float) ** -exponents[:, None], correlation)
    difference = float(lags.size * np.log(exponential / power))
    law = "undecided" if abs(difference) <= UNDECIDED else "power law" if difference > 0 else "exponential"
    return {
        "law": law,
        "aic_difference": difference,
        "tau_tokens": float(taus[tau]),
        "exponent": float(exponents[exponent]),
    }


def _fit(shapes_GK: np.ndarray, correlation_K: np.ndarray) -> tuple[int, float]:
    """The best of G shapes, each scaled by least squares, and its residual sum of squares."""
    power_G = (shapes_GK**2).sum(1)
    scale_G = np.maximum(0.0, shapes_GK @ correlation_K) / np.where(power_G > 0, power_G, 1.0)
    residual_G = ((correlation_K - scale_G[:, None] * shapes_GK) ** 2).sum(1)
    best = int(residual_G.argmin())
    return best, float(residual_G[best]) + 1e-300


def scales(length: int) -> np.ndarray:
    """Window lengths from 8 to an eighth of the series, two per octave; none where an eighth is shorter than 8."""
    part = length // PARTS
    if part < SMALLEST:
        return np.zeros(0, dtype=int)
    octaves = math.log2(length / PARTS / SMALLEST)
    lengths = np.round(SMALLEST * 2.0 ** np.linspace(0, octaves, round(PER_OCTAVE * octaves) + 1)).astype(int)
    return np.unique(np.minimum(lengths, part))


def fluctuations(series_KP: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Window lengths (S) and mean squared fluctuation about a line at each of them in each eighth of the time (S,8).

    series: K series of P points. Every series counts alike: its fluctuations are divided by its variance.
    """
    spread = series_KP.std(1, keepdims=True)
    series_KP = (series_KP - series_KP.mean(1, keepdims=True)) / np.where(spread > 0, spread, 1.0)
    lengths = scales(series_KP.shape[1])
    part = series_KP.shape[1] // PARTS
    parts_KGP = series_KP[:, : PARTS * part].reshape(len(series_KP), PARTS, part)
    profile_KGP = np.cumsum(parts_KGP, axis=2)
    squared = [_squared(profile_KGP, int(length)) for length in lengths]
    return lengths, np.stack(squared) if squared else np.zeros((0, PARTS))


def _squared(profile_KGP: np.ndarray, length: int) -> np.ndarray:
    """Mean over series and windows of the variance left by a straight line (8)."""
    windows = profile_KGP.shape[2] // length
    y = profile_KGP[:, :, : windows * length].reshape(*profile_KGP.shape[:2], windows, length)
    time = np.arange(length) - (length - 1) / 2
    total = np.einsum("kgwl,kgwl->kgw", y, y)
    left = total - y.sum(3) ** 2 / length - (y @ time) ** 2 / float(time @ time)
    return left.mean((0, 2)) / length


def slope(lengths: np.ndarray, squared: np.ndarray) -> float | None:
    """Hurst exponent from mean squared fluctuations (S): half the slope of their logarithm on that of the length.

    None with fewer than two lengths, or where a fluctuation is zero and has no logarithm.
    """
    if lengths.size < 2 or not (squared > 0).all() or not np.isfinite(squared).all():
        return None
    return float(np.polyfit(np.log(lengths), 0.5 * np.log(squared), 1)[0])


def dfa(series_KP: np.ndarray) -> tuple[float | None, tuple[float | None, float | None]]:
    """Hurst exponent, by detrended fluctuation analysis, of K series of P points together, and its 95 % interval.

    Interval: delete-one jackknife over eighths of the time, Student t with 7 degrees of freedom. No exponent for a
    series too short for two window lengths or without fluctuations, no interval where one eighth has all of them.
    """
    lengths, squared_SG = fluctuations(series_KP)
    value = slope(lengths, squared_SG.mean(1))
    found = [slope(lengths, np.delete(squared_SG, part, 1).mean(1)) for part in range(PARTS)]
    without = np.array([one for one in found if one is not None])
    if value is None or without.size < PARTS:
        return value, (None, None)
    error = math.sqrt((PARTS - 1) / PARTS * float(((without - without.mean()) ** 2).sum()))
    half = float(student.ppf(0.975, PARTS - 1)) * error
    return value, (value - half, value + half)


def reference_protocol(state: Coactivation) -> dict[str, Any]:
    """The reference's H from the cosine of snapshots, the same from their Pearson correlation, and the curve."""
    snapshots = state.snapshots()
    if snapshots.size < FEWEST_SNAPSHOTS:
        return {"hurst": None, "hurst_pearson": None, "lags": np.zeros(0), "similarity": np.zeros(0)}
    products = inner_products(state, snapshots)
    lags = np.arange(1, snapshots.size // 4 + 1)
    similar = at_lags(cosine(products), lags)
    correlated = at_lags(pearson(products, sums(state, snapshots), state.entries), lags)
    return {
        "hurst": rescaled_range(lags, similar),
        "hurst_pearson": rescaled_range(lags, correlated),
        "lags": lags,
        "similarity": similar,
    }


def by_damping(state: Coactivation) -> dict[str, float | None]:
    """The reference's H of the same updates at each of the dampings 0.95, 0.99 and 0.999."""
    return {str(d): reference_protocol(dataclasses.replace(state, damping=d))["hurst"] for d in DAMPINGS}


def damping_alone(state: Coactivation) -> dict[str, Any]:
    """What the reference's H would be if snapshots forgot as damping says and updates brought nothing: damping^k.

    One update happens per window, so k counts the updates between snapshots.
    """
    snapshots = state.snapshots()
    if snapshots.size < FEWEST_SNAPSHOTS:
        return {"hurst": None, "lags": np.zeros(0), "similarity": np.zeros(0)}
    lags = np.arange(1, snapshots.size // 4 + 1)
    apart = float(np.diff(snapshots).mean())
    similar = state.damping ** (apart * lags)
    return {"hurst": rescaled_range(lags, similar), "lags": lags, "similarity": similar}


def rescaled_range(lags: np.ndarray, similarity: np.ndarray) -> float | None:
    """H = 1 + slope/2 of log similarity on log lag, clipped to 0..1; None with fewer than two positive similarities."""
    usable = similarity > 0
    if usable.sum() < 2:
        return None
    slope = float(np.polyfit(np.log(lags[usable]), np.log(similarity[usable]), 1)[0])
    return float(np.clip(1 + slope / 2, 0.0, 1.0))


def at_lags(similarity_SS: np.ndarray, lags: np.ndarray) -> np.ndarray:
    """Mean similarity of snapshots that lie each of `lags` apart."""
    return np.array([np.diagonal(similarity_SS, lag).mean() for lag in lags])
