"""Read held-out text once with a model and keep what the metrics need of it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch

from bdh.metrics.sec import Reading
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
    taps. coactivation: None unless it was asked for and x_sparse is tapped.
    """

    activity: Activity
    nats: np.ndarray
    reading: Reading | None
    coactivation: Coactivation | None


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
    activity = Activity(text, per_token=True, codes=0 if like is None else len(like.codes))
    reader = Reader(model, text, device=device, bfloat16=bfloat16, activity=activity)
    read_static(reader, 1.0)
    codes = activity.codes()
    state = None if like is None or codes is None else dataclasses.replace(like, codes=codes)
    return Survey(activity, reader.nats, _reading(activity, reader.nats), state)


def _reading(activity: Activity, nats: np.ndarray) -> Reading | None:
    seen = activity.taps()
    tap = next((name for name in GATED if name in seen), seen[0] if seen else None)
    density = activity.token_density(tap) if tap is not None else None
    if tap is None or density is None:
        return None
    first = activity.token_density(CODE)
    return Reading(tap, density, nats, None if first is None else first[0])
