"""The layers of `bdh` and `eq8` forward, keeping for the backward pass only what is small or what the plan allows.

Letters as in `fused_shape`. Rows between layers are float32 (float64 for float64); operands of products have the
plan's dtype, their sums are float32.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bdh.nn.fused_plan import Plan, Weights
from bdh.nn.fused_products import product

EPSILON = 1e-5


@dataclass
class Kept:
    """Of one layer: its input rows u (R,D), reads A (H,R,D) and answer Y (R,D) before their norms, scores (S,H,C,C).

    x, g, q (R,HN) and rho (S,HN,D) are None where the backward pass recomputes them.
    """

    u: Tensor
    reads: Tensor
    scores: Tensor
    y: Tensor
    x: Tensor | None
    g: Tensor | None
    q: Tensor | None
    rho: Tensor | None


def norm(x: Tensor) -> Tensor:
    """LayerNorm over the last dimension, without parameters; sums in float32 whatever the dtype."""
    return torch.native_layer_norm(x, [x.shape[-1]], None, None, EPSILON)[0]


def read_rows(reads: Tensor, plan: Plan) -> Tensor:
    """H,R,D of S,H*C,D."""
    shape = plan.shape
    return reads.view(shape.segments, shape.H, shape.C, shape.D).transpose(0, 1).reshape(shape.H, shape.R, shape.D)


def run(
    u: Tensor, weights: Weights, plan: Plan, kept: list[frozenset[str]]
) -> tuple[Tensor, list[Kept], Tensor | None]:
    """All layers on rows u (R,D): the rows after them, what each layer keeps, the sum of activities if asked."""
    saved: list[Kept] = []
    total: Tensor | None = None
    before: Tensor | None = None
    for layer, keeps in enumerate(kept):
        u, record, activity = _layer(u, layer, before, weights, plan, keeps)
        saved.append(record)
        before = record.x if plan.carried else None
        if activity is not None:
            total = activity if total is None else total + activity
    return u, saved, total


def _layer(
    u: Tensor, layer: int, before: Tensor | None, weights: Weights, plan: Plan, keeps: frozenset[str]
) -> tuple[Tensor, Kept, Tensor | None]:
    shape, forms, mask = plan.shape, plan.forms, plan.mask.of_layer(layer)
    v, turns = u.to(plan.dtype), plan.turns(u.device)
    x, q = plan.activation(u), plan.activation(u)
    activity = forms.encode(v, weights.E, turns, before, plan.carried, x, q, plan.measure_l1, shape, plan.tuning)
    scores = forms.scores(q, shape, plan.tuning)
    reads, rho = _read(scores, q, v, plan)
    a = norm(reads)
    g: Tensor | None = None
    if plan.tuning.decode == "fused":
        y = forms.gate_decode(x, a, weights.V, weights.W, mask, shape, plan.tuning)
    else:
        g = plan.activation(u) if "q" in keeps else q
        forms.gate(x, a, weights.V, mask, g, shape, plan.tuning)
        y = product(g, weights.W)
    after = norm(y) if plan.carried else norm(u + norm(y))
    record = Kept(
        u, reads, scores, y,
        x if "x" in keeps else None, g if "g" in keeps else None, q if "q" in keeps else None,
        rho if "states" in keeps else None,
    )  # fmt: skip
    return after, record, activity


def _read(scores: Tensor, q: Tensor, v: Tensor, plan: Plan) -> tuple[Tensor, Tensor | None]:
    """What every token reads from earlier tokens: of its own segment by scores, of earlier ones from their state."""
    shape = plan.shape
    rows = product(scores.view(shape.segments, -1, shape.C), v.view(shape.segments, shape.C, shape.D))
    rho: Tensor | None = None
    if shape.long:
        rho = plan.forms.states(q, v, False, shape, plan.tuning)
        q_SCHN = q.view(shape.segments, shape.C, shape.H, shape.N)
        rho_SHND = rho.view(shape.segments, shape.H, shape.N, shape.D)
        rows_SHCD = rows.view(shape.segments, shape.H, shape.C, shape.D)
        for head in range(shape.H):
            rows_SHCD[:, head] += product(q_SCHN[:, :, head], rho_SHND[:, head])
    return read_rows(rows.to(plan.dtype), plan), rho
