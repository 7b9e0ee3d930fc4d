"""What every kernel of the training pass computes, in plain torch: slow, obvious, any floating dtype.

`launch` has functions of the same names and arguments that run the Triton programs, so either module can drive
`layers.StreamGroup`. Layouts and letters: `shape`.

- Products of half-precision operands: sums and results in float32 (float64 for float64).
- Dropout decided by a hash of (seed, token, neuron): nothing is stored, and any tile can be decided again. A pair of
  neurons shares one 32-bit hash z = rounds(key(r) + key'(pair)) (two multiply-xorshift rounds, constants of
  C. Wellons' lowbias32; the keys are that hash of index and seed): its upper half decides about the even neuron, its
  lower half, mixed with the upper, about the odd one. A neuron is kept where its 16 bits are at least share * 2^16. The
  share is a multiple of 2^-16; the scale is that of the rounded share. The programs contain the same arithmetic
  (`triton.kept`), so all decide alike bit by bit.
- The large steps of a layer, on tensors of rows by neurons. With carried activations (eq8), x is the sum over layers
  and its sign bit says that the current layer added to it; every reader takes |x|.
- The norms between them, on rows of D values: LayerNorms without parameters. What is kept for the backward pass is the
  normed row and the number `scale` that it was multiplied with, 1 / sqrt(variance + 1e-5).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from bdh.kernels.training.shape import PassShape, Tuning

EPSILON = 1e-5
LEVELS = 2**16
WORD = 0xFFFFFFFF
FIRST, SECOND = 0x7FEB352D, 0x846CA68B
ROW_STEP, COLUMN_STEP, LAYER_STEP = 0x9E3779B1, 0x85EBCA77, 0x27D4EB2F


def wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype of sums: float32, or float64 for float64."""
    return torch.promote_types(dtype, torch.float32)


def product(a: Tensor, b: Tensor) -> Tensor:
    """a b for matrices or batches of matrices, in `wide` of their dtype; half-precision operands are not copied."""
    out = wide(a.dtype)
    if a.dtype == out:
        return a @ b
    if a.is_cuda:
        return torch.mm(a, b, out_dtype=out) if a.ndim == 2 else torch.bmm(a, b, out_dtype=out)
    return a.to(out) @ b.to(out)


def add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """total += a b for matrices or batches of matrices; total has the `wide` dtype."""
    if a.is_cuda and a.dtype != total.dtype:
        add = torch.ops.aten.addmm if a.ndim == 2 else torch.ops.aten.baddbmm
        add.dtype_out(total, a, b, total.dtype, out=total)
    else:
        total += product(a, b)


@dataclass(frozen=True)
class Mask:
    """Which neurons of which tokens are dropped: `share` of them, by `seed`; `first_row` numbers the first token."""

    share: float
    seed: int
    first_row: int = 0

    @property
    def threshold(self) -> int:
        """Draws below this, out of 2^16, drop their neuron."""
        return min(round(self.share * LEVELS), LEVELS - 1)

    @property
    def scale(self) -> float:
        """What the kept neurons are multiplied with, so that the mean stays."""
        return LEVELS / (LEVELS - self.threshold)

    def of_layer(self, layer: int) -> Mask:
        """The mask of one layer: an independent seed."""
        return Mask(self.share, mix_number(self.seed + (layer + 1) * LAYER_STEP) & 0x7FFFFFFF, self.first_row)


def draws_of(mask: Mask, layers: int, first_rows: list[int], device: torch.device) -> Tensor:
    """What kernels need to decide, on the device: for every group of rows and layer its seed and first row, G,L,2."""
    table = [[[mask.of_layer(layer).seed, first] for layer in range(layers)] for first in first_rows]
    return torch.tensor(table, dtype=torch.int32).to(device, non_blocking=True)


def mix_number(value: int) -> int:
    """The hash of one number, 32 bits."""
    value &= WORD
    for shift, factor in ((16, FIRST), (15, SECOND)):
        value = (value ^ (value >> shift)) * factor & WORD
    return value ^ (value >> 16)


