"""SPS: does the synaptic state persist beyond what damping alone gives?

Why: the reference protocol calls almost anything persistent, because the coactivation state is a damped sum of
non-negative updates (`bdh.frontier.persistence`). So the value is taken from the updates x_t x_t^T of single tokens
themselves, before any damping, less their mean: persistence can show in their order alone.

What: eight random projections of the updates over all scored tokens in order, at least 1024, less their means per
class of place in the window (classes that double in width). The value is the Hurst exponent of their slow fluctuations
(periods of two roots of the number of tokens and more; `bdh.frontier.memory`), 1/2 without memory. Nulls: the
projections in blocks of 16 tokens in random order, and series that forget as these do: drawn from an autoregression,
and from noise with two fading memories, both fitted to the projections. Untrained twins beside it.
What a length resolves: memory that fades with a time constant up to a 64th of the text is taken for short.
Further: whether the autocorrelation of the updates fades like an exponential or a power law (AIC), and the half-life
of the damped projections beside that of damping alone; the exponent by detrended fluctuation analysis.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from scipy.signal import lfilter

from bdh.frontier import memory, persistence
from bdh.frontier.parallel import each
from bdh.frontier.persistence import autocorrelation, by_damping, compare_laws, damping_alone, reference_protocol
from bdh.frontier.persistence import half_life as measured_half_life
from bdh.frontier.rows import UNTRAINED, Measured, absent, mean_or_none, metric_row, point
from bdh.frontier.survey import Updates
from bdh.hebbian.held_out import HeldOut
from bdh.hebbian.state import half_life
from bdh.intervals import percentiles

if TYPE_CHECKING:
    from bdh.frontier.survey import Context, Subject

FEWEST = 1024
BLOCK = 16
LAGS = 64
STATE_DRAWS = 20
ROUNDING = 1e-9
NO_CODES = "this variant taps no x_sparse, there is no coactivation state"
BLOCKS = f"updates in blocks of {BLOCK} tokens in random order"
FORGETS = "short memory, an autoregression fitted to the updates"
FADES = "short memory, noise and two fading memories fitted to the updates"


def compute(context: Context) -> Measured:
    """The SPS row of a run and its lag curves."""
    settings = context.settings
    return measure(
        context.own.updates,
        context.twins["sps"],
        context.texts.text,
        context.damping,
        draws=settings.null_draws,
        jobs=settings.jobs,
    )


def alone(subject: Subject) -> Measured:
    """What an untrained twin shows: `numbers`, and its lag curves."""
    own, text = subject.own.updates, subject.texts.text
    found = {} if own is None else numbers(own, text)
    if own is None or not found:
        return {}, []
    lags, protocol = np.arange(1, LAGS + 1), _protocol(own)
    curves = _points(f"innovations, {UNTRAINED}", lags, autocorrelation(centred(own.projections, text), lags))
    return found, curves + _points(f"snapshots, {UNTRAINED}", protocol["lags"], protocol["similarity"])


def numbers(own: Updates, text: HeldOut) -> dict[str, Any]:
    """Hurst exponent of the updates and the reference protocol in its forms; none with fewer than 1024 tokens."""
    if text.scored < FEWEST:
        return {}
    protocol = _protocol(own)
    return {
        "value": memory.hurst(centred(own.projections, text))[0],
        "reference": protocol["hurst"],
        "pearson": protocol["hurst_pearson"],
        "by_damping": {} if own.state is None else by_damping(own.state),
    }


def measure(
    own: Updates | None,
    twins: Sequence[Mapping[str, Any]],
    text: HeldOut,
    damping: float,
    *,
    draws: int,
    seed: int = 0,
    jobs: int | Literal["auto"] = 1,
) -> Measured:
    """The SPS row of a model beside untrained twins, and its lag curves.

    twins: `numbers` of the untrained twins. damping: per token, of the state that the half-life is about. draws: series
    in every null; seed: of them. jobs: draws at a time. Fewer than 1024 tokens, or updates that never vary, cannot be
    measured: null with a reason.
    """
    if own is None:
        return absent(NO_CODES), []
    if text.scored < FEWEST:
        return absent(f"{text.scored} tokens, at least {FEWEST} are needed"), []
    updates_KP = centred(own.projections, text)
    if not np.isfinite(updates_KP).all():
        return absent("the updates are not finite numbers"), []
    if not (np.ptp(updates_KP, axis=1) > ROUNDING * np.abs(own.projections).max(1)).all():
        return absent("the code of every token is the same, nothing varies"), []
    value, interval = memory.hurst(updates_KP)
    if value is None:
        return absent("the updates have no slow fluctuations, and no Hurst exponent"), []
    generator = np.random.default_rng(seed)
    orders = [block_order(text.scored, generator) for _ in range(draws)]
    (forgets, order), (fades, constants) = memory.autoregression(updates_KP), memory.two_memories(updates_KP)
    short = {FORGETS: memory.Drawn(updates_KP, forgets), FADES: memory.Drawn(updates_KP, fades)}
    nulls = {BLOCKS: _known(each([partial(_exponent, updates_KP, one) for one in orders], jobs))}
    for number, (name, process) in enumerate(short.items()):
        nulls[name] = _known(each([partial(process.exponent, (seed, number, draw)) for draw in range(draws)], jobs))
    row = metric_row(
        value,
        nulls=nulls,
        interval=interval,
        n=text.scored,
        untrained=[twin["value"] for twin in twins if twin["value"] is not None],
        reference=_protocol(own)["hurst"],
        reference_untrained=[twin["reference"] for twin in twins if twin["reference"] is not None],
        **_reference_details(own, twins),
        dfa=_dfa(updates_KP),
        short_memory={"order": order, "time_constants": list(constants), "longest": text.scored / memory.LONGEST},
        decay=_decay(updates_KP),
        half_life=_half_lives(updates_KP, damping, seed + 1),
    )
    return row, _curves(own, text, damping)


def centred(projections_KP: np.ndarray, text: HeldOut) -> np.ndarray:
    """Projections less their means per class of place in the window."""
    place = np.floor(np.log2(1 + (text.position - 1) % text.window)).astype(np.int64)
    count = np.maximum(np.bincount(place), 1)
    means = np.stack([np.bincount(place, weights=series) / count for series in projections_KP])
    return projections_KP - means[:, place]


def block_order(length: int, generator: np.random.Generator) -> np.ndarray:
    """Indices (length) that put blocks of 16 consecutive places, from a random first cut on, in random order."""
    cuts = np.arange(int(generator.integers(1, BLOCK + 1)), length, BLOCK)
    blocks = np.split(np.arange(length), cuts)
    return np.concatenate([blocks[at] for at in generator.permutation(len(blocks))])


def _dealt(updates_KP: np.ndarray, draws: int, seed: int) -> Iterator[np.ndarray]:
    generator = np.random.default_rng(seed)
    for _ in range(draws):
        yield updates_KP[:, block_order(updates_KP.shape[1], generator)]


def _exponent(updates_KP: np.ndarray, order: np.ndarray) -> float | None:
    return memory.hurst(updates_KP[:, order])[0]


def _known(found: Sequence[float | None]) -> np.ndarray:
    """The exponents of those series that have one."""
    return np.array([value for value in found if value is not None])


def _protocol(updates: Updates) -> dict[str, Any]:
    empty = {"hurst": None, "hurst_pearson": None, "lags": np.zeros(0), "similarity": np.zeros(0)}
    return empty if updates.state is None else reference_protocol(updates.state)


def _reference_details(own: Updates, twins: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The reference protocol in its other forms: Pearson's correlation, damping alone, other dampings."""
    pearson = [twin["pearson"] for twin in twins if twin["pearson"] is not None]
    return {
        "reference_protocol_pearson": _protocol(own)["hurst_pearson"],
        "reference_protocol_pearson_untrained": mean_or_none(pearson),
        "reference_protocol_damping_alone": None if own.state is None else damping_alone(own.state)["hurst"],
        "reference_protocol_by_damping": {} if own.state is None else by_damping(own.state),
        "reference_protocol_by_damping_untrained": next((twin["by_damping"] for twin in twins), {}),
        "updates": 0 if own.state is None else len(own.state.codes),
    }


