"""A step of many streams: a token is embedded by `begin`, read by encode, read, gate and mix of every layer.

Triton programs and their launcher `ManyStreams`; importing this file needs triton. `bdh.kernels.decoding.reference` is
their definition. Pairs of neurons (2p, 2p+1), which rotate together, are the unit of reading: `read` lists the rows of
the pairs that are active and fetches those rows of the state and no others.

Letters: B streams, H heads, N neurons of a head, P pairs, D embedding, C places of the window, S splits of a head; DP,
NP and PP are padded to a power of two and to whole tiles. EARLY: a program may start before the one before it has
ended; it fetches nothing but weights until `wait`. Operands, all row-major; strides are in elements:

| operand | shape | dtype | |
|---|---|---|---|
| encoder, encoder_v, decoder | H,NP,DP | narrow | neurons first, so that a neuron's numbers are side by side |
| embed, lm_head | V,D; D,V | float32 | |
| frequency | PP | int64 | turns of a pair per token, in units of 2^-42 |
| x, x_narrow | B,DP | float32, narrow | the residual stream |
| cos, sin | B,PP | float32 | of the token's position |
| xs | B,H,NP | narrow | x_sparse of the layer |
| high, window_q, window_x | a layer of `Memory` | | `state_stride`, `window_stride`, `x_stride` between streams |
| rows, values | B,H,LIST | int32, float32 | neurons of active pairs and their q, each split in its own part |
| partial of `read` | B,H,S,DP+C | float32 | shares of what is read of the state, and scores with the window |
| arrived | B,H | int32 | counts the programs that are done; 0 between steps |
| a | B,H,DP | narrow | normed reads |
| partial of `gate` and `mix` | H*G,B,DP | float32 | shares of the answer |

Narrow: bfloat16, or float32. Sums are float32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import triton
import triton.language as tl

from bdh.kernels.decoding.common import FusedStep, SamplingSettings
from bdh.kernels.decoding.memory import DecodingWeights, Memory

# The arguments of a Triton program are pointers and numbers of the device, which Python's types do not describe.
# ruff: noqa: ANN001, ANN201
# mypy: disallow-untyped-defs=False


@triton.jit
def begin(
    tokens, position, embed, frequency, x, x_narrow, cos, sin, D, PP,
    DP: tl.constexpr, BLOCK: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """x = embed[token]; cosine and sine of the phases of `bdh.nn.rope`. Launch without fusing of multiply and add."""
    b, block = tl.program_id(0), tl.program_id(1)
    p, d = block * BLOCK + tl.arange(0, BLOCK), tl.arange(0, DP)
    wait(EARLY)
    angle = phase(tl.load(position + b), tl.load(frequency + p, mask=p < PP, other=0))
    tl.store(cos + b * PP + p, tl.cos(angle), mask=p < PP)
    tl.store(sin + b * PP + p, tl.sin(angle), mask=p < PP)
    if block == 0:
        x_D = tl.load(embed + tl.load(tokens + b) * D + d, mask=d < D, other=0.0)
        tl.store(x + b * DP + d, x_D)
        tl.store(x_narrow + b * DP + d, x_D.to(x_narrow.dtype.element_ty))


@triton.jit
def phase(place, turns):
    """Angles at position `place` of pairs that turn by `turns` 2^-42 turns per token."""
    rounded = place.to(tl.float32) * (turns.to(tl.float32) * 2.2737367544323206e-13)
    rounded = rounded - tl.floor(rounded)
    exact = ((place * turns) & 4398046511103).to(tl.float32) * 2.2737367544323206e-13
    return tl.where(place < 16384, rounded, exact) * 6.283185307179586


@triton.jit
def encode(
    x_narrow, encoder, xs, B, ROWS,
    DP: tl.constexpr, DK: tl.constexpr, BM: tl.constexpr, TILE: tl.constexpr, ACCUMULATE: tl.constexpr,
    EARLY: tl.constexpr,
):  # fmt: skip
    """xs = relu(x encoder), added to xs or not, of TILE of the ROWS neurons of all heads and BM streams."""
    n, b = tl.program_id(0) * TILE + tl.arange(0, TILE), tl.program_id(1) * BM + tl.arange(0, BM)
    here = (b < B)[:, None]
    prefetch(encoder + n[:, None] * DP + tl.arange(0, triton.cdiv(DP, 64))[None, :] * 64, EARLY)
    wait(EARLY)
    sums = tl.zeros((BM, TILE), tl.float32)
    for k in range(0, DP, DK):
        d = k + tl.arange(0, DK)
        x_BD = tl.load(x_narrow + b[:, None] * DP + d[None, :], mask=here, other=0.0)
        sums = tl.dot(x_BD, tl.load(encoder + n[None, :] * DP + d[:, None]), sums, input_precision="ieee")
    sums = tl.maximum(sums, 0.0)
    at = xs + b[:, None] * ROWS + n[None, :]
    if ACCUMULATE:
        sums += tl.load(at, mask=here, other=0.0).to(tl.float32)
    tl.store(at, sums.to(xs.dtype.element_ty), mask=here)


@triton.jit
def read(
    high, window_q, xs, cos, sin, filled, rows, values, partial, arrived, window_x, x, a,
    state_stride, window_stride, x_stride, H, N, NP, PP, LIST, D: tl.constexpr, DP: tl.constexpr, C: tl.constexpr,
    S: tl.constexpr, CHUNK: tl.constexpr, ROWS: tl.constexpr, STAGES: tl.constexpr, BLOCK: tl.constexpr,
    EARLY: tl.constexpr,
):  # fmt: skip
    """Sums of q * (state row | window row) over the active ones of CHUNK pairs, which enter the window.

    Their rows are listed first (`rows`, `values`, a place of the list for every neuron); then ROWS rows at a time are
    copied to shared memory while the groups of rows before them, up to STAGES - 1, are still on their way. Sums are
    matrix products with 16 equal columns. The last of the S programs of a stream and head to arrive attends.
    """
    s, h, b = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    p, d, c, r = s * CHUNK + tl.arange(0, CHUNK), tl.arange(0, DP), tl.arange(0, C), tl.arange(0, ROWS)
    wait(EARLY)
    # q of this program's pairs; they enter the window at the place of this token.
    waiting = tl.load(filled + b)
    state, window = high + b * state_stride + h * N * D, window_q + b * window_stride + h * N * C
    xs_at = xs + (b * H + h) * NP + 2 * p
    even = tl.load(xs_at, mask=2 * p < N, other=0.0).to(tl.float32)
    odd = tl.load(xs_at + 1, mask=2 * p < N, other=0.0).to(tl.float32)
    cosine, sine = tl.load(cos + b * PP + p, mask=p < PP, other=0.0), tl.load(sin + b * PP + p, mask=p < PP, other=0.0)
    active = (even > 0.0) | (odd > 0.0)
    q_even = (even * cosine - odd * sine).to(window_q.dtype.element_ty)
    q_odd = (odd * cosine + even * sine).to(window_q.dtype.element_ty)
    # List the neurons of active pairs; after the barrier all threads see the list.
    number = active.to(tl.int32)
    total = 2 * tl.sum(number, 0)
    lists = (b * H + h) * LIST + 2 * s * CHUNK
    at = lists + 2 * (tl.cumsum(number, 0) - number)
    tl.store(rows + at, 2 * p, mask=active)
    tl.store(rows + at + 1, 2 * p + 1, mask=active)
    tl.store(values + at, q_even.to(tl.float32), mask=active)
    tl.store(values + at + 1, q_odd.to(tl.float32), mask=active)
    tl.store(window + 2 * p * C + waiting, q_even, mask=active)
    tl.store(window + (2 * p + 1) * C + waiting, q_odd, mask=active)
    tl.debug_barrier()
    # Read the listed rows of state and window. Of the window whole runs of 16 places, so that copies stay wide; this
    # token's own place and those after it are dropped below.
    begun = (c < (waiting + 15) // 16 * 16)[None, :]
    read_DP, read_C = tl.zeros((DP, 16), tl.float32), tl.zeros((C, 16), tl.float32)
    for first in tl.range(0, total, ROWS, num_stages=STAGES):
        real = first + r < total
        row = tl.load(rows + lists + first + r, mask=real, other=0)
        q = tl.load(values + lists + first + r, mask=real, other=0.0)
        rho = tl.load(state + row[:, None] * D + d[None, :], mask=real[:, None] & (d < D)[None, :], other=0.0)
        waits = tl.load(window + row[:, None] * C + c[None, :], mask=real[:, None] & begun, other=0.0)
        copies = tl.broadcast_to(q.to(rho.dtype)[:, None], (ROWS, 16))
        read_DP = tl.dot(tl.trans(rho), copies, read_DP, input_precision="ieee")
        read_C = tl.dot(tl.trans(waits), copies, read_C, input_precision="ieee")
    # Leave this split's share; the last of the head's programs adds them up and attends.
    head = b * H + h
    out = partial + (head * S + s) * (DP + C)
    tl.store(out + d, tl.max(read_DP, 1))
    tl.store(out + DP + c, tl.where(c < waiting, tl.max(read_C, 1), 0.0))
    if is_last(arrived + head, S):
        shares = partial + head * S * (DP + C)
        attend(shares, window_x + b * x_stride, x + b * DP, a + head * DP, waiting, h, D, DP, C, S, BLOCK)


@triton.jit
def attend(
    partial, window_x, x, a, waiting, h,
    D: tl.constexpr, DP: tl.constexpr, C: tl.constexpr, S: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """a = ln(sum of the partial reads + scores window_x) of one stream and head; x goes into the window."""
    PLACES: tl.constexpr = min(C, 16)
    d, c = tl.arange(0, DP), tl.arange(0, PLACES)
    sum_D = summed(partial, DP + C, S, DP, BLOCK)
    for first in range(0, waiting, PLACES):
        here = (first + c < waiting)[:, None] & (d < D)[None, :]
        x_CD = tl.load(window_x + (first + c)[:, None] * D + d[None, :], mask=here, other=0.0).to(tl.float32)
        sum_D += tl.sum(summed(partial + DP + first, DP + C, S, PLACES, BLOCK)[:, None] * x_CD, 0)
    tl.store(a + d, normalize(sum_D, d, D).to(a.dtype.element_ty))
    if h == 0:
        tl.store(window_x + waiting * D + d, tl.load(x + d).to(window_x.dtype.element_ty), mask=d < D)


@triton.jit
def gate(
    a, encoder_v, decoder, xs, partial, B, H, NP, G,
    DP: tl.constexpr, BM: tl.constexpr, PER: tl.constexpr, TILE: tl.constexpr, STAGES: tl.constexpr,
    EARLY: tl.constexpr,
):  # fmt: skip
    """Share of y = (xs * relu(a encoder_v)) decoder that PER tiles of one head give, for BM streams."""
    h, g = tl.program_id(0) // G, tl.program_id(0) % G
    b, d = tl.program_id(1) * BM + tl.arange(0, BM), tl.arange(0, DP)
    here = (b < B)[:, None]
    if EARLY:
        k = tl.arange(0, triton.cdiv(DP, 64))[None, :] * 64
        for tile in range(g * PER, tl.minimum(g * PER + PER, NP // TILE)):
            at = (h * NP + tile * TILE + tl.arange(0, TILE))[:, None] * DP + k
            prefetch(encoder_v + at, EARLY)
            prefetch(decoder + at, EARLY)
    wait(EARLY)
    a_BD = tl.load(a + (b[:, None] * H + h) * DP + d[None, :], mask=here, other=0.0)
    y_BD = tl.zeros((BM, DP), tl.float32)
    for tile in tl.range(g * PER, tl.minimum(g * PER + PER, NP // TILE), num_stages=STAGES):
        n = tile * TILE + tl.arange(0, TILE)
        columns = tl.load(encoder_v + (h * NP + n)[None, :] * DP + d[:, None])
        x_BN = tl.load(xs + (b[:, None] * H + h) * NP + n[None, :], mask=here, other=0.0)
        weights = tl.load(decoder + (h * NP + n)[:, None] * DP + d[None, :])
        gated = x_BN.to(tl.float32) * tl.maximum(tl.dot(a_BD, columns, input_precision="ieee"), 0.0)
        y_BD = tl.dot(gated.to(weights.dtype), weights, y_BD, input_precision="ieee")
    tl.store(partial + (tl.program_id(0) * B + b)[:, None] * DP + d[None, :], y_BD, mask=here)


@triton.jit
def mix(
    partial, x, x_narrow, B, D, PARTS,
    DP: tl.constexpr, BLOCK: tl.constexpr, RESIDUAL: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """x = ln(x + ln(y)), or ln(y) without a residual path, y the sum of its parts; one stream."""
    b, d = tl.program_id(0), tl.arange(0, DP)
    wait(EARLY)
    x_D = tl.load(x + b * DP + d)
    y_D = normalize(summed(partial + b * DP, B * DP, PARTS, DP, BLOCK), d, D)
    if RESIDUAL:
        y_D = normalize(x_D + y_D, d, D)
    tl.store(x + b * DP + d, y_D)
    tl.store(x_narrow + b * DP + d, y_D.to(x_narrow.dtype.element_ty))


@triton.jit
def summed(at, stride, PARTS, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """Sum of PARTS rows of WIDTH numbers, BLOCK of them at once."""
    k, w = tl.arange(0, BLOCK), tl.arange(0, WIDTH)
    parts = tl.zeros((BLOCK, WIDTH), tl.float32)
    for first in range(0, PARTS, BLOCK):
        places = at + (first + k)[:, None] * stride + w[None, :]
        parts += tl.load(places, mask=(first + k < PARTS)[:, None], other=0.0, cache_modifier=".cg")
    return tl.sum(parts, 0)


@triton.jit
def normalize(z, d, D):
    """Layer norm over the first D entries, 0 beyond."""
    centred = tl.where(d < D, z - tl.sum(tl.where(d < D, z, 0.0), 0) / D, 0.0)
    return centred / tl.sqrt(tl.sum(centred * centred, 0) / D + 1e-5)


@triton.jit
def wait(EARLY: tl.constexpr):
    """EARLY: wait for all that the programs before this one wrote, and let those after it start."""
    if EARLY:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()


@triton.jit
def prefetch(at, EARLY: tl.constexpr):
    """EARLY: bring the lines at these places, which nobody writes, into the cache."""
    if EARLY:
        tl.inline_asm_elementwise(
            "prefetch.global.L2 [$1]; mov.u32 $0, 0;", "=r,l", [at], dtype=tl.int32, is_pure=False, pack=1
        )


@triton.jit
def is_last(counter, size):
    """Whether this program is the last of `size` that ask; what the others stored before asking can be read then."""
    tl.debug_barrier()
    last = tl.atomic_add(counter, 1, sem="acq_rel") == size - 1
    if last:
        tl.store(counter, 0)
    return last


@dataclass(frozen=True)
class ManyTiles:
    """How work is cut; found by measurement.

    encode, gate: neurons at once. chunk: pairs whose rows one program of `read` fetches, `rows` at once, through
    `stages` - 1 buffers, by `warps` warps of at most `registers` per thread. groups: programs of `gate`, at most. mix:
    shares that one program of `mix` adds at once.
    """

    encode: int = 128
    chunk: int = 512
    rows: int = 32
    stages: int = 6
    warps: int = 4
    registers: int | None = None
    gate: int = 32
    gate_stages: int = 3
    groups: int = 128
    mix: int = 64


class ManyStreams(FusedStep):
    """`FusedStep` whose weights meet all streams in matrix products."""

    def __init__(
        self,
        weights: DecodingWeights,
        memory: Memory,
        settings: SamplingSettings,
        early: bool = False,
        tiles: ManyTiles | None = None,
    ) -> None:
        super().__init__(weights, memory, settings, early)
        tiles = tiles or ManyTiles()
        self.tiles = replace(tiles, encode=min(tiles.encode, self.NP), gate=min(tiles.gate, self.NP))
        H, B = weights.sizes[0], len(memory.tokens)
        self.block = min(64, max(16, triton.next_power_of_2(B)))
        self.chunk = min(self.tiles.chunk, max(16, triton.next_power_of_2(self.PP)))
        self.splits = triton.cdiv(self.PP, self.chunk)
        self.per_group = triton.cdiv(H * self.NP // self.tiles.gate, self.tiles.groups)
        self.groups = triton.cdiv(self.NP // self.tiles.gate, self.per_group)
        self.x, self.x_narrow = self.empty(B, self.DP), self.empty(B, self.DP, dtype=memory.narrow)
        self.rows = self.empty(B, H, self.splits * self.chunk * 2, dtype=torch.int32)
        self.values = torch.zeros_like(self.rows, dtype=torch.float32)
        self.reads = self.empty(B, H, self.splits, self.DP + memory.window)
        self.arrived = self.empty(B, H, dtype=torch.int32)
        self.a = self.empty(B, H, self.DP, dtype=memory.narrow)
        self.answers = self.empty(H * self.groups, B, self.DP)

    def logits_of_tokens(self) -> None:
        """From `memory.tokens` to `logits`."""
        self.begin()
        for layer in range(self.weights.layers):
            self.encode(layer)
            self.read(layer)
            self.gate()
            self.mix()
        self.head()

    def programs(self) -> dict[str, Callable[[], object]]:
        """The programs of a step by name, those of layers for layer 1."""
        works: dict[str, Callable[[], object]] = {"encode": lambda: self.encode(1), "read": lambda: self.read(1)}
        return works | {name: getattr(self, name) for name in ("gate", "mix", "begin", "head")}

    def begin(self) -> None:
        """Embedding and rotation of the tokens to read."""
        weights, memory = self.weights, self.memory
        B, D = len(memory.tokens), weights.sizes[1]
        begin[(B, triton.cdiv(self.PP, 1024))](
            memory.tokens, memory.position, weights.embed, self.frequency, self.x, self.x_narrow, self.cos, self.sin,
            D, self.PP, DP=self.DP, BLOCK=1024, EARLY=bool(self.launch), enable_fp_fusion=False, **self.launch,
        )  # fmt: skip

    def head(self) -> None:
        """Logits, in float32."""
        torch.mm(self.x[:, : self.weights.sizes[1]], self.weights.lm_head, out=self.logits)

    def encode(self, layer: int) -> None:
        """x_sparse of the layer."""
        B, rows = len(self.x), self.weights.sizes[0] * self.NP
        encode[(rows // self.tiles.encode, triton.cdiv(B, self.block))](
            self.x_narrow, self.encoder, self.xs, B, rows, DP=self.DP, DK=min(64, self.DP), BM=self.block,
            TILE=self.tiles.encode, ACCUMULATE=self.weights.accumulates and layer > 0, EARLY=bool(self.launch),
            num_warps=4, num_stages=4, **self.launch,
        )  # fmt: skip

    def read(self, layer: int) -> None:
        """Normalised reads of the state and of the window by the active pairs, which enter the window, as x does."""
        memory, (H, D, N), tiles, B = self.memory, self.weights.sizes, self.tiles, len(self.x)
        high, window_q, window_x = memory.high[:, layer], memory.window_q[:, layer], memory.window_x[:, layer]
        read[(self.splits, H, B)](
            high, window_q, self.xs, self.cos, self.sin, memory.filled, self.rows, self.values, self.reads,
            self.arrived, window_x, self.x, self.a, high.stride(0), window_q.stride(0), window_x.stride(0),
            H, N, self.NP, self.PP, self.rows.shape[2],
            D=D, DP=self.DP, C=memory.window, S=self.splits, CHUNK=self.chunk, ROWS=tiles.rows, STAGES=tiles.stages,
            BLOCK=min(16, triton.next_power_of_2(self.splits)),
            EARLY=bool(self.launch), num_warps=tiles.warps, maxnreg=tiles.registers, **self.launch,
        )  # fmt: skip

    def gate(self) -> None:
        """y_sparse, the gate and the decoder, in groups of tiles."""
        B, H = len(self.x), self.weights.sizes[0]
        gate[(H * self.groups, triton.cdiv(B, self.block))](
            self.a, self.encoder_v, self.decoder, self.xs, self.answers, B, H, self.NP, self.groups,
            DP=self.DP, BM=self.block, PER=self.per_group, TILE=self.tiles.gate, STAGES=self.tiles.gate_stages,
            EARLY=bool(self.launch), num_warps=8 if self.block > 32 else 4, **self.launch,
        )  # fmt: skip

    def mix(self) -> None:
        """The residual stream after the layer."""
        parts = len(self.answers)
        mix[(len(self.x),)](
            self.answers, self.x, self.x_narrow, len(self.x), self.weights.sizes[1], parts, DP=self.DP,
            BLOCK=min(self.tiles.mix, triton.next_power_of_2(parts)), RESIDUAL=not self.weights.accumulates,
            EARLY=bool(self.launch), num_warps=16, **self.launch,
        )  # fmt: skip
