"""SPS as the two-stage reference computes it, so that its numbers can be read again.

Cosine of snapshots of the coactivation state at lag k averaged over time, k = 1 .. S/4, slope of its log on log k,
H = 1 + slope/2 clipped to 0..1. The state is a damped sum of non-negative updates: its snapshots stay alike, and H is
near 1, even when the text is memoryless noise.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from bdh.plasticity.coactivation import Coactivation, cosine, inner_products, pearson, sums

FEWEST = 8
DAMPINGS = (0.95, 0.99, 0.999)


def reference_protocol(state: Coactivation) -> dict[str, Any]:
    """The reference's H from the cosine of snapshots, the same from their Pearson correlation, and the curve."""
    snapshots = state.snapshots()
    if snapshots.size < FEWEST:
        return {"hurst": None, "hurst_pearson": None, "lags": np.zeros(0), "similarity": np.zeros(0)}
    products = inner_products(state, snapshots)
    lags = np.arange(1, snapshots.size // 4 + 1)
    similar = at_lags(cosine(products), lags)
    correlated = at_lags(pearson(products, sums(state, snapshots), state.entries), lags)
    return {
        "hurst": hurst(lags, similar),
        "hurst_pearson": hurst(lags, correlated),
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
    if snapshots.size < FEWEST:
        return {"hurst": None, "lags": np.zeros(0), "similarity": np.zeros(0)}
    lags = np.arange(1, snapshots.size // 4 + 1)
    apart = float(np.diff(snapshots).mean())
    similar = state.damping ** (apart * lags)
    return {"hurst": hurst(lags, similar), "lags": lags, "similarity": similar}


def hurst(lags: np.ndarray, similarity: np.ndarray) -> float | None:
    """H = 1 + slope/2 of log similarity on log lag, clipped to 0..1; None with fewer than two positive similarities."""
    usable = similarity > 0
    if usable.sum() < 2:
        return None
    slope = float(np.polyfit(np.log(lags[usable]), np.log(similarity[usable]), 1)[0])
    return float(np.clip(1 + slope / 2, 0.0, 1.0))


def at_lags(similarity_SS: np.ndarray, lags: np.ndarray) -> np.ndarray:
    """Mean similarity of snapshots that lie each of `lags` apart."""
    return np.array([np.diagonal(similarity_SS, lag).mean() for lag in lags])
