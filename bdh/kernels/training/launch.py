"""Runs the Triton programs; the functions and their arguments are those of `reference`, where they are described.

Every function chooses tiles for its sizes and takes, where they run, the programs for Hopper (`hopper_launch`).
"""

from __future__ import annotations

import functools
import logging
from types import ModuleType

import torch
from torch import Tensor

from bdh.kernels.training import reference
from bdh.kernels.training import triton as programs
from bdh.kernels.training import triton_rows as row_programs
from bdh.kernels.training.reference import Mask
from bdh.kernels.training.shape import BLOCKS, TILE, PassShape, Tuning, fit, narrower

SMALLEST_STEP = 64
ROWS = 8

_log = logging.getLogger(__name__)


def encode(
    v: Tensor, E: Tensor, turns: Tensor, before: Tensor | None, signed: bool, x: Tensor, q: Tensor, sums: bool,
    shape: PassShape, tuning: Tuning,
) -> Tensor | None:  # fmt: skip
    """See `reference.encode`; without `before` the Hopper program, or a library product with relu and a rotation."""
    if before is None and not signed and v.is_cuda:
        if hopper_fits(v, shape, tuning):
            return _hopper().encode(v, E, turns, x, q, sums, shape, tuning)
        nothing = torch.zeros(shape.HN, dtype=v.dtype, device=v.device)
        torch._addmm_activation(nothing, v, E, out=x)
        return _rotate(x, turns, q, sums, shape, tuning)
    b = tuning.of("encode")
    M, N, K = _rows(b["M"], shape), fit(b["N"], shape.N), fit(b["K"], shape.D)
    grid = (shape.R // M, shape.HN // N)
    partial = torch.empty(grid if sums else (1,), dtype=torch.float32, device=v.device)
    programs.encode_kernel[grid](
        v, E, turns, v if before is None else before, x, q, partial, shape.T,
        D=shape.D, N=shape.N, HN=shape.HN, BM=M, BN=N, BK=K,
        BEFORE=before is not None, SIGNED=signed, SUMS=sums, **_how(b),
    )  # fmt: skip
    return partial.sum() if sums else None


def _rotate(x: Tensor, turns: Tensor, q: Tensor, sums: bool, shape: PassShape, tuning: Tuning) -> Tensor | None:
    b = tuning.of("rotate")
    M, N = _rows(b["M"], shape), fit(b["N"], shape.N)
    grid = (shape.R // M, shape.HN // N)
    partial = torch.empty(grid if sums else (1,), dtype=torch.float32, device=x.device)
    programs.rotate_kernel[grid](
        x, turns, q, partial, shape.T, N=shape.N, HN=shape.HN, BM=M, BN=N, SUMS=sums, **_how(b)
    )
    return partial.sum() if sums else None


def scores(q: Tensor, shape: PassShape, tuning: Tuning) -> Tensor:
    """See `reference.scores`; one program per tile, those above the diagonal have nothing to multiply."""
    s = torch.empty(shape.segments, shape.H, shape.C, shape.C, dtype=q.dtype, device=q.device)
    b = tuning.of("scores")
    M, N, K = fit(b["M"], shape.C), fit(b["N"], shape.C), fit(b["K"], shape.N)
    grid = ((shape.C // M) * (shape.C // N), shape.segments * shape.H)
    programs.scores_kernel[grid](q, s, C=shape.C, H=shape.H, N=shape.N, HN=shape.HN, BM=M, BN=N, BK=K, **_how(b))
    return s


def gate(
    x: Tensor, a: Tensor, V: Tensor, mask: Mask, draw: Tensor, g: Tensor, shape: PassShape, tuning: Tuning
) -> None:  # fmt: skip
    """See `reference.gate`."""
    if hopper_fits(x, shape, tuning):
        return _hopper().gate(x, a, V, mask, draw, g, shape, tuning)
    b = tuning.of("gate")
    M, N, K = _rows(b["M"], shape), fit(b["N"], shape.N), fit(b["K"], shape.D)
    programs.gate_kernel[(shape.R // M, shape.HN // N)](
        x, a, V, g, a.stride(0) // shape.D, draw, mask.scale,
        D=shape.D, N=shape.N, HN=shape.HN, BM=M, BN=N, BK=K, THRESHOLD=mask.threshold, **_how(b),
    )  # fmt: skip


def gradient(
    x: Tensor, g: Tensor, dy: Tensor, W: Tensor, scale: float, dys: Tensor, dx: Tensor, mark: bool,
    shape: PassShape, tuning: Tuning,
) -> None:  # fmt: skip
    """See `reference.gradient`."""
    if hopper_fits(x, shape, tuning):
        return _hopper().gradient(x, g, dy, W, scale, dys, dx, mark, shape, tuning)
    b = tuning.of("gradient")
    M, N, K = _rows(b["M"], shape), fit(b["N"], shape.N), fit(b["K"], shape.D)
    programs.gradient_kernel[(shape.R // M, shape.HN // N)](
        x, g, dy, W, dys, dx, scale, D=shape.D, HN=shape.HN, BM=M, BN=N, BK=K, MARK=mark, **_how(b)
    )


def pairs(da: Tensor, v: Tensor, shape: PassShape, tuning: Tuning) -> Tensor:
    """See `reference.pairs`."""
    b = tuning.of("pairs")
    M, N = fit(narrower(b["M"], shape.D), shape.C), fit(narrower(b["N"], shape.D), shape.C)
    p = torch.empty(shape.segments, shape.H, shape.C, shape.C, dtype=v.dtype, device=v.device)
    grid = ((shape.C // M) * (shape.C // N), shape.segments * shape.H)
    programs.pairs_kernel[grid](da, v, p, shape.R, C=shape.C, H=shape.H, D=shape.D, BM=M, BN=N, **_how(b))
    return p


def activity(
    p: Tensor, q: Tensor, dx: Tensor, turns: Tensor, l1: Tensor | None,
    states: tuple[Tensor, Tensor, Tensor, Tensor] | None, carried: tuple[Tensor, Tensor, bool] | None,
    shape: PassShape, tuning: Tuning,
) -> None:  # fmt: skip
    """See `reference.activity`; products of one head and a few segments at a time, so that dq stays in the cache."""
    if carried is None and hopper_fits(q, shape, tuning) and _hopper().segment_fits(shape):
        return _hopper().activity(p, q, dx, turns, l1, states, shape, tuning)
    b = tuning.of("activity")
    M, N = _rows(b["M"], shape), fit(b["N"], shape.N)
    together = fit(max(1, b["rows"] // shape.C), shape.segments)
    S, C, H, D = shape.segments, shape.C, shape.H, shape.D
    q_SCHN = q.view(S, C, H, shape.N)
    x, carry, first = (q, q, True) if carried is None else carried
    dq = torch.empty(together, C, shape.N, dtype=q.dtype, device=q.device)
    for start in range(0, S, together):
        part = slice(start, start + together)
        for head in range(H):
            torch.bmm(p[part, head], q_SCHN[part, :, head], out=dq)
            if states is not None:
                da, v, rho, drho = states
                neurons = slice(head * shape.N, (head + 1) * shape.N)
                dq.baddbmm_(da[head].view(S, C, D)[part], rho[part, neurons].mT)
                dq.baddbmm_(v.view(S, C, D)[part], drho[part, neurons].mT)
            programs.turn_back_kernel[(together * C // M, shape.N // N)](
                dq, dx, turns, q if l1 is None else l1, x, carry, start * C, head * shape.N, shape.T,
                N=shape.N, HN=shape.HN, BM=M, BN=N,
                L1=l1 is not None, CARRY=carried is not None, FIRST=first, **_how(b),
            )  # fmt: skip


def states(q: Tensor, u: Tensor, backward: bool, shape: PassShape, tuning: Tuning) -> Tensor:
    """See `reference.states`; segments below SMALLEST_STEP tokens on a GPU take the plain form.

    There the compiler (Triton 3.6) multiplies a transposed tile of 16 tokens wrongly.
    """
    if hopper_fits(q, shape, tuning) and shape.C % TILE == 0:
        return _hopper().states(q, u, backward, shape)
    b = tuning.of("states")
    M, K = fit(narrower(b["M"], shape.D), shape.N), fit(b["K"], shape.C)
    if q.is_cuda and K < SMALLEST_STEP:
        return reference.states(q, u, backward, shape, tuning)
    rho = torch.empty(shape.segments, shape.HN, shape.D, dtype=q.dtype, device=q.device)
    programs.states_kernel[(shape.HN // M, shape.B)](
        q, u, rho, shape.T * shape.D, shape.R * shape.D if u.ndim == 3 else 0,
        C=shape.C, SEGMENTS=shape.T // shape.C,
        D=shape.D, N=shape.N, HN=shape.HN, BM=M, BK=K, BACKWARD=backward, **_how(b),
    )  # fmt: skip
    return rho


def loss(logits: Tensor, targets: Tensor, vocabulary: int, scale: float) -> Tensor:
    """See `reference.loss`."""
    b = Tuning().of("loss")
    losses = torch.empty(len(targets), dtype=torch.float32, device=logits.device)
    N = min(b["N"], 1 << (vocabulary - 1).bit_length())
    row_programs.loss_kernel[(len(targets),)](
        logits, targets, losses, scale, V=vocabulary, STRIDE=logits.stride(0), BN=N, **_how(b)
    )
    return losses


def hopper_fits(x: Tensor, shape: PassShape, tuning: Tuning) -> bool:
    """Whether the programs of `hopper` serve these sizes on the device of x."""
    if not tuning.hopper or not x.is_cuda or x.dtype != torch.bfloat16 or shape.T % TILE or shape.N % TILE:
        return False
    return shape.D in (64, 128, 256) and _hopper_available(x.device)


@functools.cache
def _hopper_available(device: torch.device) -> bool:
    if torch.cuda.get_device_capability(device)[0] != 9:
        return False
    try:
        _hopper().probe(device)
    except Exception as problem:  # Gluon is young: whatever another version of it says, there are other programs
        reason = (str(problem).splitlines() or [type(problem).__name__])[0]
        _log.info("training without the programs for Hopper, which this triton does not run: %s", reason)
        return False
    return True


def _hopper() -> ModuleType:
    from bdh.kernels.training import hopper_launch

    return hopper_launch


def _rows(wanted: int, shape: PassShape) -> int:
    return fit(min(wanted, TILE), shape.T)


def _how(blocks: dict[str, int]) -> dict[str, int]:
    how = {"num_warps": blocks["warps"], "num_stages": blocks["stages"]}
    return how | {"maxnreg": blocks["registers"]} if "registers" in blocks else how


def settle(reads: Tensor, a: Tensor, shape: PassShape) -> Tensor:
    """See `reference.settle`."""
    scale = torch.empty(shape.H, shape.R, dtype=torch.float32, device=reads.device)
    M = fit(ROWS, shape.C)
    row_programs.settle_kernel[(shape.R // M, shape.H)](
        reads, a, scale, shape.R, a.stride(0), C=shape.C, H=shape.H, D=shape.D, BM=M, **_how_rows()
    )
    return scale


def settle_backward(gradient: Tensor, a: Tensor, scale: Tensor, shape: PassShape) -> Tensor:
    """See `reference.settle_backward`."""
    da = torch.empty_like(gradient)
    M = fit(ROWS, shape.R)
    row_programs.settle_backward_kernel[(shape.R // M, shape.H)](
        gradient, a, scale, da, shape.R, a.stride(0), D=shape.D, BM=M, **_how_rows()
    )
    return da


def answer(parts: Tensor, u: Tensor | None, v: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """See `reference.answer`."""
    P, R, D = parts.shape
    after, scales = torch.empty_like(parts[0]), torch.empty(2, R, dtype=torch.float32, device=parts.device)
    y = after if u is None else torch.empty_like(after)
    M = fit(ROWS, R)
    row_programs.answer_kernel[(R // M,)](
        parts, after if u is None else u, y, after, v, scales[0], scales[1], R,
        PARTS=P, D=D, BM=M, RESIDUAL=u is not None, **_how_rows(),
    )  # fmt: skip
    return after, y, scales[0], scales[1]


def answer_backward(
    du: Tensor, parts: Tensor | None, reads: Tensor | None, y: Tensor, after: Tensor, y_scale: Tensor, scale: Tensor,
    residual: bool, dy: Tensor,
) -> Tensor:  # fmt: skip
    """See `reference.answer_backward`."""
    R, D = du.shape
    dv = torch.empty_like(du) if residual else torch.zeros_like(du)
    M = fit(ROWS, R)
    row_programs.answer_backward_kernel[(R // M,)](
        du, du if parts is None else parts, du if reads is None else reads, y, after, y_scale, scale, dv, dy, R,
        PARTS=0 if parts is None else len(parts), D=D, BM=M, RESIDUAL=residual, **_how_rows(),
    )  # fmt: skip
    return dv


def _how_rows() -> dict[str, int]:
    return {"num_warps": BLOCKS["norms"]["warps"], "num_stages": BLOCKS["norms"]["stages"]}
