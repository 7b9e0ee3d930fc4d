"""Runs the programs of `hopper` and `hopper_states`; functions as in `reference`. Importing needs Gluon."""

from __future__ import annotations

import torch
from torch import Tensor
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from bdh.kernels.training import hopper as programs
from bdh.kernels.training import hopper_states as state_programs
from bdh.kernels.training.reference import Mask
from bdh.kernels.training.shape import TILE, PassShape, Tuning

GROUP_ROWS = TILE // 2
ENOUGH_PROGRAMS = 112
LARGEST_SEGMENT = 512
REGISTERS = 168
STATE_STEP = 64


def probe(device: torch.device) -> None:
    """One small step; raises whatever the compiler says."""
    shape = PassShape(1, TILE, TILE, 64, 1, TILE)
    rows, wide = (torch.zeros(TILE, size, dtype=torch.bfloat16, device=device) for size in (64, TILE))
    E = torch.zeros(64, TILE, dtype=torch.bfloat16, device=device)
    encode(rows, E, wide.half(), wide.clone(), wide, False, shape, Tuning())
    torch.cuda.synchronize(device)


def encode(
    v: Tensor, E: Tensor, turns: Tensor, x: Tensor, q: Tensor, sums: bool, shape: PassShape, tuning: Tuning
) -> Tensor | None:
    """x = relu(v E) and q = rope(x); the sum of x if `sums`."""
    partial = torch.empty(2 * shape.R * shape.HN // (TILE * 16), device=v.device) if sums else v
    grid = _stream(
        "encode", v, E, turns.view(v.dtype), q, q, x, partial, shape, tuning, programs.ENCODE.value, sums=sums
    )
    return partial[: 2 * grid[0] * grid[1]].sum() if sums else None


def gate(
    x: Tensor, a: Tensor, V: Tensor, mask: Mask, draw: Tensor, g: Tensor, shape: PassShape, tuning: Tuning
) -> None:  # fmt: skip
    """See `reference.gate`."""
    rows = torch.as_strided(a, ((shape.H - 1) * (a.stride(0) // shape.D) + shape.R, shape.D), (shape.D, 1))
    _stream(
        "gate", rows, V, x, x, g, g, draw, shape, tuning, programs.GATE.value, a.stride(0) // shape.D, mask.threshold,
        scale=mask.scale,
    )  # fmt: skip


def gradient(
    x: Tensor, g: Tensor, dy: Tensor, W: Tensor, scale: float, dys: Tensor, dx: Tensor, mark: bool,
    shape: PassShape, tuning: Tuning,
) -> None:  # fmt: skip
    """See `reference.gradient`."""
    _stream("gradient", dy, W, x, g, dys, dx, x, shape, tuning, programs.GRADIENT.value, mark=mark, scale=scale)


def segment_fits(shape: PassShape) -> bool:
    """Whether `activity` can hold a segment's rows of p."""
    return shape.C % TILE == 0 and shape.C <= LARGEST_SEGMENT


def activity(
    p: Tensor, q: Tensor, dx: Tensor, turns: Tensor, l1: Tensor | None,
    states: tuple[Tensor, Tensor, Tensor, Tensor] | None, shape: PassShape, tuning: Tuning,
) -> None:  # fmt: skip
    """See `reference.activity`, without carried activations; what states give is added to dx first."""
    turns = turns.view(q.dtype)
    if states is not None:
        da, v, rho, drho = (tensor.view(-1, shape.D) for tensor in states)
        _stream(
            "activity", da, rho, dx, turns, dx, dx, q, shape, tuning, programs.STATE_BACK.value, shape.R,
            others=(v, drho),
        )  # fmt: skip
    _stream(
        "activity", p.view(-1, shape.C), q, dx, turns, dx, dx, q if l1 is None else l1,
        shape, tuning, programs.TURN_BACK.value, sums=l1 is not None,
    )  # fmt: skip


def states(q: Tensor, u: Tensor, backward: bool, shape: PassShape) -> Tensor:
    """See `reference.states`."""
    rho = torch.empty(shape.segments, shape.HN, shape.D, dtype=q.dtype, device=q.device)
    own = [GROUP_ROWS, shape.D]
    state_programs.states_kernel[(shape.HN // TILE, shape.B)](
        _tiles(q, [STATE_STEP, GROUP_ROWS]), _tiles(u.view(-1, shape.D), [STATE_STEP, shape.D]),
        _tiles(rho.view(-1, shape.D), own), shape.T, shape.R if u.ndim == 3 else 0,
        SEGMENTS=shape.T // shape.C, C=shape.C, D=shape.D, N=shape.N, HN=shape.HN, BK=STATE_STEP, BM=GROUP_ROWS,
        SLOTS=3, BACKWARD=backward, REGISTERS=REGISTERS, num_warps=4,
    )  # fmt: skip
    return rho


def _stream(
    name: str, left: Tensor, right: Tensor, first: Tensor, second: Tensor, first_out: Tensor, second_out: Tensor,
    extra: Tensor, shape: PassShape, tuning: Tuning, kind: int, head_rows: int = 0, threshold: int = 0,
    mark: bool = False, sums: bool = False, scale: float = 1.0, others: tuple[Tensor, Tensor] | None = None,
) -> tuple[int, int]:  # fmt: skip
    """Launch one kind of step; returns the grid."""
    b = tuning.stream(name)
    depth = {programs.TURN_BACK.value: shape.C, programs.STATE_BACK.value: 2 * shape.D}.get(kind, shape.D)
    K = shape.D if others else next(size for size in (256, 128, 64) if depth % size == 0)
    N, columns = b["N"], shape.N
    while shape.R // TILE * (shape.HN // columns) < ENOUGH_PROGRAMS and columns % (2 * N) == 0 and columns > 8 * N:
        columns //= 2
    grid = (shape.R // TILE, shape.HN // columns)
    own = [GROUP_ROWS, N]
    right_tile = [N, K] if kind in (programs.GRADIENT.value, programs.STATE_BACK.value) else [K, N]
    left_other, right_other = others or (left, right)
    programs.stream_kernel[grid](
        _tiles(left, [GROUP_ROWS, K]), _tiles(left_other, [GROUP_ROWS, K]),
        _tiles(right, right_tile), _tiles(right_other, right_tile), _tiles(first, own), _tiles(second, own),
        _tiles(first_out, own), _tiles(second_out, own), extra, head_rows, shape.T, scale,
        KIND=kind, H=shape.H, N=shape.N, C=shape.C, COLUMNS=columns, CHUNKS=depth // K, BK=K, BN=N, CM=GROUP_ROWS,
        B_SLOTS=b["right"], SLOTS=b["own"] if depth > K else max(b["own"], 2),
        THRESHOLD=threshold, MARK=mark, SUMS=sums, REGISTERS=REGISTERS, num_warps=4,
    )  # fmt: skip
    return grid


def _tiles(tensor: Tensor, block: list[int]) -> TensorDescriptor:
    layout = gl.NVMMASharedLayout.get_default_for(block, gl.bfloat16)
    return TensorDescriptor(tensor, list(tensor.shape), list(tensor.stride()), block, layout)
