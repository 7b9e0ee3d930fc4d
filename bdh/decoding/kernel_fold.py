"""The Triton program of `Memory.fold`; importing this file needs triton."""

# The arguments of a Triton program are pointers and numbers of the device, which Python's types do not describe.
# ruff: noqa: ANN001, ANN201
# mypy: disallow-untyped-defs=False

import triton
import triton.language as tl

ROWS = 32


@triton.jit
def fold(
    high, low, window_q, window_x, N, D, L, H,
    DP: tl.constexpr, C: tl.constexpr, ROWS: tl.constexpr, PLANES: tl.constexpr,
):  # fmt: skip
    """rho += window_q^T window_x for ROWS neurons of one stream, layer and head; rows that never fired are left."""
    layer, h, b = tl.program_id(1) // H, tl.program_id(1) % H, tl.program_id(2).to(tl.int64)
    n, d, c = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, DP), tl.arange(0, C)
    row = ((b * L + layer) * H + h) * N + n
    q_at = window_q + row[:, None] * C + c[None, :]
    q_NC = tl.load(q_at, mask=(n < N)[:, None], other=0.0)
    fired = tl.max(tl.abs(q_NC.to(tl.float32)), 1) > 0.0
    x_at = window_x + ((b * L + layer) * C + c)[:, None] * D + d[None, :]
    x_CD = tl.load(x_at, mask=(d < D)[None, :], other=0.0)
    added = tl.dot(q_NC, x_CD, input_precision="ieee")
    touched = fired[:, None] & (d < D)[None, :]
    at = row[:, None] * D + d[None, :]
    if PLANES:
        upper = tl.load(high + at, mask=touched, other=0.0).to(tl.int16, bitcast=True).to(tl.int32)
        lower = tl.load(low + at, mask=touched, other=0).to(tl.int32)
        rho = ((upper << 16) + lower).to(tl.float32, bitcast=True) + added
        bits = rho.to(tl.int32, bitcast=True)
        upper = (bits + 32768) >> 16
        tl.store(low + at, (bits - (upper << 16)).to(tl.int16), mask=touched)
        tl.store(high + at, upper.to(tl.int16).to(tl.bfloat16, bitcast=True), mask=touched)
    else:
        rho = tl.load(high + at, mask=touched, other=0.0) + added
        tl.store(high + at, rho, mask=touched)
    tl.store(q_at, tl.zeros((ROWS, C), q_NC.dtype), mask=fired[:, None] & (c < C)[None, :])