def multipliers(mask: Mask, rows: int, columns: int, like: Tensor) -> Tensor:
    """0 for dropped and `scale` for kept neurons, (rows, columns), in the dtype and on the device of `like`."""
    if mask.threshold == 0:
        return like.new_ones(rows, columns)
    row_R = torch.arange(mask.first_row, mask.first_row + rows, device=like.device)
    pair_P = torch.arange((columns + 1) // 2, device=like.device)
    key_R = _mix(row_R * ROW_STEP + mask.seed)
    key_P = _mix(pair_P * COLUMN_STEP + mask.seed)
    z = _rounds(key_R[:, None] + key_P[None, :] & WORD)
    draws = torch.stack((z >> 16, (z ^ (z >> 16)) & 0xFFFF), dim=-1).flatten(1)[:, :columns]
    return (draws >= mask.threshold).to(like.dtype) * mask.scale


def _rounds(z: Tensor) -> Tensor:
    z = _times(z ^ (z >> 16), FIRST)
    return _times(z ^ (z >> 15), SECOND)


def _mix(z: Tensor) -> Tensor:
    z = _rounds(z & WORD)
    return z ^ (z >> 16)


def _times(z: Tensor, factor: int) -> Tensor:
    """z * factor modulo 2^32 without leaving 63 bits."""
    low, high = factor & 0xFFFF, factor >> 16
    return (z * low + ((z * high & 0xFFFF) << 16)) & WORD


def encode(
    v: Tensor, E: Tensor, turns: Tensor, before: Tensor | None, signed: bool, x: Tensor, q: Tensor, sums: bool,
    shape: PassShape, tuning: Tuning,
) -> Tensor | None:  # fmt: skip
    """x = relu(v E), plus |before| if given, (R,HN), and q = rope(x), written into x and q; v R,D, E D,HN.

    `signed`: x is written with the sign bit described above. Returns the sum of |x| if `sums`.
    """
    gained = F.relu(v.to(wide(v.dtype)) @ E.to(wide(v.dtype)))
    total = gained if before is None else before.abs().to(gained.dtype) + gained
    rounded = torch.where(gained > 0, -total, total).to(q.dtype) if signed else total.to(q.dtype)
    x.copy_(rounded)
    q.copy_(_rotated(rounded.abs().to(gained.dtype), turns, shape, 1.0))
    return rounded.abs().sum(dtype=wide(v.dtype)) if sums else None


def scores(q: Tensor, shape: PassShape, tuning: Tuning) -> Tensor:
    """tril(q q^T, -1) of every segment and head, (S,H,C,C)."""
    q_SHCN = _heads(q, shape).to(wide(q.dtype))
    return (q_SHCN @ q_SHCN.mT).tril(-1).to(q.dtype)


def gate(
    x: Tensor, a: Tensor, V: Tensor, mask: Mask, draw: Tensor, g: Tensor, shape: PassShape, tuning: Tuning
) -> None:  # fmt: skip
    """g = |x| relu(a V) m (R,HN), written into g; a H,R,D, V D,HN, m the dropout of `mask`.

    `draw` is a row of `draws_of`: the seed of the layer and the number of the first row, which replace those of `mask`.
    """
    ys = F.relu(_through(a, V, shape))
    own = Mask(mask.share, *draw.tolist())
    g.copy_(x.abs().to(ys.dtype) * ys * multipliers(own, shape.R, shape.HN, ys))


def gradient(
    x: Tensor, g: Tensor, dy: Tensor, W: Tensor, scale: float, dys: Tensor, dx: Tensor, mark: bool,
    shape: PassShape, tuning: Tuning,
) -> None:  # fmt: skip
    """dys = gradient of a V and dx = gradient of |x|, each R,HN, from dy = dL/dY (R,D) and the g of `gate`.

    g tells what `gate` made: where it is above 0 nothing was dropped, relu(a V) m = g / |x| and m = scale. dx is NaN
    where x is 0 if `mark`, for `activity`, which then need not read x. dys may be x, and dx may be g.
    """
    size = x.abs().to(wide(x.dtype))
    dg = dy.to(size.dtype) @ W.to(size.dtype).mT
    live = g > 0
    direct = torch.where(live, dg * (g.to(size.dtype) / size), 0.0)
    dys.copy_(torch.where(live, dg * scale * size, 0.0))
    dx.copy_(direct.masked_fill(size == 0, torch.nan) if mark else direct)


def pairs(da: Tensor, v: Tensor, shape: PassShape, tuning: Tuning) -> Tensor:
    """dS + dS^T with dS = tril(dA v^T, -1) of every segment and head, (S,H,C,C); da H,R,D, v R,D."""
    C, D = shape.C, shape.D
    da_SHCD = da.reshape(shape.H, -1, C, D).transpose(0, 1).to(wide(da.dtype))
    ds = (da_SHCD @ v.reshape(-1, 1, C, D).to(da_SHCD.dtype).mT).tril(-1)
    return (ds + ds.mT).to(v.dtype)


def activity(
    p: Tensor, q: Tensor, dx: Tensor, turns: Tensor, l1: Tensor | None,
    states: tuple[Tensor, Tensor, Tensor, Tensor] | None, carried: tuple[Tensor, Tensor, bool] | None,
    shape: PassShape, tuning: Tuning,
) -> None:  # fmt: skip
    """The gradient before the relu of the encoder (R,HN), written into dx, which comes in from `gradient`.

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
    total = _rotated(dq, turns, shape, -1.0) + dx.to(dq.dtype)
    if l1 is not None:
        total = total + l1
    if carried is None:
        dx.copy_(torch.where(dx.isnan(), 0.0, total))
        return
    x, carry, first = carried
    total = total if first else total + carry.to(total.dtype)
    carry.copy_(total)
    dx.copy_(torch.where(x < 0, total, 0.0))


def states(q: Tensor, u: Tensor, backward: bool, shape: PassShape, tuning: Tuning) -> Tensor:
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


def _heads(q: Tensor, shape: PassShape) -> Tensor:
    """(S,H,C,N) of R,HN."""
    return q.reshape(-1, shape.C, shape.H, shape.N).transpose(1, 2)


def _through(a: Tensor, V: Tensor, shape: PassShape) -> Tensor:
    """a V head by head, R,HN in the dtype of sums."""
    V_HDN = V.reshape(shape.D, shape.H, shape.N).transpose(0, 1).to(wide(a.dtype))
    return (a.to(V_HDN.dtype) @ V_HDN).transpose(0, 1).reshape(shape.R, shape.HN)


def _rotated(x: Tensor, turns: Tensor, shape: PassShape, sense: float) -> Tensor:
    """Neighbouring pairs of R,HN turned by the angles of their tokens (`sense` -1: back)."""
    cos, sin = turns.to(x.dtype)[:, None].unflatten(-1, (-1, 2)).unbind(-1)
    sin = sense * sin
    even, odd = x.reshape(shape.B, shape.T, shape.H, -1, 2).unbind(-1)
    return torch.stack((even * cos - odd * sin, odd * cos + even * sin), dim=-1).reshape(shape.R, shape.HN)


def settle(reads: Tensor, a: Tensor, shape: PassShape) -> Tensor:
    """a (H,R,D) = norm of reads (S,H*C,D), written into a; returns its scale (H,R)."""
    rows = reads.view(shape.segments, shape.H, shape.C, shape.D).transpose(0, 1).reshape(shape.H, shape.R, shape.D)
    normed, scale = _normal(rows)
    a.copy_(normed)
    return scale


def settle_backward(gradient: Tensor, a: Tensor, scale: Tensor, shape: PassShape) -> Tensor:
    """The gradient of the reads (H,R,D) from that of a."""
    return _normal_backward(gradient.to(scale.dtype), a.to(scale.dtype), scale).to(a.dtype)


def answer(parts: Tensor, u: Tensor | None, v: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The rows after a layer from its answer y, the sum of parts (P,R,D), written into v in the operands' dtype.

    With a residual stream u (R,D) they are norm(u + norm(y)), otherwise norm(y). Returns the rows, norm(y), and the
    scales of both norms (the second empty without a residual stream).
    """
    y, y_scale = _normal(parts.sum(0))
    after, scale = (y, y_scale.new_empty(0)) if u is None else _normal(u + y)
    v.copy_(after)
    return after, y, y_scale, scale


def answer_backward(
    du: Tensor, parts: Tensor | None, reads: Tensor | None, y: Tensor, after: Tensor, y_scale: Tensor, scale: Tensor,
    residual: bool, dy: Tensor,
) -> Tensor:  # fmt: skip
    """The gradient of u (R,D) along the residual stream, and that of y, written into dy.

    The gradient after the layer is du plus, unless None, the parts (P,R,D) and `reads` (R,D). Without a residual stream
    the answer is du's zero gradient.
    """
    gradient = du if parts is None or reads is None else du + parts.sum(0) + reads
    dv = _normal_backward(gradient, after, scale) if residual else gradient
    dy.copy_(_normal_backward(dv, y, y_scale))
    return dv if residual else torch.zeros_like(du)


def _normal(x: Tensor) -> tuple[Tensor, Tensor]:
    variance, mean = torch.var_mean(x, dim=-1, correction=0)
    scale = (variance + EPSILON).rsqrt()
    return (x - mean[..., None]) * scale[..., None], scale


def _normal_backward(gradient: Tensor, normed: Tensor, scale: Tensor) -> Tensor:
    mean = gradient.mean(-1, keepdim=True)
    along = (gradient * normed).mean(-1, keepdim=True)
    return (gradient - mean - normed * along) * scale[..., None]
