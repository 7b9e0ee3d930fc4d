"""Triton programs of one decoding step; importing this file needs triton. `bdh.decoding.plain` is their definition.

Pairs of neurons (2p, 2p+1), which rotate together, are the unit of work: weights come with the two halves apart
(H,2,DP,PP), and the state has their rows side by side. `encode` lists the pairs that are active, tile by tile; `read`
fetches the rows of those pairs and of no others.

Letters: B streams, H heads, P pairs, D embedding, C places of the window, S splits of a head's tiles, G groups of
tiles; DP and PP are padded to a power of two and to whole tiles. Strides are in elements.
"""

# The arguments of a Triton program are pointers and numbers of the device, which Python's types do not describe.
# ruff: noqa: ANN001, ANN201, ANN202
# mypy: disallow-untyped-defs=False

import triton
import triton.language as tl


@triton.jit
def begin(tokens, position, embed, frequency, x, cos, sin, D, PP, DP: tl.constexpr, BLOCK: tl.constexpr):
    """x = embed[token]; cosine and sine of the phases of `bdh.nn.rope`. Launch without fusing of multiply and add."""
    b, block = tl.program_id(0), tl.program_id(1)
    place = tl.load(position + b)
    p = block * BLOCK + tl.arange(0, BLOCK)
    turns = tl.load(frequency + p, mask=p < PP, other=0)
    rounded = place.to(tl.float32) * (turns.to(tl.float32) * 2.2737367544323206e-13)
    rounded = rounded - tl.floor(rounded)
    exact = ((place * turns) & 4398046511103).to(tl.float32) * 2.2737367544323206e-13
    angle = tl.where(place < 16384, rounded, exact) * 6.283185307179586
    tl.store(cos + b * PP + p, tl.cos(angle), mask=p < PP)
    tl.store(sin + b * PP + p, tl.sin(angle), mask=p < PP)
    d = tl.arange(0, DP)
    if block == 0:
        row = tl.load(tokens + b) * D
        tl.store(x + b * DP + d, tl.load(embed + row + d, mask=d < D, other=0.0))


@triton.jit
def encode(
    x, encoder, cos, sin, xs, pair_list, even_list, odd_list, count, B, H, PP, TILES,
    DP: tl.constexpr, DK: tl.constexpr, BM: tl.constexpr, TILE: tl.constexpr, ACCUMULATE: tl.constexpr,
):  # fmt: skip
    """xs = relu(x encoder) (added to xs), its rotation, and the list of active pairs of one tile of BM streams."""
    tile, h = tl.program_id(0) % TILES, tl.program_id(0) // TILES
    b = tl.program_id(1) * BM + tl.arange(0, BM)
    p = tile * TILE + tl.arange(0, TILE)
    inside = (b < B)[:, None] & (p < PP)[None, :]
    even = tl.zeros((BM, TILE), tl.float32)
    odd = tl.zeros((BM, TILE), tl.float32)
    for k in range(0, DP, DK):
        d = k + tl.arange(0, DK)
        row = tl.load(x + b[:, None] * DP + d[None, :], mask=(b < B)[:, None], other=0.0).to(encoder.dtype.element_ty)
        at = encoder + (h * 2 * DP + d)[:, None] * PP + p[None, :]
        even = tl.dot(row, tl.load(at), even, input_precision="ieee")
        odd = tl.dot(row, tl.load(at + DP * PP), odd, input_precision="ieee")
    even, odd = tl.maximum(even, 0.0), tl.maximum(odd, 0.0)
    xs_at = xs + (b[:, None] * H + h) * 2 * PP + p[None, :]
    if ACCUMULATE:
        even += tl.load(xs_at, mask=inside, other=0.0).to(tl.float32)
        odd += tl.load(xs_at + PP, mask=inside, other=0.0).to(tl.float32)
    even, odd = even.to(xs.dtype.element_ty), odd.to(xs.dtype.element_ty)
    tl.store(xs_at, even, mask=inside)
    tl.store(xs_at + PP, odd, mask=inside)
    even, odd = even.to(tl.float32), odd.to(tl.float32)
    c = tl.load(cos + b[:, None] * PP + p[None, :], mask=inside, other=0.0)
    s = tl.load(sin + b[:, None] * PP + p[None, :], mask=inside, other=0.0)
    active = ((even > 0.0) | (odd > 0.0)) & inside
    number = active.to(tl.int32)
    place = tl.cumsum(number, 1) - number
    at = (b[:, None] * H + h) * PP + tile * TILE + place
    tl.store(pair_list + at, tl.broadcast_to(p[None, :], (BM, TILE)), mask=active)
    tl.store(even_list + at, (even * c - odd * s).to(even_list.dtype.element_ty), mask=active)
    tl.store(odd_list + at, (odd * c + even * s).to(odd_list.dtype.element_ty), mask=active)
    tl.store(count + (b * H + h) * TILES + tile, tl.sum(number, 1), mask=b < B)


