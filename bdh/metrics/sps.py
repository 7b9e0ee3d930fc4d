"""SPS: does the synaptic state persist beyond what damping alone gives?

Why: the reference protocol calls almost anything persistent. The coactivation state is a damped sum of non-negative
updates, so its snapshots stay alike (H near 1) even when the text is memoryless noise. So the value here is taken
from the innovations c_s c_s^T themselves, before any damping, less their mean over time; their order is the only
thing that persistence can show in, and the null deals them out in random order.

What: with K the kernel of innovations (inner products of c_s c_s^T, exact from the c vectors) centred in both
directions, the autocorrelation at lag k is mean_t K[t,t+k] / mean_t K[t,t]; the value is its average over lags 1 to
n/4 with weights 1/k. Updates by less than half a window are left out. Interval: circular moving blocks of start
times t.
Reference protocol: cosine of snapshots at lag k averaged over time, k = 1 .. n/4, slope of its log on log k,
H = 1 + slope/2 clipped to 0..1.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from bdh.metrics.intervals import moving_blocks, percentiles
from bdh.metrics.rows import UNTRAINED, absent, mean_or_none, metric_row, point
from bdh.plasticity.coactivation import Coactivation, cosine, inner_products, pearson, sums
from bdh.plasticity.state import half_life

FEWEST = 12
NOTHING = 1e-12
NO_CODES = "this variant taps no x_sparse, there is no coactivation state"


@dataclass(frozen=True)
class Settings:
    """draws: random orders in the null; resamplings: of blocks for the interval; seed of both."""

    draws: int
    resamplings: int
    seed: int = 0


def compute(
    state: Coactivation | None, twins: list[Coactivation], settings: Settings
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The SPS row of a coactivation state beside those of untrained twins over the same windows, and its lag curves.

    Fewer than 12 updates, or innovations that never vary, cannot be measured: null with a reason.
    """
    if state is None:
        return absent(NO_CODES), []
    whole = whole_windows(state)
    if whole.size < FEWEST:
        return absent(f"{whole.size} updates of the state by whole windows, at least {FEWEST} are needed"), []
    plain = innovations(state, whole)
    kernel = centred(plain)
    if kernel.trace() <= NOTHING * plain.trace():
        return absent("the codes of all windows are the same, nothing varies"), []
    twin_kernels = [centred(innovations(twin, whole)) for twin in twins]
    lags = np.arange(1, len(kernel) // 4 + 1)
    protocol, alone = reference_protocol(state), damping_alone(state)
    twin_protocols = [reference_protocol(twin) for twin in twins]
    row = metric_row(
        persistence(kernel, lags),
        nulls={"windows in random order": _shuffled(kernel, lags, settings)},
        interval=_interval(kernel, lags, settings),
        n=len(kernel),
        untrained=[persistence(twin, lags) for twin in twin_kernels],
        reference=protocol["hurst"],
        reference_untrained=[twin["hurst"] for twin in twin_protocols if twin["hurst"] is not None],
        reference_protocol_damping_alone=alone["hurst"],
        reference_protocol_pearson=protocol["hurst_pearson"],
        reference_protocol_pearson_untrained=mean_or_none(
            [twin["hurst_pearson"] for twin in twin_protocols if twin["hurst_pearson"] is not None]
        ),
        snapshots=int(state.snapshots().size),
        half_life_tokens=half_life(state.damping),
        half_life_updates_tokens=_half_life_of_updates(state),
    )
    curves = [point("sps", 0, 1.0, "innovations"), *_points("innovations", lags, autocorrelation(kernel, lags))]
    curves += _points("snapshots (cosine)", protocol["lags"], protocol["similarity"])
    curves += _points("snapshots, damping alone", alone["lags"], alone["similarity"])
    if twins:
        curves += _points(f"innovations, {UNTRAINED}", lags, autocorrelation(twin_kernels[0], lags))
        curves += _points(f"snapshots, {UNTRAINED}", twin_protocols[0]["lags"], twin_protocols[0]["similarity"])
    return row, curves


def whole_windows(state: Coactivation) -> np.ndarray:
    """Updates by at least half a window; the ends of documents are left out, their codes are means of few tokens."""
    lengths = np.diff(state.tokens, prepend=0)
    return np.flatnonzero(2 * lengths >= lengths.max(initial=0))


def innovations(state: Coactivation, updates: np.ndarray) -> np.ndarray:
    """Inner products of the innovations c c^T of some updates, summed over layers and heads."""
    return dataclasses.replace(state, codes=state.codes[updates]).kernel()


def centred(kernel_UU: np.ndarray) -> np.ndarray:
    """Inner products of innovations less their mean over time (U,U), from those of the innovations."""
    rows = kernel_UU.mean(0)
    return kernel_UU - rows[None, :] - rows[:, None] + rows.mean()


def autocorrelation(kernel_UU: np.ndarray, lags: np.ndarray) -> np.ndarray:
    """mean_t K[t,t+k] / mean_t K[t,t] at every lag k of `lags`."""
    return np.array([np.diagonal(kernel_UU, lag).mean() for lag in lags]) / np.diagonal(kernel_UU).mean()


def persistence(kernel_UU: np.ndarray, lags: np.ndarray) -> float:
    """Autocorrelation averaged over lags with weights 1/k; about -1/U where order means nothing."""
    return float(np.average(autocorrelation(kernel_UU, lags), weights=1.0 / lags))


def reference_protocol(state: Coactivation) -> dict[str, Any]:
    """The reference's H from the cosine of snapshots, the same from their Pearson correlation, and the curve."""
    snapshots = state.snapshots()
    if snapshots.size < 8:
        return {"hurst": None, "hurst_pearson": None, "lags": np.zeros(0), "similarity": np.zeros(0)}
    products = inner_products(state, snapshots)
    lags = np.arange(1, snapshots.size // 4 + 1)
    similar = _at_lags(cosine(products), lags)
    correlated = _at_lags(pearson(products, sums(state, snapshots), state.entries), lags)
    return {
        "hurst": hurst(lags, similar),
        "hurst_pearson": hurst(lags, correlated),
        "lags": lags,
        "similarity": similar,
    }


def damping_alone(state: Coactivation) -> dict[str, Any]:
    """What the reference's H would be if snapshots forgot as damping says and updates brought nothing: damping^k.

    One update happens per window, so k counts the updates between snapshots.
    """
    snapshots = state.snapshots()
    if snapshots.size < 8:
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
    slope = np.polyfit(np.log(lags[usable]), np.log(similarity[usable]), 1)[0]
    return float(np.clip(1 + slope / 2, 0.0, 1.0))


def _at_lags(similarity_SS: np.ndarray, lags: np.ndarray) -> np.ndarray:
    return np.array([np.diagonal(similarity_SS, lag).mean() for lag in lags])


def _shuffled(kernel_UU: np.ndarray, lags: np.ndarray, settings: Settings) -> np.ndarray:
    generator = np.random.default_rng(settings.seed)
    orders = [generator.permutation(len(kernel_UU)) for _ in range(settings.draws)]
    return np.array([persistence(kernel_UU[np.ix_(order, order)], lags) for order in orders])


def _interval(kernel_UU: np.ndarray, lags: np.ndarray, settings: Settings) -> tuple[float | None, float | None]:
    """95 % interval of the persistence: start times t are resampled in circular blocks of about sqrt(U)."""
    U = len(kernel_UU)
    weights = (1.0 / lags) / (1.0 / lags).sum()
    sums_U, counts_U = np.zeros(U), np.zeros(U)
    for lag, weight in zip(lags, weights, strict=True):
        sums_U[: U - lag] += weight * np.diagonal(kernel_UU, lag) * (U / (U - lag))
        counts_U[: U - lag] += weight
    generator = np.random.default_rng(settings.seed)
    power_U = np.diagonal(kernel_UU)
    block = math.ceil(math.sqrt(U))
    draws = [moving_blocks(U, block, generator) for _ in range(settings.resamplings)]
    return percentiles(np.array([sums_U[chosen].sum() / power_U[chosen].sum() for chosen in draws]))


def _half_life_of_updates(state: Coactivation) -> float | None:
    """Half-life in tokens of the state as it is updated: one damping per window, not per token."""
    updates = half_life(state.damping)
    return None if updates is None else updates * float(np.diff(state.tokens, prepend=0).mean())


def _points(name: str, lags: np.ndarray, values: np.ndarray) -> list[dict[str, Any]]:
    return [point("sps", float(lag), float(value), name) for lag, value in zip(lags, values, strict=True)]
