"""Read held-out text once with a model and keep what the metrics need of it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch

from bdh.metrics.mcl import Activations
from bdh.metrics.sec import Reading
from bdh.metrics.sps import Updates
from bdh.metrics.watch import Neurons, Projections, Tokens, Watch
from bdh.models.base import LanguageModel
from bdh.plasticity.activity import CODE, Activity
from bdh.plasticity.arms import read_static
from bdh.plasticity.coactivation import Coactivation
from bdh.plasticity.held_out import HeldOut
from bdh.plasticity.reader import Reader

GATED = ("xy_sparse", "y_sparse", "mlp_sparse", CODE)


@dataclass(frozen=True)
class Survey:
    """What one reading of a text showed.

    activity: density and neurons that never fired. nats: surprisal (P). reading: what SEC needs, None without sparse
    taps. updates: what SPS needs, None unless x_sparse is tapped; its state is made where one was asked for.
    """

    activity: Activity
    nats: np.ndarray
    reading: Reading | None
    updates: Updates | None


def survey(
    model: LanguageModel,
    text: HeldOut,
    device: torch.device | str,
    bfloat16: bool,
    like: Coactivation | None = None,
) -> Survey:
    """Read `text` window by window with fresh streams (arm `static`), watching the activations of every token.

    With `like` also make the coactivation state under its rule and over its windows, which lead the text's.
    """
    projections = Projections(text)
    watch = Watch(text, codes=0 if like is None else len(like.codes), listeners=[projections])
    nats = _read(model, text, device, bfloat16, watch)
    codes, series = watch.codes(), projections.series()
    state = None if like is None or codes is None else dataclasses.replace(like, codes=codes)
    updates = None if series is None else Updates(series, state)
    return Survey(watch, nats, _reading(watch, nats), updates)


def activations(model: LanguageModel, text: HeldOut, device: torch.device | str, bfloat16: bool) -> Activations | None:
    """Read `text` in the same way and keep what single neurons did at every token; None without such taps."""
    neurons = Neurons(text, np.arange(text.scored))
    _read(model, text, device, bfloat16, Tokens([neurons]))
    values = neurons.activations()
    return None if values is None or neurons.tap is None else Activations(neurons.tap, values)


def updates_of(model: LanguageModel, text: HeldOut, device: torch.device | str, bfloat16: bool) -> Updates | None:
    """Read `text` in the same way and keep the projections of the updates alone; None without x_sparse."""
    projections = Projections(text)
    _read(model, text, device, bfloat16, Tokens([projections]))
    series = projections.series()
    return None if series is None else Updates(series)


def _read(
    model: LanguageModel, text: HeldOut, device: torch.device | str, bfloat16: bool, watch: Activity | Tokens
) -> np.ndarray:
    reader = Reader(model, text, device=device, bfloat16=bfloat16, activity=cast("Activity", watch))
    read_static(reader, 1.0)
    return reader.nats


def _reading(activity: Activity, nats: np.ndarray) -> Reading | None:
    seen = activity.taps()
    tap = next((name for name in GATED if name in seen), seen[0] if seen else None)
    density = activity.token_density(tap) if tap is not None else None
    if tap is None or density is None:
        return None
    first = activity.token_density(CODE)
    return Reading(tap, density, nats, None if first is None else first[0])
