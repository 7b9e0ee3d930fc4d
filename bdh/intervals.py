"""Chance: where a value stands among draws of its null, and intervals by resampling.

Shared by stage B, the frontier metrics and the report. The bootstrap resamples units of text (documents, or blocks of
tokens). With few units plain percentiles are too narrow: here they are widened so that for a mean of normal values the
interval is Student's t, the expanded percentile interval of Hesterberg (2015), The American Statistician 69(4),
section 5. U units, R resamplings.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
from scipy import stats
from scipy.special import ndtr, stdtrit

LEVEL = 0.05
FEW_DRAWS = 40
FEWEST_UNITS = 8


def against_null(value: float, draws: np.ndarray, grain: float = 0.0) -> dict[str, Any]:
    """Where `value` stands among draws of its null: mean, sd, z, two-sided p, number and how p was taken.

    From 40 draws on p is the rank p-value 2 * min(share above, share below), counting the value itself (with fewer it
    could never be below 0.05). With fewer, and beyond all draws, where ranks say no more than their number, it is the
    chance that one more draw of a normal null lies this far out (Student t, predictive), at most that of the rank. With
    fewer than two draws there is none. grain: the smallest step of the value, which z and p take for the sd of draws
    that vary less (all of them 0, say).
    """
    draws = np.asarray(draws, dtype=np.float64)
    count = int(draws.size)
    mean = float(draws.mean()) if count else None
    if mean is None or count < 2:
        return {"mean": mean, "sd": None, "z": None, "p": None, "draws": count, "p_method": None}
    sd = float(draws.std(ddof=1)) if np.ptp(draws) > 0 else 0.0
    spread = max(sd, grain)
    z = (value - mean) / spread if spread > 0 else None
    p = None if z is None else float(2 * stats.t.sf(abs(z) / np.sqrt(1 + 1 / count), count - 1))
    method = "t"
    if count >= FEW_DRAWS:
        beyond = min(int((draws >= value).sum()), int((draws <= value).sum()))
        rank = min(1.0, 2.0 * (1 + beyond) / (1 + count))
        if beyond or p is None or p >= rank:
            p, method = rank, "rank"
    return {"mean": mean, "sd": sd, "z": z, "p": p, "draws": count, "p_method": method}


def percentiles(values: np.ndarray) -> tuple[float | None, float | None]:
    """The 2.5 and 97.5 % percentiles of the finite values; None, None without two of them."""
    finite = values[np.isfinite(values)]
    if finite.size < 2:
        return None, None
    low, high = np.quantile(finite, [LEVEL / 2, 1 - LEVEL / 2])
    return float(low), float(high)


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
    return float(ndtr(-math.sqrt(units / (units - 1)) * stdtrit(units - 1, 1 - LEVEL / 2)))
