"""Short memory against long: the Hurst exponent of slow fluctuations, and series that forget as a series does.

A process that forgets within some tokens is persistent up to that scale and looks persistent beyond it by chance of a
short text. So two kinds of short memory are fitted to a series and drawn from: an autoregression, whose order is chosen
by BIC (Schwarz 1978), and the sum of noise and two fading memories of any time constants up to a 64th of the length,
fitted to the spectrum (Whittle 1953). K series of n points; all K share order and time constants, each has its own
weights. Frequencies are Fourier frequencies j/n, 0 .. n/2.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.stats import t as student

from bdh.intervals import LEVEL

HIGHEST_ORDER = 40
LONGEST = 64
PER_OCTAVE = 12
GRID = 14
SHORTEST = 0.7
REFINED = 3


def slow(length: int) -> int:
    """How many frequencies are slow fluctuations: half the root of the length, periods of two roots and more."""
    return int(math.sqrt(length) / 2)


def hurst(series_KP: np.ndarray) -> tuple[float | None, tuple[float | None, float | None]]:
    """Hurst exponent of the slow fluctuations of K series together by local Whittle, and its 95 % interval.

    Robinson (1995), Annals of Statistics 23: the power at slow frequencies f goes as f^(1 - 2H), with a scale of its
    own in every series. 1/2 without memory. The interval takes frequencies as the independent units, whatever the K
    series share. None where a series has no slow fluctuations.
    """
    spectrum_KF = np.abs(np.fft.rfft(series_KP - series_KP.mean(1, keepdims=True)))[:, 1:] ** 2
    return of_spectrum(spectrum_KF[:, : slow(series_KP.shape[1])])


def of_spectrum(power_KM: np.ndarray) -> tuple[float | None, tuple[float | None, float | None]]:
    """`hurst` from the power at the M slowest frequencies."""
    M = power_KM.shape[1]
    if M < 2 or not np.isfinite(power_KM).all() or not (power_KM.sum(1) > 0).all():
        return None, (None, None)
    power_KM = power_KM / power_KM.mean(1, keepdims=True)
    log = np.log(np.arange(1, M + 1))
    log -= log.mean()

    def loss(d: float) -> float:
        return float(np.log((np.exp(2 * d * log) * power_KM).mean(1)).mean())

    d = float(minimize_scalar(loss, bounds=(-0.49, 1.2), method="bounded", options={"xatol": 1e-5}).x)
    share_KM = np.exp(2 * d * log) * power_KM
    share_KM /= share_KM.sum(1, keepdims=True)
    curvature = 4 * float(((share_KM @ log**2) - (share_KM @ log) ** 2).mean())
    score_M = 2 * log * (share_KM - 1 / M).mean(0)
    if curvature <= 0:
        return d + 0.5, (None, None)
    half = float(student.ppf(1 - LEVEL / 2, M - 1)) * math.sqrt(float(score_M @ score_M)) / curvature
    return d + 0.5, (d + 0.5 - half, d + 0.5 + half)


def autoregression(series_KP: np.ndarray) -> tuple[np.ndarray, int]:
    """Spectra (K,F) of autoregressions fitted to K series (Yule & Walker), and their order, one of 0 .. 40."""
    series_KP = series_KP - series_KP.mean(1, keepdims=True)
    K, n = series_KP.shape
    power = np.abs(np.fft.rfft(series_KP, 2 * n)) ** 2
    fits = [_levinson(one) for one in np.fft.irfft(power)[:, : min(HIGHEST_ORDER, n // 8) + 1] / n]
    orders = np.arange(len(fits[0][1]))
    order = int((sum(n * np.log(variances) for _, variances in fits) + math.log(n) * K * orders).argmin())
    found = [
        variances[order] / np.abs(np.fft.rfft(np.append(1.0, -coefficients[order]), n)) ** 2
        for coefficients, variances in fits
    ]
    return np.stack(found), order


def _levinson(covariance: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
    """Coefficients and variances of the innovations of all orders up to the number of lags (Levinson & Durbin)."""
    coefficients, variances = [np.zeros(0)], [float(covariance[0])]
    for lag in range(1, covariance.size):
        last = coefficients[-1]
        partial = (covariance[lag] - float(last @ covariance[1:lag][::-1])) / variances[-1]
        coefficients.append(np.append(last - partial * last[::-1], partial))
        variances.append(max(variances[-1] * (1 - partial**2), 1e-12 * variances[0]))
    return coefficients, np.array(variances)


def two_memories(series_KP: np.ndarray) -> tuple[np.ndarray, tuple[float, ...]]:
    """Spectra (K,F) of noise and two fading memories fitted to K series, and the two time constants in points."""
    n = series_KP.shape[1]
    power_KF = np.abs(np.fft.rfft(series_KP - series_KP.mean(1, keepdims=True))) ** 2 / n
    edges = _edges(power_KF.shape[1])
    count = np.diff(edges)
    binned = np.add.reduceat(power_KF, edges[:-1], axis=1)[:, : count.size] / count
    frequency = np.arange(power_KF.shape[1]) / n
    middle = np.add.reduceat(frequency, edges[:-1])[: count.size] / count
    grid = np.geomspace(SHORTEST, n / LONGEST, GRID)
    trials = [tuple(pair) for pair in itertools.combinations(grid.tolist(), 2)]
    best = min(trials, key=lambda pair: _weights(binned, _shapes(middle, pair), count, 25)[1])
    step = math.sqrt(grid[1] / grid[0])
    for _ in range(REFINED):
        near = itertools.product(*([one / step, one, one * step] for one in best))
        inside = [tuple(min(one, n / LONGEST) for one in pair) for pair in near]
        best = min(inside, key=lambda pair: _weights(binned, _shapes(middle, pair), count, 50)[1])
        step = math.sqrt(step)
    weights, _ = _weights(binned, _shapes(middle, best), count, 300)
    return weights @ _shapes(frequency, best), best


def _edges(frequencies: int) -> np.ndarray:
    """Borders of the frequencies 1 .. F-1 that are averaged: by themselves at first, 12 groups per octave later."""
    edges = [1]
    while edges[-1] < frequencies:
        edges.append(min(frequencies, max(edges[-1] + 1, int(edges[-1] * 2 ** (1 / PER_OCTAVE)))))
    return np.array(edges)


def _shapes(frequency_F: np.ndarray, constants: tuple[float, ...]) -> np.ndarray:
    """Spectra of unit variance (1 + number of constants, F): noise, and e^(-lag / constant) for every constant."""
    keep = np.exp(-1 / np.array(constants))[:, None]
    fading = (1 - keep**2) / (1 - 2 * keep * np.cos(2 * math.pi * frequency_F) + keep**2)
    return np.concatenate([np.ones((1, frequency_F.size)), fading])


def _weights(power_KB: np.ndarray, shapes_JB: np.ndarray, count_B: np.ndarray, rounds: int) -> tuple[np.ndarray, float]:
    """Weights (K,J) from 0 up that fit the power best, and Whittle's loss (multiplicative updates)."""
    weights = np.repeat(power_KB.mean(1, keepdims=True), len(shapes_JB), axis=1) / len(shapes_JB)
    for _ in range(rounds):
        fitted = weights @ shapes_JB
        weights = weights * np.sqrt(
            ((power_KB / fitted**2 * count_B) @ shapes_JB.T) / ((count_B / fitted) @ shapes_JB.T)
        )
    fitted = weights @ shapes_JB
    return weights, float(((np.log(fitted) + power_KB / fitted) * count_B).sum())


