"""One program for Hopper GPUs (Gluon) behind four large steps: tiles stream past rows that stay in shared memory.

Importing this file needs triton's Gluon; launched by `hopper_launch`. A program holds 2*CM rows of the left operand and
walks over COLUMNS neurons of one head, BN at a time. Its warps have three roles that meet in barriers alone:

    walk (two groups of four warps)   multiply and finish CM rows each, so that the end of one group's tile (rotation,
                                      gate, stores) overlaps with the other group's product
    feed_right (one warp)             brings tiles of the right operand, which both groups use, into a ring
    feed_own (one warp)               brings the tiles that each group finishes into rings of its own

A ring has slots; slot i % SLOTS holds tile i. `full` opens when a tile has arrived, `free` when it may be overwritten;
each opens once per round of the ring, and the phase that is waited for is the parity of the round. Finished tiles are
written over tiles that they were made of and leave by asynchronous copies. What is finished how is the KIND:

    encode      x = relu(v E), q = rope(x)            left v      right E    first: turns -> q   second: x (out only)
    gate        g = |x| relu(a V) m                   left a      right V    first: x -> g
    gradient    dys, dx of `reference.gradient`       left dy     right W^T  first: x -> dys     second: g -> dx
    turn_back   dx of `reference.activity`            left p      right q    first: dx -> dx     second: turns (in only)
    state_back  what states add to dx before that     left da, v  right rho^T, drho^T            as turn_back

Operands are TMA descriptors of bfloat16 matrices, row-major, whose tiles are swizzled in shared memory (the default
NVMMA layout of their size). Sizes as in `triton`:

| operand | matrix | tile |
|---|---|---|
| a (left), a_other | R,D; H*R,D; S*H*C,C (p) | CM,BK: CHUNKS of them side by side are the whole depth |
| b (right), b_other | D,HN; HN,D; R,HN (q); S*HN,D | BK,BN, or BN,BK where it is used transposed |
| first, second and their outputs | R,HN, or T,N for turns (float16 bits) | CM,BN |
| extra | by KIND, see `stream_kernel` | a plain pointer |

Rotary pairs are neighbouring columns, so both ends of a pair are in one thread.
"""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)

# The arguments of a program are pointers and numbers of the device, which Python's types do not describe.
# ruff: noqa: ANN001, ANN201, RUF005, SIM109
# mypy: disallow-untyped-defs=False


ENCODE = gl.constexpr(0)
GATE = gl.constexpr(1)
GRADIENT = gl.constexpr(2)
TURN_BACK = gl.constexpr(3)
STATE_BACK = gl.constexpr(4)


@gluon.jit
def rounds(z):
    """As `triton.rounds`."""
    z = (z ^ (z >> 16)) * 0x7FEB352D
    return (z ^ (z >> 15)) * 0x846CA68B


@gluon.jit
def keys(index, step: gl.constexpr, seed):
    """As `triton.keys`."""
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
    """What follows the product with tile i: by KIND, then out."""
    # The tile of `first` has to be there; it stands in the slot that the result will take.
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
    # Writes to shared memory become visible to the copy engine, which takes the tile away.
    fence_async_shared()
    tma.async_copy_shared_to_global(first_out, [row, column], first_ring.index(own))
    if KIND == ENCODE or KIND == GRADIENT:
        tma.async_copy_shared_to_global(second_out, [row, column], second_ring.index(own))
    return total


@gluon.jit
def barriers(COUNT: gl.constexpr, ARRIVALS: gl.constexpr):
    """COUNT barriers that open after ARRIVALS arrivals."""
    made = gl.allocate_shared_memory(gl.int64, [COUNT, 1], mbarrier.MBarrierLayout())
    for i in gl.static_range(COUNT):
        mbarrier.init(made.index(i), count=ARRIVALS)
    return made