def _dfa(updates_KP: np.ndarray) -> dict[str, float | None]:
    value, (low, high) = persistence.dfa(updates_KP)
    return {"value": value, "ci_low": low, "ci_high": high}


def _decay(updates_KP: np.ndarray) -> dict[str, Any]:
    lags = np.arange(1, LAGS + 1)
    K, P = updates_KP.shape
    return compare_laws(lags, autocorrelation(updates_KP, lags), 1 / np.sqrt(K * P))


def _half_lives(updates_KP: np.ndarray, damping: float, seed: int) -> dict[str, Any]:
    """Half-life in tokens of the damped projections, beside damping alone and updates in random order (95 %)."""
    alone = half_life(damping)
    if alone is None:
        return {"tokens": None, "damping_alone": None, "null_low": None, "null_high": None}
    lags = np.arange(1, max(1, min(int(12 * alone), updates_KP.shape[1] // 4)) + 1)
    draws = [_fading(draw, damping, lags) for draw in _dealt(updates_KP, STATE_DRAWS, seed)]
    low, high = percentiles(np.array([np.nan if draw is None else draw for draw in draws]))
    return {"tokens": _fading(updates_KP, damping, lags), "damping_alone": alone, "null_low": low, "null_high": high}


def _fading(updates_KP: np.ndarray, damping: float, lags: np.ndarray) -> float | None:
    return measured_half_life(lags, autocorrelation(damped(updates_KP, damping), lags))


def damped(updates_KP: np.ndarray, damping: float) -> np.ndarray:
    """The state s_t = damping s_{t-1} + update_t of every projection (K,P)."""
    return np.asarray(lfilter([1.0], [1.0, -damping], updates_KP, axis=1))


def _curves(own: Updates, text: HeldOut, damping: float) -> list[dict[str, Any]]:
    updates_KP = centred(own.projections, text)
    lags = np.arange(1, LAGS + 1)
    far = np.unique(np.geomspace(1, text.scored // 8, 30).astype(int))
    curves = _points("innovations", lags, autocorrelation(updates_KP, lags))
    curves += _points("state", far, autocorrelation(damped(updates_KP, damping), far))
    curves += _points("state, damping alone", far, damping**far)
    protocol = _protocol(own)
    return curves + _points("snapshots (cosine)", protocol["lags"], protocol["similarity"])


def _points(name: str, lags: np.ndarray, values: np.ndarray) -> list[dict[str, Any]]:
    return [point("sps", float(lag), float(value), name) for lag, value in zip(lags, values, strict=True)]
