"""The layers of `bdh` and `eq8` backward: activations are kept or computed again, weight gradients add up in float32.

With dY known, per layer (m: dropout, [.]: 1 where true; see `fused_forms` for the fused steps):

    dg = dY W^T      dW += g^T dY       dys = dg xs m [ys>0]      dV += a^T dys      da = dys V^T      dA = norm'(da)
    dS = tril(dA v^T, -1)               dv = S^T dA + dxs E^T     dE += v^T dxs
    dq = (dS + dS^T) q                  (keys are the queries: one product with a symmetric matrix)
    dxs = (rope^-1(dq) + dg ys m + l1) [xs>0]

In the segment form rho is the state before a segment and drho the sum of q dA^T over the segments behind it; then
dq += dA rho^T + v drho^T and dv += q drho.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bdh.nn.fused_forward import EPSILON, Kept, norm
from bdh.nn.fused_plan import Plan, Weights
from bdh.nn.fused_products import product, wide


@dataclass
class Gradients:
    """Sums over layers and streams in paired order: E D,HN; V H,D,N; W HN,D."""

    E: Tensor
    V: Tensor
    W: Tensor

    @staticmethod
    def zeros(plan: Plan, like: Tensor) -> Gradients:
        """Nothing yet."""
        shape, dtype, device = plan.shape, wide(plan.dtype), like.device
        return Gradients(
            torch.zeros(shape.D, shape.HN, dtype=dtype, device=device),
            torch.zeros(shape.H, shape.D, shape.N, dtype=dtype, device=device),
            torch.zeros(shape.HN, shape.D, dtype=dtype, device=device),
        )


@dataclass
class Space:
    """R,HN tensors that all layers use one after the other; `carry` is the gradient of carried activations."""

    g: Tensor
    dys: Tensor
    dx: Tensor
    carry: Tensor | None


def run(du: Tensor, saved: list[Kept], weights: Weights, plan: Plan, l1: Tensor | None, gradients: Gradients) -> Tensor:
    """The gradient of the first layer's rows (R,D) from that of the last layer's; adds to `gradients`, empties `saved`.

    `l1` is the gradient of every activity by the L1 term, one number.
    """
    carry = plan.activation(du) if plan.carried else None
    space = Space(plan.activation(du), plan.activation(du), plan.activation(du), carry)
    for layer in reversed(range(plan.layers)):
        du = _layer(du, layer, saved.pop(), weights, plan, l1, gradients, space)
    return du


def norm_backward(gradient: Tensor, x: Tensor) -> Tensor:
    """The gradient of x from that of `norm(x)`."""
    size = [x.shape[-1]]
    _, mean, rstd = torch.native_layer_norm(x, size, None, None, EPSILON)
    wanted = [True, False, False]
    return torch.ops.aten.native_layer_norm_backward(gradient, x, size, mean, rstd, None, None, wanted)[0]


def _layer(
    du: Tensor,
    layer: int,
    kept: Kept,
    weights: Weights,
    plan: Plan,
    l1: Tensor | None,
    gradients: Gradients,
    space: Space,
) -> Tensor:
    shape, forms, tuning = plan.shape, plan.forms, plan.tuning
    v, turns, q = kept.u.to(plan.dtype), plan.turns(du.device), kept.q
    x = kept.x
    if x is None:
        x = plan.activation(du)
        spare = plan.activation(du) if q is None else q
        forms.encode(v, weights.E, turns, None, False, x, spare, False, shape, tuning)
        q = spare
    if plan.carried:
        dv, dy = torch.zeros_like(du), norm_backward(du, kept.y)
    else:
        dv = norm_backward(du, kept.u + norm(kept.y))
        dy = norm_backward(dv, kept.y)
    dy = dy.to(plan.dtype)
    g = space.g if kept.g is None else kept.g
    da = _gate(x, dy, g, layer, kept, weights, plan, gradients, space)
    p = forms.pairs(da, v, shape, tuning)
    if q is None:
        q = g
        forms.rotate(x, turns, q, shape, tuning)
    dv += _reads(da, kept.scores, plan)
    states = None
    if shape.long:
        rho = forms.states(q, v, False, shape, tuning) if kept.rho is None else kept.rho
        drho = forms.states(q, da, True, shape, tuning)
        states = (da, v, rho, drho)
        dv += product(q.view(shape.segments, shape.C, shape.HN), drho).view(shape.R, shape.D)
    carried = None if space.carry is None else (x, space.carry, layer == plan.layers - 1)
    forms.activity(p, q, space.dx, turns, l1, states, carried, shape, tuning)
    gradients.E += product(v.mT, space.dx)
    dv += product(space.dx, weights.E.mT)
    return dv


def _gate(
    x: Tensor,
    dy: Tensor,
    g: Tensor,
    layer: int,
    kept: Kept,
    weights: Weights,
    plan: Plan,
    gradients: Gradients,
    space: Space,
) -> Tensor:
    """Everything between Y and the reads A: the gradient of A (H,R,D); fills `space`, adds dW and dV."""
    shape = plan.shape
    a = norm(kept.reads)
    plan.forms.gate_backward(
        x, a, weights.V, dy, weights.W, plan.mask.of_layer(layer), g, space.dys, space.dx,
        kept.g is not None, not plan.carried, shape, plan.tuning,
    )  # fmt: skip
    gradients.W += product(g.mT, dy)
    dys_HRN = space.dys.view(shape.R, shape.H, shape.N).transpose(0, 1)
    gradients.V += product(a.mT, dys_HRN)
    V_HND = weights.V.view(shape.D, shape.H, shape.N).permute(1, 2, 0)
    return norm_backward(torch.bmm(dys_HRN, V_HND), kept.reads)


def _reads(da: Tensor, scores: Tensor, plan: Plan) -> Tensor:
    """S^T dA of all heads, R,D."""
    shape = plan.shape
    da_SHCD = da.view(shape.H, shape.segments, shape.C, shape.D).transpose(0, 1)
    da_SCD = da_SHCD.reshape(shape.segments, shape.H * shape.C, shape.D)
    return product(scores.view(shape.segments, -1, shape.C).mT, da_SCD).view(shape.R, shape.D)