@gluon.jit
def feed_right(
    b_desc, other_desc, b_ring, b_full, b_free, b_row, b_column,
    KIND: gl.constexpr, TILES: gl.constexpr, CHUNKS: gl.constexpr, BK: gl.constexpr, BN: gl.constexpr,
    B_SLOTS: gl.constexpr,
):  # fmt: skip
    """Tiles of the right operand, which both groups use."""
    for i in range(TILES):
        for chunk in gl.static_range(CHUNKS):
            step = i * CHUNKS + chunk
            slot = step % B_SLOTS
            mbarrier.wait(b_free.index(slot), ((step // B_SLOTS) & 1) ^ 1)
            mbarrier.expect(b_full.index(slot), b_desc.block_type.nbytes)
            # W and rho are stored with neurons as rows: their tile is used transposed.
            if KIND == GRADIENT or KIND == STATE_BACK:
                at = [b_row + i * BN, 0]
            else:
                at = [b_row + chunk * BK, b_column + i * BN]
            if KIND == STATE_BACK and chunk == 1:
                tma.async_copy_global_to_shared(other_desc, at, b_full.index(slot), b_ring.index(slot))
            else:
                tma.async_copy_global_to_shared(b_desc, at, b_full.index(slot), b_ring.index(slot))


@gluon.jit
def feed_own(
    first_desc, second_desc, first_ring, second_ring, full, free, first_row, second_row, first_column, second_column,
    KIND: gl.constexpr, TILES: gl.constexpr, BN: gl.constexpr, CM: gl.constexpr, SLOTS: gl.constexpr,
):  # fmt: skip
    """The tiles that each group finishes."""
    part: gl.constexpr = first_desc.block_type.nbytes
    loads: gl.constexpr = 1 if KIND == ENCODE or KIND == GATE else 2
    for i in range(TILES):
        for group in gl.static_range(2):
            own = group * SLOTS + i % SLOTS
            mbarrier.wait(free.index(own), ((i // SLOTS) & 1) ^ 1)
            mbarrier.expect(full.index(own), loads * part)
            at = [first_row + group * CM, first_column + i * BN]
            tma.async_copy_global_to_shared(first_desc, at, full.index(own), first_ring.index(own))
            if loads == 2:
                at = [second_row + group * CM, second_column + i * BN]
                tma.async_copy_global_to_shared(second_desc, at, full.index(own), second_ring.index(own))


@gluon.jit
def walk(
    GROUP: gl.constexpr, a_tiles, a_full, first_out, second_out, b_ring, first_ring, second_ring,
    b_full, b_free, full, free, row0, column0, extra_ptr, scale,
    KIND: gl.constexpr, TILES: gl.constexpr, CHUNKS: gl.constexpr, BN: gl.constexpr, CM: gl.constexpr,
    B_SLOTS: gl.constexpr, SLOTS: gl.constexpr, THRESHOLD: gl.constexpr, MARK: gl.constexpr, SUMS: gl.constexpr,
):  # fmt: skip
    """All tiles of one group."""
    layout: gl.constexpr = gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, BN, 16])
    # Preparation: the layout of pairs, the keys of dropout of this group's rows, and its rows of the left operand.
    total = gl.zeros([CM, BN], gl.float32, layout)
    even, _ = total.reshape([CM, BN // 2, 2]).split()
    pair_layout: gl.constexpr = even.type.layout
    row = row0 + GROUP * CM
    seed, token0 = 0, 0
    if THRESHOLD > 0:
        seed, token0 = gl.load(extra_ptr), gl.load(extra_ptr + 1)
    row_keys = keys(token0 + row + gl.arange(0, CM, layout=gl.SliceLayout(1, pair_layout)), 0x9E3779B1, seed)
    pairs = gl.arange(0, BN // 2, layout=gl.SliceLayout(0, pair_layout))
    mbarrier.wait(a_full, 0)
    if CHUNKS == 1:
        a = a_tiles.index(GROUP).load(gl.DotOperandLayout(0, layout, 2))
    # Tile after tile of the right operand.
    for i in range(TILES):
        acc = gl.zeros([CM, BN], gl.float32, layout)
        for chunk in gl.static_range(CHUNKS):
            step = i * CHUNKS + chunk
            slot = step % B_SLOTS
            mbarrier.wait(b_full.index(slot), (step // B_SLOTS) & 1)
            b = b_ring.index(slot)
            if KIND == GRADIENT or KIND == STATE_BACK:
                b = b.permute((1, 0))
            if CHUNKS > 1:
                a = a_tiles.index(GROUP * CHUNKS + chunk)
            acc = warpgroup_mma(a, b, acc, use_acc=chunk > 0, is_async=True)
            # While the product runs: the tile finished last has left by now, its slot is free for the next one.
            if chunk == 0:
                tma.store_wait(0)
                mbarrier.arrive(free.index(GROUP * SLOTS + (i + SLOTS - 1) % SLOTS), count=1, pred=i > 0)
            acc = warpgroup_mma_wait(0, deps=[acc])
            mbarrier.arrive(b_free.index(slot), count=1)
        total = finish(
            acc, i, total, GROUP, first_out, second_out, first_ring, second_ring, full, free,
            row, column0 + i * BN, row_keys, pairs, seed, extra_ptr, scale, layout,
            KIND, BN, CM, SLOTS, THRESHOLD, MARK, SUMS,
        )  # fmt: skip
    # Let the last copies end, and leave the group's sum of x.
    tma.store_wait(0)
    if SUMS and KIND == ENCODE:
        at = (gl.program_id(0) * gl.num_programs(1) + gl.program_id(1)) * 2 + GROUP
        gl.store(extra_ptr + at, gl.sum(gl.sum(total, 1), 0))


@gluon.jit
def stream_kernel(
    a_desc, a_other, b_desc, b_other, first_desc, second_desc, first_out, second_out, extra_ptr, R, T, scale,
    KIND: gl.constexpr, H: gl.constexpr, N: gl.constexpr, C: gl.constexpr, COLUMNS: gl.constexpr, CHUNKS: gl.constexpr,
    BK: gl.constexpr, BN: gl.constexpr, CM: gl.constexpr, B_SLOTS: gl.constexpr, SLOTS: gl.constexpr,
    THRESHOLD: gl.constexpr, MARK: gl.constexpr, SUMS: gl.constexpr, REGISTERS: gl.constexpr,
):  # fmt: skip
    """One KIND of step for 2*CM rows and COLUMNS neurons.

    R rows from head to head of the left operand, T per stream, C per segment. extra: seed and first row (GATE), room
    for sums (ENCODE), the gradient of the L1 term (TURN_BACK).
    """
    row0, column0 = gl.program_id(0) * (2 * CM), gl.program_id(1) * COLUMNS
    h = column0 // N
    # Shared memory: rows of the left operand for good, rings for the rest, and their barriers.
    a_tiles = gl.allocate_shared_memory(gl.bfloat16, [2 * CHUNKS] + a_desc.block_type.shape, a_desc.layout)
    b_ring = gl.allocate_shared_memory(gl.bfloat16, [B_SLOTS] + b_desc.block_type.shape, b_desc.layout)
    own: gl.constexpr = first_desc.block_type.shape
    first_ring = gl.allocate_shared_memory(gl.bfloat16, [2 * SLOTS] + own, first_desc.layout)
    if KIND == GATE:
        second_ring = first_ring
    else:
        second_ring = gl.allocate_shared_memory(gl.bfloat16, [2 * SLOTS] + own, first_desc.layout)
    a_full, b_full, b_free = barriers(1, 1), barriers(B_SLOTS, 1), barriers(B_SLOTS, 2)
    full, free = barriers(2 * SLOTS, 1), barriers(2 * SLOTS, 1)
    fence_async_shared()
    # Where this program's tiles stand in their matrices.
    a_row, b_row, b_column, turn_row = row0, 0, column0, row0 % T
    if KIND == GATE or KIND == STATE_BACK:
        a_row = h * R + row0
    if KIND == GRADIENT:
        b_row = column0
    if KIND == STATE_BACK:
        b_row = row0 // C * (H * N) + column0
    first_row, first_column, second_row, second_column = row0, column0, row0, column0
    if KIND == ENCODE:
        first_row, first_column = turn_row, column0 - h * N
    if KIND == TURN_BACK:
        a_row, b_row = row0 // C * (H * C) + h * C + row0 % C, row0 // C * C
    if KIND == TURN_BACK or KIND == STATE_BACK:
        second_row, second_column = turn_row, column0 - h * N
    # Fetch the rows of the left operand; one barrier opens when all of them are there.
    mbarrier.expect(a_full.index(0), 2 * CHUNKS * a_desc.block_type.nbytes)
    for group in gl.static_range(2):
        for chunk in gl.static_range(CHUNKS):
            tile = a_tiles.index(group * CHUNKS + chunk)
            if KIND == STATE_BACK and chunk == 1:
                tma.async_copy_global_to_shared(a_other, [row0 + group * CM, 0], a_full.index(0), tile)
            elif KIND == STATE_BACK:
                tma.async_copy_global_to_shared(a_desc, [a_row + group * CM, 0], a_full.index(0), tile)
            else:
                tma.async_copy_global_to_shared(a_desc, [a_row + group * CM, chunk * BK], a_full.index(0), tile)
    # The first function runs on the program's own four warps, the others on 4, 1 and 1 more, with so many registers.
    TILES: gl.constexpr = COLUMNS // BN
    gl.warp_specialize(
        [
            (walk, (
                0, a_tiles, a_full.index(0), first_out, second_out, b_ring, first_ring, second_ring,
                b_full, b_free, full, free, row0, column0, extra_ptr, scale,
                KIND, TILES, CHUNKS, BN, CM, B_SLOTS, SLOTS, THRESHOLD, MARK, SUMS)),
            (walk, (
                1, a_tiles, a_full.index(0), first_out, second_out, b_ring, first_ring, second_ring,
                b_full, b_free, full, free, row0, column0, extra_ptr, scale,
                KIND, TILES, CHUNKS, BN, CM, B_SLOTS, SLOTS, THRESHOLD, MARK, SUMS)),
            (feed_right, (
                b_desc, b_other, b_ring, b_full, b_free, b_row, b_column, KIND, TILES, CHUNKS, BK, BN, B_SLOTS)),
            (feed_own, (
                first_desc, second_desc, first_ring, second_ring, full, free,
                first_row, second_row, first_column, second_column, KIND, TILES, BN, CM, SLOTS)),
        ],
        [4, 1, 1],
        [REGISTERS, 24, 24],
    )  # fmt: skip
