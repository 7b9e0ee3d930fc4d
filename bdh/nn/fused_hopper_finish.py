"""What `fused_hopper` does with a tile when its product is there, by KIND; importing this file needs triton's Gluon."""

# The arguments of a program are pointers and numbers of the device, which Python's types do not describe.
# ruff: noqa: ANN001, ANN201, SIM109
# mypy: disallow-untyped-defs=False

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, mbarrier, tma

ENCODE = gl.constexpr(0)
GATE = gl.constexpr(1)
GRADIENT = gl.constexpr(2)
TURN_BACK = gl.constexpr(3)
STATE_BACK = gl.constexpr(4)


@gluon.jit
def rounds(z):
    """As `fused_kernels.rounds`."""
    z = (z ^ (z >> 16)) * 0x7FEB352D
    return (z ^ (z >> 15)) * 0x846CA68B


@gluon.jit
def keys(index, step: gl.constexpr, seed):
    """As `fused_kernels.keys`."""
    z = rounds(index.to(gl.uint32) * step + seed.to(gl.uint32))
    return z ^ (z >> 16)


@gluon.jit
def reciprocal(x):
    """1/x to about 2^-23, finite for every x of at least 0."""
    return gl.inline_asm_elementwise(
        "rcp.approx.ftz.f32 $0, $1;", "=f,f", [gl.maximum(x, 1e-37)], dtype=gl.float32, is_pure=True, pack=1
    )


@gluon.jit
def turned(x, turn, SENSE: gl.constexpr, CM: gl.constexpr, BN: gl.constexpr, layout: gl.constexpr):
    """Pairs of x (CM,BN) turned by the angles whose cosine and sine stand at the places of their two neurons."""
    even, odd = x.reshape([CM, BN // 2, 2]).split()
    cos, sin = turn.to(gl.float16, bitcast=True).to(gl.float32).reshape([CM, BN // 2, 2]).split()
    sin = sin * SENSE
    both = gl.join(even * cos - odd * sin, odd * cos + even * sin)
    return gl.convert_layout(both.reshape([CM, BN]), layout)


@gluon.jit
def finish(
    acc, i, total, GROUP: gl.constexpr, first_out, second_out, first_ring, second_ring, full, free,
    row, column, row_keys, pairs, seed, extra_ptr, scale, layout: gl.constexpr,
    KIND: gl.constexpr, BN: gl.constexpr, CM: gl.constexpr, SLOTS: gl.constexpr,
    THRESHOLD: gl.constexpr, MARK: gl.constexpr, SUMS: gl.constexpr,
):  # fmt: skip
    """What follows the product with tile i."""
    own = GROUP * SLOTS + i % SLOTS
    mbarrier.wait(full.index(own), (i // SLOTS) & 1)
    first = first_ring.index(own).load(layout)
    if KIND == ENCODE:
        x = gl.maximum(acc, 0.0).to(gl.bfloat16)
        second_ring.index(own).store(x)
        x = x.to(gl.float32)
        first_ring.index(own).store(turned(x, first, 1.0, CM, BN, layout).to(gl.bfloat16))
        if SUMS:
            total += x
    elif KIND == GATE:
        g = gl.maximum(acc, 0.0) * gl.abs(first.to(gl.float32))
        if THRESHOLD > 0:
            pair_keys = keys(column // 2 + pairs, 0x85EBCA77, seed)
            z = rounds(row_keys[:, None] + pair_keys[None, :])
            draw = gl.join(z >> 16, (z ^ (z >> 16)) & 0xFFFF).reshape([CM, BN])
            g = gl.where(gl.convert_layout(draw, layout) >= THRESHOLD, g * scale, 0.0)
        first_ring.index(own).store(g.to(gl.bfloat16))
    elif KIND == GRADIENT:
        x = gl.abs(first.to(gl.float32))
        g = second_ring.index(own).load(layout).to(gl.float32)
        live = g > 0.0
        first_ring.index(own).store(gl.where(live, acc * x * scale, 0.0).to(gl.bfloat16))
        dx = gl.where(live, acc * (g * reciprocal(x)), 0.0)
        if MARK:
            dx = gl.where(x > 0.0, dx, float("nan"))
        second_ring.index(own).store(dx.to(gl.bfloat16))
    else:
        turn = second_ring.index(own).load(layout)
        direct = first.to(gl.float32)
        dx = turned(acc, turn, -1.0, CM, BN, layout) + direct
        if SUMS:
            dx += gl.load(extra_ptr)
        if KIND == TURN_BACK:
            dx = gl.where(direct == direct, dx, 0.0)
        first_ring.index(own).store(dx.to(gl.bfloat16))
    fence_async_shared()
    tma.async_copy_shared_to_global(first_out, [row, column], first_ring.index(own))
    if KIND == ENCODE or KIND == GRADIENT:
        tma.async_copy_shared_to_global(second_out, [row, column], second_ring.index(own))
    return total
