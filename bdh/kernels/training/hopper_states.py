"""Writing the states between segments on Hopper GPUs (Gluon); importing this file needs triton's Gluon.

Launched by `hopper_launch`; `reference.states` is the definition. A program keeps the states of 2*BM = 128 neurons of
one head in registers, two groups of four warps BM each (`add_up`), while one warp (`feed`) lets the tokens of a stream
pass by in a ring in shared memory, BK at a time; states are written down before every segment. Barriers: see `hopper`.

| operand (TMA descriptor, bfloat16, row-major) | matrix | tile |
|---|---|---|
| q | R,HN | BK,BM; two side by side per slot of the ring, one for each group |
| u | R,D, or H*R,D with `head_rows` = R | BK,D |
| rho | S*HN,D | BM,D |
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

from bdh.kernels.training.hopper import barriers

# The arguments of a program are pointers and numbers of the device, which Python's types do not describe.
# ruff: noqa: ANN001, ANN201, RUF005
# mypy: disallow-untyped-defs=False


@gluon.jit
def feed(
    q_desc, u_desc, q_ring, u_ring, full, free, q_row, u_row, column,
    SEGMENTS: gl.constexpr, C: gl.constexpr, BK: gl.constexpr, BM: gl.constexpr, SLOTS: gl.constexpr,
    BACKWARD: gl.constexpr,
):  # fmt: skip
    """BK tokens at a time of q, one tile per group, and of u; the last segment adds to no state."""
    per: gl.constexpr = C // BK
    for step in range((SEGMENTS - 1) * per):
        segment = step // per
        if BACKWARD:
            segment = SEGMENTS - 1 - segment
        row = segment * C + step % per * BK
        slot = step % SLOTS
        mbarrier.wait(free.index(slot), ((step // SLOTS) & 1) ^ 1)
        mbarrier.expect(full.index(slot), 2 * q_desc.block_type.nbytes + u_desc.block_type.nbytes)
        tma.async_copy_global_to_shared(q_desc, [q_row + row, column], full.index(slot), q_ring.index(2 * slot))
        tma.async_copy_global_to_shared(
            q_desc, [q_row + row, column + BM], full.index(slot), q_ring.index(2 * slot + 1)
        )
        tma.async_copy_global_to_shared(u_desc, [u_row + row, 0], full.index(slot), u_ring.index(slot))


@gluon.jit
def add_up(
    GROUP: gl.constexpr, rho_desc, q_ring, u_ring, out_tiles, full, free, rho_row,
    SEGMENTS: gl.constexpr, C: gl.constexpr, D: gl.constexpr, HN: gl.constexpr, BK: gl.constexpr, BM: gl.constexpr,
    SLOTS: gl.constexpr, BACKWARD: gl.constexpr,
):  # fmt: skip
    """The states of BM neurons, written before every segment (BACKWARD: from the end)."""
    layout: gl.constexpr = gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, D, 16])
    per: gl.constexpr = C // BK
    out = out_tiles.index(GROUP)
    acc = gl.zeros([BM, D], gl.float32, layout)
    for turn in range(SEGMENTS):
        segment = turn
        if BACKWARD:
            segment = SEGMENTS - 1 - turn
        # Write the state before this segment, once the copy of the one before it has left the tile.
        tma.store_wait(0)
        out.store(acc.to(gl.bfloat16))
        fence_async_shared()
        tma.async_copy_shared_to_global(rho_desc, [rho_row + segment * HN + GROUP * BM, 0], out)
        # rho += q^T u over the segment; the last one adds to no state.
        if turn < SEGMENTS - 1:
            for k in range(per):
                step = turn * per + k
                slot = step % SLOTS
                mbarrier.wait(full.index(slot), (step // SLOTS) & 1)
                q = q_ring.index(2 * slot + GROUP).permute((1, 0))
                acc = warpgroup_mma(q, u_ring.index(slot), acc, is_async=True)
                acc = warpgroup_mma_wait(0, deps=[acc])
                mbarrier.arrive(free.index(slot), count=1)
    tma.store_wait(0)


@gluon.jit
def states_kernel(
    q_desc, u_desc, rho_desc, T, head_rows,
    SEGMENTS: gl.constexpr, C: gl.constexpr, D: gl.constexpr, N: gl.constexpr, HN: gl.constexpr, BK: gl.constexpr,
    BM: gl.constexpr, SLOTS: gl.constexpr, BACKWARD: gl.constexpr, REGISTERS: gl.constexpr,
):  # fmt: skip
    """2*BM neurons of one stream of T tokens; head_rows: rows of u from head to head (0: the same for all)."""
    # Shared memory: rings of q and u, one tile per group on its way out, and barriers.
    column, stream = gl.program_id(0) * (2 * BM), gl.program_id(1)
    q_ring = gl.allocate_shared_memory(gl.bfloat16, [2 * SLOTS] + q_desc.block_type.shape, q_desc.layout)
    u_ring = gl.allocate_shared_memory(gl.bfloat16, [SLOTS] + u_desc.block_type.shape, u_desc.layout)
    out_tiles = gl.allocate_shared_memory(gl.bfloat16, [2] + rho_desc.block_type.shape, rho_desc.layout)
    full, free = barriers(SLOTS, 1), barriers(SLOTS, 2)
    fence_async_shared()
    # Where this program's tiles stand in their matrices; then each role on its warps.
    q_row = stream * T
    u_row = column // N * head_rows + q_row
    rho_row = stream * (SEGMENTS * HN) + column
    gl.warp_specialize(
        [
            (add_up, (
                0, rho_desc, q_ring, u_ring, out_tiles, full, free, rho_row,
                SEGMENTS, C, D, HN, BK, BM, SLOTS, BACKWARD)),
            (add_up, (
                1, rho_desc, q_ring, u_ring, out_tiles, full, free, rho_row,
                SEGMENTS, C, D, HN, BK, BM, SLOTS, BACKWARD)),
            (feed, (
                q_desc, u_desc, q_ring, u_ring, full, free, q_row, u_row, column,
                SEGMENTS, C, BK, BM, SLOTS, BACKWARD)),
        ],
        [4, 1],
        [REGISTERS, 24],
    )  # fmt: skip