class Drawn:
    """Series that have fitted spectra (K,F) and no other memory.

    A series is whitened by its fitted spectrum, every point of time gets a random sign, the same in all K, and the
    spectrum is put back (wild bootstrap): how much it fluctuates when, and what the K series share, stay.
    """

    def __init__(self, series_KP: np.ndarray, spectra_KF: np.ndarray) -> None:
        """Whiten the series."""
        n = series_KP.shape[1]
        root_KF = np.sqrt(spectra_KF)
        flat_KP = series_KP - series_KP.mean(1, keepdims=True)
        self._innovations_KP = np.fft.irfft(np.fft.rfft(flat_KP) / root_KF, n)
        self._slow_KM = root_KF[:, 1 : slow(n) + 1]

    def exponent(self, seed: tuple[int, ...]) -> float | None:
        """Hurst exponent of one draw, None where it has none."""
        K, n = self._innovations_KP.shape
        signs = np.random.default_rng(seed).choice([-1.0, 1.0], n)
        found_KM = np.empty(self._slow_KM.shape)
        for at in range(K):
            found_KM[at] = np.abs(np.fft.rfft(self._innovations_KP[at] * signs)[1 : found_KM.shape[1] + 1])
        return of_spectrum((found_KM * self._slow_KM) ** 2)[0]
