"""What every fused kernel computes, in plain torch: slow, obvious, any floating dtype. `fused_launch` runs the kernels.

Both modules have these functions with the same arguments, so either can drive `fused_stack`. Sums are taken in float32
(float64 for float64). Layouts and letters: `fused_shape`. With carried activations (eq8), x is the sum over layers and
its sign bit says that the current layer added to it; every reader takes |x|.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from bdh.nn.fused_dropout import Mask, multipliers
from bdh.nn.fused_products import wide
from bdh.nn.fused_settings import Tuning
from bdh.nn.fused_shape import Shape

Turns = tuple[Tensor, Tensor]


def encode(
    v: Tensor, E: Tensor, turns: Turns, before: Tensor | None, signed: bool, x: Tensor | None, q: Tensor, sums: bool,
    shape: Shape, tuning: Tuning,
) -> Tensor | None:  # fmt: skip
    """x = relu(v E), plus |before| if given, (R,HN), and q = rope(x), written into x and q; v R,D, E D,HN.

    `signed`: x is written with the sign bit described above. x None: not written. Returns the sum of |x| if `sums`.
    """
    gained = F.relu(v.to(wide(v.dtype)) @ E.to(wide(v.dtype)))
    total = gained if before is None else before.abs().to(gained.dtype) + gained
    rounded = torch.where(gained > 0, -total, total).to(q.dtype) if signed else total.to(q.dtype)
    if x is not None:
        x.copy_(rounded)
    rotate(rounded, turns, q, shape, tuning)
    return rounded.abs().sum(dtype=wide(v.dtype)) if sums else None


def rotate(x: Tensor, turns: Turns, q: Tensor, shape: Shape, tuning: Tuning) -> None:
    """q = rope(|x|) (R,HN), written into q."""
    turned = _rotated(x.abs().to(wide(x.dtype)), turns, shape, 1.0)
    q.copy_(turned.reshape(shape.R, shape.HN))


def scores(q: Tensor, shape: Shape, tuning: Tuning) -> Tensor:
    """tril(q q^T, -1) of every segment and head, (S,H,C,C)."""
    q_SHCN = _heads(q, shape).to(wide(q.dtype))
    return (q_SHCN @ q_SHCN.mT).tril(-1).to(q.dtype)


def gate(x: Tensor, a: Tensor, V: Tensor, mask: Mask, g: Tensor, shape: Shape, tuning: Tuning) -> None:
    """g = |x| relu(a V) m (R,HN), written into g; a H,R,D, V D,HN, m the dropout of `mask`."""
    ys = F.relu(_through(a, V, shape))
    g.copy_(x.abs().to(ys.dtype) * ys * multipliers(mask, shape.R, shape.HN, ys))


def gate_decode(x: Tensor, a: Tensor, V: Tensor, W: Tensor, mask: Mask, shape: Shape, tuning: Tuning) -> Tensor:
    """Y = g W (R,D) with the g of `gate` and W HN,D."""
    g = torch.empty_like(x)
    gate(x, a, V, mask, g, shape, tuning)
    return g.to(wide(x.dtype)) @ W.to(wide(x.dtype))


def gate_backward(
    x: Tensor, a: Tensor, V: Tensor, dy: Tensor, W: Tensor, mask: Mask, g: Tensor, dys: Tensor, dx: Tensor,
    known: bool, mark: bool, shape: Shape, tuning: Tuning,
) -> None:  # fmt: skip
    """g (unless it is `known`), dys = gradient of a V and dx = gradient of |x|, each R,HN, from dy = dL/dY (R,D).

    dx is NaN where x is 0 if `mark`, for `activity`, which then need not read x.
    """
    size = x.abs().to(wide(x.dtype))
    dg = dy.to(size.dtype) @ W.to(size.dtype).mT
    if known:
        live = g > 0
        ys = torch.where(live, g.to(size.dtype) / (size * mask.scale), 0.0)
        dg = torch.where(live, dg * mask.scale, 0.0)
    else:
        ys = F.relu(_through(a, V, shape))
        m = multipliers(mask, shape.R, shape.HN, size)
        g.copy_(size * ys * m)
        dg = dg * m
    dys.copy_(torch.where(ys > 0, dg * size, 0.0))
    direct = dg * ys
    dx.copy_(direct.masked_fill(size == 0, torch.nan) if mark else direct)


def pairs(da: Tensor, v: Tensor, shape: Shape, tuning: Tuning) -> Tensor:
    """dS + dS^T with dS = tril(dA v^T, -1) of every segment and head, (S,H,C,C); da H,R,D, v R,D."""
    C, D = shape.C, shape.D
    da_SHCD = da.reshape(shape.H, -1, C, D).transpose(0, 1).to(wide(da.dtype))
    ds = (da_SHCD @ v.reshape(-1, 1, C, D).to(da_SHCD.dtype).mT).tril(-1)
    return (ds + ds.mT).to(v.dtype)


def activity(
    p: Tensor, q: Tensor, dx: Tensor, turns: Turns, l1: Tensor | None,
    states: tuple[Tensor, Tensor, Tensor, Tensor] | None, carried: tuple[Tensor, Tensor, bool] | None,
    shape: Shape, tuning: Tuning,
) -> None:  # fmt: skip
    """The gradient before the relu of the encoder (R,HN), written into dx, which comes in from `gate_backward`.

    dx <- [x>0] (rope^-1(p q) + dx + l1). `l1` is one float32 number. `states` (da H,R,D, v R,D, rho, drho S,HN,D)
    adds da rho^T + v drho^T to p q. `carried` (x, carry, first): carry <- that sum without the mask, plus the old carry
    unless first, and the mask is the sign bit of x.
    """
    q_SHCN = _heads(q, shape).to(wide(q.dtype))
    dq = p.to(q_SHCN.dtype) @ q_SHCN
    if states is not None:
        da, v, rho, drho = (tensor.to(dq.dtype) for tensor in states)
        S, C, D = shape.segments, shape.C, shape.D
        rho, drho = rho.reshape(S, shape.H, shape.N, D), drho.reshape(S, shape.H, shape.N, D)
        dq = dq + da.reshape(shape.H, S, C, D).transpose(0, 1) @ rho.mT + v.reshape(S, 1, C, D) @ drho.mT
    dq = dq.transpose(1, 2).reshape(shape.R, shape.HN)
    total = _rotated(dq, turns, shape, -1.0).reshape(shape.R, shape.HN) + dx.to(dq.dtype)
    if l1 is not None:
        total = total + l1
    if carried is None:
        dx.copy_(torch.where(dx.isnan(), 0.0, total))
        return
    x, carry, first = carried
    total = total if first else total + carry.to(total.dtype)
    carry.copy_(total)
    dx.copy_(torch.where(x < 0, total, 0.0))


def states(q: Tensor, u: Tensor, backward: bool, shape: Shape, tuning: Tuning) -> Tensor:
    """Sum of q u^T over the earlier segments of the stream (`backward`: the later ones), (S,HN,D); u R,D or H,R,D."""
    u_HRD = u.expand(shape.H, -1, -1).reshape(shape.H, shape.segments, shape.C, shape.D)
    written = _heads(q, shape).mT.to(wide(q.dtype)) @ u_HRD.transpose(0, 1).to(wide(q.dtype))
    written = written.reshape(shape.B, shape.T // shape.C, shape.HN, shape.D)
    before = (written.flip(1).cumsum(1).flip(1) if backward else written.cumsum(1)) - written
    return before.reshape(-1, shape.HN, shape.D).to(q.dtype)


def loss(logits: Tensor, targets: Tensor, vocabulary: int, scale: float) -> Tensor:
    """Cross-entropy of every row; the rows of `logits` become their gradients times `scale`, padding columns 0."""
    z = logits[:, :vocabulary].to(wide(logits.dtype))
    losses = F.cross_entropy(z, targets, reduction="none")
    gradient = z.softmax(-1)
    gradient[torch.arange(len(targets), device=z.device), targets] -= 1.0
    logits.zero_()
    logits[:, :vocabulary] = (gradient * scale).to(logits.dtype)
    return losses


def _heads(q: Tensor, shape: Shape) -> Tensor:
    """(S,H,C,N) of R,HN."""
    return q.reshape(-1, shape.C, shape.H, shape.N).transpose(1, 2)


def _through(a: Tensor, V: Tensor, shape: Shape) -> Tensor:
    """a V head by head, R,HN in the dtype of sums."""
    V_HDN = V.reshape(shape.D, shape.H, shape.N).transpose(0, 1).to(wide(a.dtype))
    return (a.to(V_HDN.dtype) @ V_HDN).transpose(0, 1).reshape(shape.R, shape.HN)


def _rotated(x: Tensor, turns: Turns, shape: Shape, sense: float) -> Tensor:
    """Pairs of R,HN turned by the angles of their tokens (`sense` -1: back), (B,T,H,2,N/2)."""
    cos, sin = (part.to(x.dtype)[:, None] for part in turns)
    first, second = x.reshape(shape.B, shape.T, shape.H, 2, -1).unbind(3)
    sin = sense * sin
    return torch.stack((first * cos - second * sin, second * cos + first * sin), dim=3)
