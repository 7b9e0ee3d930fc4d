"""All layers of `bdh` or `eq8` as one differentiable operation that never keeps what it can compute again.

The plain path keeps about eight tensors of B*H*T*N entries per layer for its backward pass. Here a layer keeps its
input rows, its reads, its scores and its answer; activations are recomputed, or kept as far as a budget allows
(`fused_settings.Tuning`). Streams pass through all layers in groups, so temporaries do not grow with the batch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from bdh.nn import fused_backward, fused_forward
from bdh.nn.fused_plan import Plan
from bdh.nn.fused_shape import unpair_columns, unpair_rows


class FusedStack(torch.autograd.Function):
    """(rows R,D; encoder, encoder_v H,D,N; decoder H*N,D; plan) -> rows after all layers R,D, mean activity or None.

    One backward pass per forward pass: what was kept is freed on the way.
    """

    @staticmethod
    def forward(
        ctx: Any, u: Tensor, encoder: Tensor, encoder_v: Tensor, decoder: Tensor, plan: Plan
    ) -> tuple[Tensor, Tensor | None]:
        """Run the layers group by group."""
        with torch.autocast(u.device.type, enabled=False):
            return _forward(ctx, u, encoder, encoder_v, decoder, plan)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_after: Tensor, d_l1: Tensor | None) -> tuple[Tensor | None, ...]:
        """Gradients of rows and weights."""
        plan = ctx.plan
        if not ctx.saved:
            raise RuntimeError("the fused layers keep nothing after their backward pass: run the forward pass again")
        l1 = (d_l1 / _activities(plan)).reshape(1) if plan.measure_l1 and d_l1 is not None else None
        du, gradients = torch.empty_like(d_after), fused_backward.Gradients.zeros(plan, d_after)
        with torch.autocast(d_after.device.type, enabled=False):
            while ctx.saved:
                rows, part, saved = ctx.saved.pop()
                du[rows] = fused_backward.run(d_after[rows], saved, ctx.weights, part, l1, gradients)
        heads = plan.shape.H
        d_encoder = unpair_columns(gradients.E, heads)
        d_encoder_v = unpair_columns(gradients.V.transpose(0, 1).reshape(plan.shape.D, -1), heads)
        return du, d_encoder, d_encoder_v, unpair_rows(gradients.W, heads), None


def _forward(
    ctx: Any, u: Tensor, encoder: Tensor, encoder_v: Tensor, decoder: Tensor, plan: Plan
) -> tuple[Tensor, Tensor | None]:
    ctx.plan, ctx.weights, ctx.saved = plan, plan.weights(encoder, encoder_v, decoder), []
    kept, after, total = plan.kept(), torch.empty_like(u), None
    for rows, part in plan.chunks():
        after[rows], saved, activity = fused_forward.run(u[rows], ctx.weights, part, kept)
        ctx.saved.append((rows, part, saved))
        if activity is not None:
            total = activity if total is None else total + activity
    return after, None if total is None else total / _activities(plan)


def _activities(plan: Plan) -> int:
    """Entries of the activations of all layers: L*B*H*T*N, real tokens only."""
    return plan.layers * plan.shape.B * plan.tokens * plan.shape.HN
