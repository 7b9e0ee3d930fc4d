"""The layers of `bdh` and `eq8` for one group of streams: forward, then back, with everything in between kept.

With dY known, per layer (m: dropout, [.]: 1 where true; see `fused_forms` for the fused steps):

    dg = dY W^T      dW += g^T dY       dys = dg xs m [ys>0]      dV += a^T dys      da = dys V^T      dA = norm'(da)
    dS = tril(dA v^T, -1)               dv = S^T dA + dxs E^T     dE += v^T dxs
    dq = (dS + dS^T) q                  (keys are the queries: one product with a symmetric matrix)
    dxs = (rope^-1(dq) + dg ys m + l1) [xs>0]

In the segment form rho is the state before a segment and drho the sum of q dA^T over the segments behind it; then
dq += dA rho^T + v drho^T and dv += q drho.

Letters as in `fused_shape`, L layers. Rows between layers are float32 (float64 for float64); operands of products have
the plan's dtype, their sums are float32. The gradients of the weights are one product each over all layers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bdh.kernels.training.plan import Plan, Weights
from bdh.kernels.training.reference import add_product, product, wide


@dataclass
class Gradients:
    """Sums over layers and streams: E D,HN; V H,D,N; W HN,D."""

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
class Layer:
    """Of one layer: scores S,H,C,C, states before segments or None, norm(y) and the rows after it (R,D), and what
    the three norms multiplied with: reads (H,R), answer and rows (R,)."""

    scores: Tensor
    rho: Tensor | None
    y: Tensor
    after: Tensor
    reads_scale: Tensor
    y_scale: Tensor
    scale: Tensor


class Group:
    """One pass of a group: `forward` once, then `backward` once.

    x, g, q: activations of all layers (L,R,HN), q with one place more: going back, the gradient of a layer's activity
    takes the place of q of the layer after it, as that of relu(a V) takes the place of x (not in `eq8`, whose x is
    needed longer). v, dy: rows of all layers (L,R,D). a: normed reads (H,L*R,D). draws: see `fused_dropout.draws_of`,
    of this group.
    """

    def __init__(self, weights: Weights, plan: Plan, draws: Tensor, like: Tensor) -> None:
        L, shape = plan.layers, plan.shape

        def empty(*size: int) -> Tensor:
            return torch.empty(size, dtype=plan.dtype, device=like.device)

        self.weights, self.plan, self.draws = weights, plan, draws
        self.x, self.g = empty(L, shape.R, shape.HN), empty(L, shape.R, shape.HN)
        self.q = empty(L + 1, shape.R, shape.HN)
        self.dys = empty(L, shape.R, shape.HN) if plan.carried else self.x
        self.v, self.dy = empty(L + 1, shape.R, shape.D), empty(L, shape.R, shape.D)
        self.a = empty(shape.H, L * shape.R, shape.D)
        self.layers: list[Layer] = []

    def forward(self, u: Tensor) -> tuple[Tensor, Tensor | None]:
        """The rows after all layers from those before (R,D), and the sum of activities if it is measured."""
        total: Tensor | None = None
        self.v[0].copy_(u)
        for layer in range(self.plan.layers):
            u, activity = self._forward(layer, u)
            if activity is not None:
                total = activity if total is None else total + activity
        return u, total

    def _forward(self, layer: int, u: Tensor) -> tuple[Tensor, Tensor | None]:
        plan, forms, tuning = self.plan, self.plan.forms, self.plan.tuning
        shape, weights = plan.shape, self.weights
        x, q, g, v, a = self.x[layer], self.q[layer], self.g[layer], self.v[layer], self._reads_of(layer)
        before = self.x[layer - 1] if plan.carried and layer else None
        turns = plan.turns(u.device)
        activity = forms.encode(v, weights.E, turns, before, plan.carried, x, q, plan.measure_l1, shape, tuning)
        scores = forms.scores(q, shape, tuning)
        reads, rho = self._read(scores, q, v)
        reads_scale = plan.rows.settle(reads, a, shape)
        forms.gate(x, a, weights.V, plan.mask, self.draws[layer], g, shape, tuning)
        parts = product(self._by_head(g), weights.W.view(shape.H, shape.N, shape.D))
        after, y, y_scale, scale = plan.rows.answer(parts, None if plan.carried else u, self.v[layer + 1])
        self.layers.append(Layer(scores, rho, y, after, reads_scale, y_scale, scale))
        return after, activity

    def _read(self, scores: Tensor, q: Tensor, v: Tensor) -> tuple[Tensor, Tensor | None]:
        """What every token reads, (S,H*C,D): of its own segment by scores, of earlier ones from their state."""
        shape = self.plan.shape
        S, C, H, N, D = shape.segments, shape.C, shape.H, shape.N, shape.D
        reads = product(scores.view(S, H * C, C), v.view(S, C, D))
        if not shape.long:
            return reads, None
        rho = self.plan.forms.states(q, v, False, shape, self.plan.tuning)
        for head in range(H):
            neurons = slice(head * N, (head + 1) * N)
            rows = reads.view(S, H, C, D)[:, head]
            rows += product(q.view(S, C, H * N)[:, :, neurons], rho[:, neurons])
        return reads, rho

    def backward(self, du: Tensor, l1: Tensor | None, gradients: Gradients) -> Tensor:
        """The gradient of the rows before all layers from that of the rows after; adds to `gradients`.

        `l1` is the gradient of every activity by the L1 term, one number.
        """
        plan, shape = self.plan, self.plan.shape
        parts, reads = None, None
        carry = torch.empty_like(self.q[0]) if plan.carried else None
        for layer in reversed(range(plan.layers)):
            du, parts, reads = self._backward(layer, du, parts, reads, l1, carry)
        assert parts is not None
        assert reads is not None
        rows = plan.layers * shape.R
        add_product(gradients.W, self.g.view(rows, shape.HN).mT, self.dy.view(rows, shape.D))
        add_product(gradients.V, self.a.mT, self._by_head(self.dys.view(rows, shape.HN)))
        add_product(gradients.E, self.v[:-1].view(rows, shape.D).mT, self.q[1:].view(rows, shape.HN))
        return du + parts.sum(0) + reads

    def _backward(
        self,
        layer: int,
        du: Tensor,
        parts: Tensor | None,
        reads: Tensor | None,
        l1: Tensor | None,
        carry: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Of the rows before a layer: the gradient along the residual stream, by its activity (H,R,D), by its reads."""
        plan, forms, tuning, weights, kept = (
            self.plan,
            self.plan.forms,
            self.plan.tuning,
            self.weights,
            self.layers.pop(),
        )
        shape, q, v, a, dy = plan.shape, self.q[layer], self.v[layer], self._reads_of(layer), self.dy[layer]
        x, dys, dx = self.x[layer], self.dys[layer], self.q[layer + 1]
        dv = plan.rows.answer_backward(
            du, parts, reads, kept.y, kept.after, kept.y_scale, kept.scale, not plan.carried, dy
        )
        forms.gradient(x, self.g[layer], dy, weights.W, plan.mask.scale, dys, dx, not plan.carried, shape, tuning)
        V_HND = weights.V.view(shape.D, shape.H, shape.N).permute(1, 2, 0)
        da = plan.rows.settle_backward(torch.bmm(self._by_head(dys), V_HND), a, kept.reads_scale, shape)
        p = forms.pairs(da, v, shape, tuning)
        reads = self._reads_backward(da, kept.scores)
        states = None
        if kept.rho is not None:
            drho = forms.states(q, da, True, shape, tuning)
            states = (da, v, kept.rho, drho)
            reads += product(q.view(shape.segments, shape.C, shape.HN), drho).view(shape.R, shape.D)
        carried = None if carry is None else (x, carry, layer == plan.layers - 1)
        forms.activity(p, q, dx, plan.turns(du.device), l1, states, carried, shape, tuning)
        E_HND = weights.E.view(shape.D, shape.H, shape.N).permute(1, 2, 0)
        return dv, product(self._by_head(dx), E_HND), reads

    def _reads_backward(self, da: Tensor, scores: Tensor) -> Tensor:
        """S^T dA of all heads, R,D."""
        shape = self.plan.shape
        da_SHCD = da.view(shape.H, shape.segments, shape.C, shape.D).transpose(0, 1)
        da_SCD = da_SHCD.reshape(shape.segments, shape.H * shape.C, shape.D)
        return product(scores.view(shape.segments, -1, shape.C).mT, da_SCD).view(shape.R, shape.D)

    def _reads_of(self, layer: int) -> Tensor:
        """The normed reads of a layer, H,R,D."""
        return self.a[:, layer * self.plan.shape.R : (layer + 1) * self.plan.shape.R]

    def _by_head(self, activity: Tensor) -> Tensor:
        """H,rows,N of rows,HN."""
        return activity.view(-1, self.plan.shape.H, self.plan.shape.N).transpose(0, 1)