@triton.jit
def read(
    high, window_q, pair_list, even_list, odd_list, count, filled, partial, state_stride, window_stride,
    H, P, PP, D, TILES,
    DP: tl.constexpr, C: tl.constexpr, S: tl.constexpr, PER: tl.constexpr, ROWS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Sums of q * (state row | window row) over the active pairs of PER tiles; q itself goes into the window.

    The list entries of the next rows are fetched while these rows are on their way.
    """
    b, h, s = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2)
    tile = s * PER + tl.arange(0, PER)
    counts = tl.load(count + (b * H + h) * TILES + tile, mask=tile < TILES, other=0)
    starts = tl.cumsum(counts, 0) - counts
    total = tl.sum(counts, 0)
    waiting = tl.load(filled + b)
    d, c, r = tl.arange(0, DP), tl.arange(0, C), tl.arange(0, ROWS)
    read_DP = tl.zeros((ROWS, DP), tl.float32)
    read_C = tl.zeros((ROWS, C), tl.float32)
    before = (c < waiting)[None, :]
    lists = (b * H + h) * PP + s * PER * TILE
    at = lists + _places(r, starts, TILE)
    real = r < total
    pair = tl.load(pair_list + at, mask=real, other=0).to(tl.int64)
    q_even, q_odd = tl.load(even_list + at, mask=real, other=0.0), tl.load(odd_list + at, mask=real, other=0.0)
    for first in range(0, total, ROWS):
        later = first + ROWS + r
        at = lists + _places(later, starts, TILE)
        next_pair = tl.load(pair_list + at, mask=later < total, other=0).to(tl.int64)
        next_even = tl.load(even_list + at, mask=later < total, other=0.0)
        next_odd = tl.load(odd_list + at, mask=later < total, other=0.0)
        real = first + r < total
        q0, q1 = q_even.to(tl.float32)[:, None], q_odd.to(tl.float32)[:, None]
        row = (h * P + pair) * 2
        in_row = real[:, None] & (d < D)[None, :]
        state_at = high + b * state_stride + row[:, None] * D + d[None, :]
        read_DP += q0 * tl.load(state_at, mask=in_row, other=0.0).to(tl.float32)
        read_DP += q1 * tl.load(state_at + D, mask=in_row, other=0.0).to(tl.float32)
        # Whole runs of 16 places, so that loads stay wide; this token's own place may be written while they run.
        in_row = real[:, None] & (c < (waiting + 15) // 16 * 16)[None, :]
        window_at = window_q + b * window_stride + row[:, None] * C + c[None, :]
        waits_even, waits_odd = (
            tl.load(window_at, mask=in_row, other=0.0),
            tl.load(window_at + C, mask=in_row, other=0.0),
        )
        read_C += tl.where(before, q0 * waits_even.to(tl.float32) + q1 * waits_odd.to(tl.float32), 0.0)
        write_at = window_q + b * window_stride + row * C + waiting
        tl.store(write_at, q_even, mask=real)
        tl.store(write_at + C, q_odd, mask=real)
        pair, q_even, q_odd = next_pair, next_even, next_odd
    out = partial + ((b * H + h) * S + s) * (DP + C)
    tl.store(out + d, tl.sum(read_DP, 0))
    tl.store(out + DP + c, tl.sum(read_C, 0))


@triton.jit
def _places(j, starts, TILE: tl.constexpr):
    """Where entry j of lists that begin at `starts`, one per tile, lies in tiles of TILE places."""
    reached = starts[None, :] <= j[:, None]
    its_tile = tl.sum(reached.to(tl.int32), 1) - 1
    return its_tile * TILE + j - tl.max(tl.where(reached, starts[None, :], 0), 1)


@triton.jit
def attend(
    partial, window_x, filled, x, a, x_stride, H, D,
    DP: tl.constexpr, C: tl.constexpr, S: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """a = ln(sum of the partial reads + scores window_x) of one stream and head; x goes into the window."""
    b, h = tl.program_id(0).to(tl.int64), tl.program_id(1)
    d, c, k = tl.arange(0, DP), tl.arange(0, C), tl.arange(0, BLOCK)
    waiting = tl.load(filled + b)
    sums_D = tl.zeros((BLOCK, DP), tl.float32)
    scores = tl.zeros((BLOCK, C), tl.float32)
    for first in range(0, S, BLOCK):
        at = partial + ((b * H + h) * S + first + k)[:, None] * (DP + C)
        sums_D += tl.load(at + d[None, :], mask=(first + k < S)[:, None], other=0.0)
        scores += tl.load(at + DP + c[None, :], mask=(first + k < S)[:, None], other=0.0)
    at = window_x + b * x_stride
    in_window = (c < waiting)[:, None] & (d < D)[None, :]
    x_CD = tl.load(at + c[:, None] * D + d[None, :], mask=in_window, other=0.0).to(tl.float32)
    sum_D = tl.sum(sums_D, 0) + tl.sum(tl.sum(scores, 0)[:, None] * x_CD, 0)
    tl.store(a + (b * H + h) * DP + d, _normalize(sum_D, d, D).to(a.dtype.element_ty))
    if h == 0:
        tl.store(at + waiting * D + d, tl.load(x + b * DP + d).to(window_x.dtype.element_ty), mask=d < D)


@triton.jit
def gate(
    a, encoder_v, decoder, xs, partial, B, H, PP, TILES, G,
    DP: tl.constexpr, BM: tl.constexpr, PER: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Share of y = (xs * relu(a encoder_v)) decoder that PER tiles of one head give, for BM streams."""
    h, g = tl.program_id(0) // G, tl.program_id(0) % G
    b = tl.program_id(1) * BM + tl.arange(0, BM)
    d = tl.arange(0, DP)
    here = (b < B)[:, None]
    a_BD = tl.load(a + (b[:, None] * H + h) * DP + d[None, :], mask=here, other=0.0)
    y_BD = tl.zeros((BM, DP), tl.float32)
    for tile in range(g * PER, tl.minimum(g * PER + PER, TILES)):
        p = tile * TILE + tl.arange(0, TILE)
        for half in tl.static_range(2):
            weights = tl.load(encoder_v + ((h * 2 + half) * DP + d)[:, None] * PP + p[None, :])
            ys = tl.maximum(tl.dot(a_BD, weights, input_precision="ieee"), 0.0)
            at = xs + ((b[:, None] * H + h) * 2 + half) * PP + p[None, :]
            gated = ys * tl.load(at, mask=here, other=0.0).to(tl.float32)
            rows = tl.load(decoder + ((h * 2 + half) * PP + p)[:, None] * DP + d[None, :])
            y_BD = tl.dot(gated.to(rows.dtype), rows, y_BD, input_precision="ieee")
    at = partial + (tl.program_id(0) * B + b)[:, None] * DP + d[None, :]
    tl.store(at, y_BD, mask=here)


@triton.jit
def mix(partial, x, B, D, PARTS, DP: tl.constexpr, BLOCK: tl.constexpr, RESIDUAL: tl.constexpr):
    """x = ln(x + ln(y)), or ln(y) without a residual path, y the sum of its parts; one stream."""
    b = tl.program_id(0)
    d, k = tl.arange(0, DP), tl.arange(0, BLOCK)
    parts = tl.zeros((BLOCK, DP), tl.float32)
    for first in range(0, PARTS, BLOCK):
        at = partial + ((first + k) * B + b)[:, None] * DP + d[None, :]
        parts += tl.load(at, mask=(first + k < PARTS)[:, None], other=0.0)
    y_D = _normalize(tl.sum(parts, 0), d, D)
    if RESIDUAL:
        y_D = _normalize(tl.load(x + b * DP + d) + y_D, d, D)
    tl.store(x + b * DP + d, y_D)


@triton.jit
def _normalize(z, d, D):
    """Layer norm over the first D entries, 0 beyond."""
    centred = tl.where(d < D, z - tl.sum(tl.where(d < D, z, 0.0), 0) / D, 0.0)
    return centred / tl.sqrt(tl.sum(centred * centred, 0) / D + 1e-5)


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
