"""All layers of `bdh` or `eq8`, and their training loss, as differentiable operations on groups of streams.

`FusedTraining` takes every group forward, through the readout and the loss, and back at once (`fused_training`), so
memory is that of one group and nothing is computed twice. `FusedStack` only gives the rows after the layers and keeps
all groups until the backward pass; it serves where the loss is not known here.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from bdh.nn.fused_layers import Gradients, Group
from bdh.nn.fused_plan import Plan
from bdh.nn.fused_shape import heads_of
from bdh.nn.fused_training import Runner

SPENT = "the fused layers keep nothing after their backward pass: run the forward pass again"


class FusedStack(torch.autograd.Function):
    """(streams B,T,D, padded; encoder, encoder_v H,D,N; decoder H*N,D; plan) -> B,T,D after all layers, mean activity.

    The mean activity is None unless the plan measures it. One backward pass per forward pass.
    """

    @staticmethod
    def forward(
        ctx: Any, u: Tensor, encoder: Tensor, encoder_v: Tensor, decoder: Tensor, plan: Plan
    ) -> tuple[Tensor, Tensor | None]:
        """Run the layers group by group."""
        ctx.plan, ctx.kept = plan, []
        after, total = torch.empty_like(u), None
        part, groups = plan.groups()
        draws = plan.draws(groups, u.device)
        with torch.autocast(u.device.type, enabled=False):
            weights = plan.weights(encoder, encoder_v, decoder)
            for number, streams in enumerate(groups):
                group = Group(weights, part, draws[number], u)
                rows, activity = group.forward(u[streams].flatten(0, 1))
                after[streams] = rows.view_as(u[streams])
                total = activity if total is None or activity is None else total + activity
                ctx.kept.append((streams, group))
        return after, None if total is None else total / plan.activities

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_after: Tensor, d_l1: Tensor | None) -> tuple[Tensor | None, ...]:
        """Gradients of rows and weights."""
        plan = ctx.plan
        if not ctx.kept:
            raise RuntimeError(SPENT)
        l1 = (d_l1 / plan.activities).reshape(1) if plan.measure_l1 and d_l1 is not None else None
        du, gradients = torch.empty_like(d_after), Gradients.zeros(plan, d_after)
        with torch.autocast(d_after.device.type, enabled=False):
            while ctx.kept:
                streams, group = ctx.kept.pop()
                rows = group.backward(d_after[streams].flatten(0, 1), l1, gradients)
                du[streams] = rows.view_as(du[streams])
        return du, heads_of(gradients.E, plan.shape.H).contiguous(), gradients.V, gradients.W, None


class FusedTraining(torch.autograd.Function):
    """(streams B,T,D, padded; encoder, encoder_v H,D,N; decoder H*N,D; readout D,V; targets B,t; weight of the L1
    term; plan; runner) -> mean cross-entropy in nats, mean activity (None unless the plan measures it).

    The gradients are those of cross-entropy + weight * activity and are computed in the forward pass: a backward pass
    that weighs the two otherwise is wrong.
    """

    @staticmethod
    def forward(
        ctx: Any, u: Tensor, encoder: Tensor, encoder_v: Tensor, decoder: Tensor, lm_head: Tensor, targets: Tensor,
        l1_weight: float, plan: Plan, runner: Runner,
    ) -> tuple[Tensor, Tensor | None]:  # fmt: skip
        """Run every group forward and back."""
        with torch.autocast(u.device.type, enabled=False):
            found = runner.run(u, (encoder, encoder_v, decoder), lm_head, targets, l1_weight, plan)
        ctx.gradients = found.gradients
        return found.loss, found.activity

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_loss: Tensor, d_l1: Tensor | None) -> tuple[Tensor | None, ...]:
        """The gradients that are there, times that of the loss."""
        if ctx.gradients is None:
            raise RuntimeError(SPENT)
        gradients, ctx.gradients = ctx.gradients, None
        return *torch._foreach_mul(gradients, d_loss), None, None, None, None
