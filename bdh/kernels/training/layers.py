"""The layers of `bdh` and `eq8` for one group of streams: forward, then back, with everything in between kept.

`Plan` says what a pass is: its shape, family, precision, dropout, memory and which implementation computes it.
`StreamGroup` runs it. With dY known, per layer (m: dropout, [.]: 1 where true; see `reference` for the steps):

    dg = dy W^T      dW += g^T dY       dys = dg xs m [ys>0]      dV += a^T dys      da = dys V^T      dA = norm'(da)
    dS = tril(dA v^T, -1)               dv = S^T dA + dxs E^T     dE += v^T dxs
    dq = (dS + dS^T) q                  (keys are the queries: one product with a symmetric matrix)
    dxs = (rope^-1(dq) + dg ys m + l1) [xs>0]

In the segment form rho is the state before a segment and drho the sum of q dA^T over the segments behind it; then
dq += dA rho^T + v drho^T and dv += q drho.

Letters as in `shape`, L layers. Rows between layers are float32 (float64 for float64); operands of products have
the plan's dtype, their sums are float32. The gradients of the weights are one product each over all layers.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor

from bdh.kernels.training import reference
from bdh.kernels.training.reference import Mask, add_product, draws_of, product, wide
from bdh.kernels.training.shape import PassShape, Tuning, columns, turns


class LayerWeights(NamedTuple):
    """The three matrices in compute precision: E, V D,HN and W HN,D."""

    E: Tensor
    V: Tensor
    W: Tensor


@dataclass(frozen=True)
class Plan:
    """A pass over `shape`, of which `tokens` per stream are real.

    layers: L. dtype: of the products' operands. carried: activations add up over layers and there is no residual stream
    (`eq8`), otherwise the layers of `bdh`. mask: dropout of the gated neurons. measure_l1: also the mean activity.
    kernels: Triton (`launch`) or plain torch (`reference`).
    """

    shape: PassShape
    tokens: int
    layers: int
    dtype: torch.dtype
    carried: bool
    mask: Mask
    measure_l1: bool
    kernels: bool
    tuning: Tuning

    @property
    def forms(self) -> ModuleType:
        """The module whose functions compute."""
        if not self.kernels:
            return reference
        from bdh.kernels.training import launch

        return launch

    @property
    def activities(self) -> int:
        """Entries of the activations of all layers: L*B*H*T*N, real tokens only."""
        return self.layers * self.shape.B * self.tokens * self.shape.HN

    def groups(self) -> tuple[Plan, list[slice]]:
        """The streams that pass through all layers together, equally many in every group, and the plan of a group."""
        size = max(1, min(self.shape.B, self.tuning.bytes // (self.bytes_per_token() * self.shape.T)))
        while self.shape.B % size:
            size -= 1
        streams = [slice(first, first + size) for first in range(0, self.shape.B, size)]
        return dataclasses.replace(self, shape=dataclasses.replace(self.shape, B=size)), streams

    def bytes_per_token(self) -> int:
        """Of the activations that a group keeps; see `StreamGroup`."""
        tensors = (4 if self.carried else 3) * self.layers + 1
        return tensors * self.shape.HN * torch.finfo(self.dtype).bits // 8

    def draws(self, streams: list[slice], device: torch.device) -> Tensor:
        """The numbers that decide dropout in these groups; see `reference.draws_of`."""
        first_rows = [self.mask.first_row + part.start * self.shape.T for part in streams]
        return draws_of(self.mask, self.layers, first_rows, device)

    def in_order(self, matrices: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """encoder, encoder_v H,D,N and decoder HN,D in the order of `LayerWeights`, as views where possible."""
        encoder, encoder_v, decoder = matrices
        return columns(encoder), columns(encoder_v), decoder

    def weights(self, encoder: Tensor, encoder_v: Tensor, decoder: Tensor) -> LayerWeights:
        """Copies of the parameters (H,D,N twice, HN,D) as the kernels want them."""
        E, V, W = self.in_order((encoder, encoder_v, decoder))
        return LayerWeights(E.to(self.dtype), V.to(self.dtype), W.to(self.dtype))

    def weights_like(self, like: Tensor) -> LayerWeights:
        """Room for such copies."""
        D, HN = self.shape.D, self.shape.HN
        return LayerWeights(*(like.new_empty(size, dtype=self.dtype) for size in ((D, HN), (D, HN), (HN, D))))

    def turns(self, device: torch.device) -> Tensor:
        """The rotary table."""
        return turns(self.shape.T, self.shape.N, device, self.dtype)


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


class StreamGroup:
    """One pass of a group: `forward` once, then `backward` once.

    x, g, q: activations of all layers (L,R,HN), q with one place more: going back, the gradient of a layer's activity
    takes the place of q of the layer after it, as that of relu(a V) takes the place of x (not in `eq8`, whose x is
    needed longer). v, dy: rows of all layers (L,R,D). a: normed reads (H,L*R,D). draws: see `reference.draws_of`,
    of this group.
    """

    def __init__(self, weights: LayerWeights, plan: Plan, draws: Tensor, like: Tensor) -> None:
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
        reads_scale = forms.settle(reads, a, shape)
        forms.gate(x, a, weights.V, plan.mask, self.draws[layer], g, shape, tuning)
        parts = product(self._by_head(g), weights.W.view(shape.H, shape.N, shape.D))
        after, y, y_scale, scale = forms.answer(parts, None if plan.carried else u, self.v[layer + 1])
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
        plan, forms, tuning, weights = self.plan, self.plan.forms, self.plan.tuning, self.weights
        kept = self.layers.pop()
        shape, q, v, a, dy = plan.shape, self.q[layer], self.v[layer], self._reads_of(layer), self.dy[layer]
        x, dys, dx = self.x[layer], self.dys[layer], self.q[layer + 1]
        residual = not plan.carried
        dv = forms.answer_backward(du, parts, reads, kept.y, kept.after, kept.y_scale, kept.scale, residual, dy)
        forms.gradient(x, self.g[layer], dy, weights.W, plan.mask.scale, dys, dx, residual, shape, tuning)
        V_HND = weights.V.view(shape.D, shape.H, shape.N).permute(1, 2, 0)
        da = forms.settle_backward(torch.bmm(self._by_head(dys), V_HND), a, kept.reads_scale, shape)
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
