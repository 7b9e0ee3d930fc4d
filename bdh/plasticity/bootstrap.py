"""The bootstrap over units of text (documents, or blocks of tokens): intervals of ratios of sums, NumPy alone.

With few units plain percentiles are too narrow. Here they are widened so that for a mean of normal values the interval
is Student's t, the expanded percentile interval of Hesterberg (2015), The American Statistician 69(4), section 5.
U units, R resamplings.
"""

from __future__ import annotations

import functools
import math

import numpy as np

FEWEST_UNITS = 8
LEVEL = 0.05


def too_few(units: int, unit: str) -> str | None:
    """Why `units` units of text carry no interval, None when there are enough of them."""
    if units >= FEWEST_UNITS:
        return None
    return f"not measurable: units of text ({unit}): {units}; the paired bootstrap takes {FEWEST_UNITS} or more"


def ratio_interval(
    above_U: np.ndarray, below_U: np.ndarray, *, resamplings: int, seed: int = 0
) -> tuple[float | None, float | None]:
    """95 % interval of sum(above) / sum(below), units resampled together; None, None below FEWEST_UNITS units.

    Two calls with the same number of units see the same draws, so that intervals of nested text are comparable.
    """
    units = above_U.size
    if units < FEWEST_UNITS:
        return None, None
    counts_RU = _draws(units, resamplings, seed)
    below_R = counts_RU @ below_U
    ratios = (counts_RU @ above_U)[below_R > 0] / below_R[below_R > 0]
    if ratios.size < 2:
        return None, None
    tail = _tail(units)
    low, high = np.quantile(ratios, [tail, 1 - tail])
    return float(low), float(high)


@functools.lru_cache(maxsize=64)
def _draws(units: int, resamplings: int, seed: int) -> np.ndarray:
    """How often each unit is drawn in each resampling (R,U)."""
    return np.random.default_rng(seed).multinomial(units, np.full(units, 1 / units), resamplings).astype(np.float64)


@functools.cache
def _tail(units: int) -> float:
    """Share of the resamplings beyond either end: Phi(-sqrt(U/(U-1)) t), t the quantile of Student's t, U-1 degrees."""
    from scipy.special import ndtr, stdtrit

    return float(ndtr(-math.sqrt(units / (units - 1)) * stdtrit(units - 1, 1 - LEVEL / 2)))
