"""How correlations of a series fade: the autocorrelation, its half-life, and an exponential against a power law."""

from __future__ import annotations

from typing import Any

import numpy as np

UNDECIDED = 2.0
GRID = 80


def autocorrelation(series_KP: np.ndarray, lags: np.ndarray) -> np.ndarray:
    """Mean over K de-meaned series of mean_t s[t] s[t+k] / mean_t s[t]^2 at every lag k of `lags`.

    A series that never varies counts for nothing; zeros when none varies.
    """
    series_KP = series_KP - series_KP.mean(1, keepdims=True)
    power_K = (series_KP**2).mean(1)
    varying = power_K > 0
    if not varying.any():
        return np.zeros(lags.size)
    kept, power = series_KP[varying], power_K[varying]
    length = kept.shape[1]
    spectrum = np.abs(np.fft.rfft(kept, n=2 * length)) ** 2
    sums = np.fft.irfft(spectrum)[:, : int(lags.max()) + 1]
    return np.asarray((sums[:, lags] / (length - lags) / power[:, None]).mean(0))


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
    below -2, `undecided` between, `none` when the correlations as a whole are within two `noise` of zero (the
    standard error of one of them without correlation).
    """
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
    scale_G = np.maximum(0.0, shapes_GK @ correlation_K) / (shapes_GK**2).sum(1)
    residual_G = ((correlation_K - scale_G[:, None] * shapes_GK) ** 2).sum(1)
    best = int(residual_G.argmin())
    return best, float(residual_G[best]) + 1e-300
