"""Detrended fluctuation analysis (Peng et al. 1994) of several series at once, with a jackknife interval.

The Hurst exponent is 1/2 for a series without memory, above it where deviations of one sign follow each other over
all scales, for fractional Gaussian noise its H.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.stats import t as student

SMALLEST = 8
PARTS = 8
PER_OCTAVE = 2


def scales(length: int) -> np.ndarray:
    """Window lengths from 8 to an eighth of the series, two per octave."""
    octaves = math.log2(length / PARTS / SMALLEST)
    return np.unique(np.round(SMALLEST * 2.0 ** np.linspace(0, octaves, round(PER_OCTAVE * octaves) + 1)).astype(int))


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
    return lengths, np.stack([_squared(profile_KGP, int(length)) for length in lengths])


def _squared(profile_KGP: np.ndarray, length: int) -> np.ndarray:
    """Mean over series and windows of the variance left by a straight line (8)."""
    windows = profile_KGP.shape[2] // length
    y = profile_KGP[:, :, : windows * length].reshape(*profile_KGP.shape[:2], windows, length)
    time = np.arange(length) - (length - 1) / 2
    total = np.einsum("kgwl,kgwl->kgw", y, y)
    left = total - y.sum(3) ** 2 / length - (y @ time) ** 2 / float(time @ time)
    return left.mean((0, 2)) / length


def slope(lengths: np.ndarray, squared: np.ndarray) -> float:
    """Hurst exponent from mean squared fluctuations (S): half the slope of their logarithm on that of the length."""
    return float(np.polyfit(np.log(lengths), 0.5 * np.log(squared), 1)[0])


def hurst(series_KP: np.ndarray) -> tuple[float, tuple[float, float]]:
    """Hurst exponent of K series of P points together, and its 95 % interval.

    Interval: delete-one jackknife over eighths of the time, Student t with 7 degrees of freedom.
    """
    lengths, squared_SG = fluctuations(series_KP)
    value = slope(lengths, squared_SG.mean(1))
    without = np.array([slope(lengths, np.delete(squared_SG, part, 1).mean(1)) for part in range(PARTS)])
    error = math.sqrt((PARTS - 1) / PARTS * float(((without - without.mean()) ** 2).sum()))
    half = float(student.ppf(0.975, PARTS - 1)) * error
    return value, (value - half, value + half)
