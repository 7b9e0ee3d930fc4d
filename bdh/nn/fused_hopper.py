"""One program for Hopper GPUs (Gluon) behind four fused steps: tiles stream past rows that stay in shared memory.

A program holds 2*CM rows of the left operand and walks over COLUMNS neurons of one head, BN at a time. One warp feeds
tiles through rings in shared memory; two groups of four warps multiply and finish CM rows each, so that the end of one
group's tile (rotation, gate, stores) overlaps with the other group's product. Finished tiles are written over tiles
that they were made of and leave by asynchronous copies. What is finished how is its KIND:

    encode      x = relu(v E), q = rope(x)            left v    right E    first: turns -> q    second: x (out only)
    gate        g = |x| relu(a V) m                   left a    right V    first: x -> g
    gradient    dys, dx of `fused_forms.gradient`                          first: x -> dys      second: g -> dx
                                                      left dy   right W^T
    turn_back   dx of `fused_forms.activity`          left p    right q    first: dx -> dx      second: turns (in only)
    state_back  what states add to dx before that     left da, v           as turn_back
                                                      right rho^T, drho^T

Rotary pairs are neighbours, so both ends of a pair are in one thread. Conventions as in `fused_kernels`.
"""

# The arguments of a program are pointers and numbers of the device, which Python's types do not describe.
# ruff: noqa: ANN001, ANN201, RUF005, SIM109
# mypy: disallow-untyped-defs=False

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)

from bdh.nn.fused_hopper_finish import ENCODE, GATE, GRADIENT, STATE_BACK, TURN_BACK, finish, keys


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
