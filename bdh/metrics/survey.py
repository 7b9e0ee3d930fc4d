"""Read held-out text once with a model and keep what the metrics need of it."""

from __future__ import annotations

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
    """activity: density and neurons that never fired. nats: surprisal (P). reading: what SEC needs, or None."""

    activity: Activity
    nats: np.ndarray
    reading: Reading | None


def survey(model: LanguageModel, text: HeldOut, device: torch.device | str, bfloat16: bool) -> Survey:
    """Read `text` window by window with fresh streams (arm `static`), watching the activations of every token."""
    activity = Activity(text, per_token=True)
    reader = Reader(model, text, device=device, bfloat16=bfloat16, activity=activity)
    read_static(reader, 1.0)
    seen = activity.taps()
    tap = next((name for name in GATED if name in seen), seen[0] if seen else None)
    density = activity.token_density(tap) if tap is not None else None
    if tap is None or density is None:
        return Survey(activity, reader.nats, None)
    first = activity.token_density(CODE)
    reading = Reading(tap, density, reader.nats, None if first is None else first[0])
    return Survey(activity, reader.nats, reading)


def observe(
    model: LanguageModel, text: HeldOut, like: Coactivation, device: torch.device | str, bfloat16: bool
) -> Coactivation | None:
    """The coactivation state of another model over the windows and under the rule of `like`."""
    same = text.head(len(like.codes))
    activity = Activity(same, codes=same.windows)
    read_static(Reader(model, same, device=device, bfloat16=bfloat16, activity=activity), 1.0)
    codes = activity.codes()
    if codes is None:
        return None
    return Coactivation(codes, like.tokens, like.document, like.damping, like.eta, like.snapshot_every)
