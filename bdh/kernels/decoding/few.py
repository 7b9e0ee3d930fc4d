"""A step of few streams: two programs per layer, one for the logits, one to draw.

Triton programs and their launcher `FewStreams`; importing this file needs triton.

`ask` finishes the layer before, encodes and reads the state; `answer` attends, gates and decodes. Every program owns
some neurons of one head and keeps what it finds of them; sums over neurons pass through device memory: programs write
their share, and the last of a group to arrive adds the shares of the group, in the order of the programs, so that a
result depends on no race and the next program has few rows to add.

EARLY: a program is launched while the one before it still runs. It fetches weights, which nobody writes, at once, and
waits for the end of all programs before it ahead of every other access.

A tile that a matrix product takes is copied to shared memory where its last elementwise operation stands, and that copy
waits for it: `where` after other loads lets all of them be under way.

KEPT, PASSING: how the cache shall treat weights, which the next layer reads again, and rows of the state.

Letters and operands: as in `many`; S programs per head, G groups of them. What differs, all row-major:

| operand | shape | dtype | |
|---|---|---|---|
| x | L,B,DP | float32 | the residual stream before every layer |
| shares, reads of `ask` | B,H,S,DP+C; B,H,G,DP | float32 | per program; per group, window included |
| shares, answers of `answer` | H*S,B,DP; groups,B,DP | float32 | per program; per group of programs of any head |
| arrived | B,H,G; groups,B | int32 | counts the programs of a group that are done; 0 between steps |
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import triton
import triton.language as tl

from bdh.kernels.decoding.common import FusedStep, SamplingSettings
from bdh.kernels.decoding.many import is_last, normalize, phase, summed, wait
from bdh.kernels.decoding.memory import DecodingWeights, Memory

# The arguments of a Triton program are pointers and numbers of the device, which Python's types do not describe.
# ruff: noqa: ANN001, ANN201
# mypy: disallow-untyped-defs=False


@triton.jit
def ask(
    tokens, position, embed, frequency, answers, x, encoder, xs, cos, sin, high, window_q, window_x, filled,
    shares, arrived, reads, state_stride, window_stride, x_stride, H, NP, PP, S, G, B, PARTS, LAYER,
    N: tl.constexpr, D: tl.constexpr, DP: tl.constexpr, C: tl.constexpr, PAIRS: tl.constexpr, GROUP: tl.constexpr,
    BLOCK: tl.constexpr, FIRST: tl.constexpr, RESIDUAL: tl.constexpr, EARLY: tl.constexpr,
    KEPT: tl.constexpr, PASSING: tl.constexpr,
):  # fmt: skip
    """x of the layer, xs = relu(x encoder) of PAIRS pairs and what they read of the state and of the window.

    FIRST: x is the embedding and the rotation is computed; launch without fusing of multiply and add then.
    """
    h, s, b = tl.program_id(0) // S, tl.program_id(0) % S, tl.program_id(1).to(tl.int64)
    p, n = s * PAIRS + tl.arange(0, PAIRS), 2 * s * PAIRS + tl.arange(0, 2 * PAIRS)
    d, c = tl.arange(0, DP), tl.arange(0, C)
    # Weights first: nobody writes them, so they may be fetched before the programs ahead have ended.
    weights = tl.load(encoder + (h * NP + n)[:, None] * DP + d[None, :], eviction_policy=KEPT)
    wait(EARLY)
    # x and the rotation: of the token, or of the layer before, which is finished here.
    waiting = tl.load(filled + b)
    turn_at = b * PP + p
    if FIRST:
        x_D = tl.load(embed + tl.load(tokens + b) * D + d, mask=d < D, other=0.0)
        angle = phase(tl.load(position + b), tl.load(frequency + p))
        cosine, sine = tl.cos(angle), tl.sin(angle)
        if h == 0:
            tl.store(cos + turn_at, cosine)
            tl.store(sin + turn_at, sine)
    else:
        cosine, sine = tl.load(cos + turn_at), tl.load(sin + turn_at)
        x_D = mixed(answers, x + ((LAYER - 1) * B + b) * DP, b, B, PARTS, D, DP, BLOCK, RESIDUAL)
    narrow_D = x_D.to(encoder.dtype.element_ty)
    if tl.program_id(0) == 0:
        tl.store(x + (LAYER * B + b) * DP + d, x_D)
        tl.store(window_x + b * x_stride + waiting * D + d, narrow_D, mask=d < D)
    # Encode, rotate, and find the active pairs.
    xs_N = tl.maximum(of_rows(weights, narrow_D), 0.0)
    xs_at = xs + (b * H + h) * NP + n
    if (not RESIDUAL) and (not FIRST):
        xs_N += tl.load(xs_at).to(tl.float32)
    xs_N = xs_N.to(xs.dtype.element_ty)
    tl.store(xs_at, xs_N)
    even, odd = tl.split(tl.reshape(xs_N.to(tl.float32), (PAIRS, 2)))
    active = ((even > 0.0) | (odd > 0.0)) & (2 * p < N)
    q_N = tl.interleave(even * cosine - odd * sine, odd * cosine + even * sine).to(window_q.dtype.element_ty)
    active_N = tl.interleave(active.to(tl.int32), active.to(tl.int32)) > 0
    # Fetch their rows of the state and of the window, into which q goes at the place of this token.
    row = h * N + n
    at = high + b * state_stride + row[:, None] * D + d[None, :]
    in_row = active_N[:, None] & (d < D)[None, :]
    rho = tl.load(at, mask=in_row, eviction_policy=PASSING)
    # Whole runs of 16 places, so that loads stay wide; this token's own place and those after it are dropped below.
    at = window_q + b * window_stride + row[:, None] * C + c[None, :]
    begun = active_N[:, None] & (c < (waiting + 15) // 16 * 16)[None, :]
    waits = tl.load(at, mask=begun, eviction_policy=PASSING)
    tl.store(window_q + b * window_stride + row * C + waiting, q_N, mask=active_N)
    q_N, rho, waits = tl.where(active_N, q_N, 0.0), tl.where(in_row, rho, 0.0), tl.where(begun, waits, 0.0)
    # Leave this program's share; the last of the group adds them up and reads the window.
    own, group = (b * H + h) * S + s, (b * H + h) * G + s // GROUP
    tl.store(shares + own * (DP + C) + d, weighted(q_N, rho))
    tl.store(shares + own * (DP + C) + DP + c, tl.where(c < waiting, weighted(q_N, waits), 0.0))
    size = tl.minimum(GROUP, S - s // GROUP * GROUP)
    if is_last(arrived + group, size):
        first = shares + (own - s % GROUP) * (DP + C)
        x_at = window_x + b * x_stride + c[:, None] * D + d[None, :]
        x_CD = tl.load(x_at, mask=(c < waiting)[:, None] & (d < D)[None, :], other=0.0)
        parts_D, parts_C = group_of(first, DP + C, size, DP, GROUP), group_of(first + DP, DP + C, size, C, GROUP)
        sum_D, scores_C = tl.sum(parts_D, 0), tl.sum(parts_C, 0)
        tl.store(reads + group * DP + d, sum_D + weighted_wide(scores_C, x_CD))


@triton.jit
def answer(
    xs, reads, encoder_v, decoder, shares, arrived, answers, H, NP, S, B, PARTS,
    D: tl.constexpr, DP: tl.constexpr, NEURONS: tl.constexpr, GROUP: tl.constexpr, BLOCK: tl.constexpr,
    EARLY: tl.constexpr, AHEAD: tl.constexpr, KEPT: tl.constexpr,
):  # fmt: skip
    """Share of y = (xs * relu(a encoder_v)) decoder of NEURONS neurons, a the normalised sum of PARTS reads.

    Weights of neurons with x = 0 are not fetched; AHEAD: columns of encoder_v are, before x is known.
    """
    h, s, b = tl.program_id(0) // S, tl.program_id(0) % S, tl.program_id(1).to(tl.int64)
    n, d = s * NEURONS + tl.arange(0, NEURONS), tl.arange(0, DP)
    at = (h * NP + n)[:, None] * DP + d[None, :]
    if AHEAD:
        columns = tl.load(encoder_v + at, eviction_policy=KEPT)
    wait(EARLY)
    # a = ln(reads), y_sparse and the gate.
    x_N = tl.load(xs + (b * H + h) * NP + n).to(tl.float32)
    a_D = normalize(summed(reads + (b * H + h) * PARTS * DP, DP, PARTS, DP, BLOCK), d, D)
    if not AHEAD:
        columns = tl.load(encoder_v + at, mask=(x_N > 0.0)[:, None], other=0.0, eviction_policy=KEPT)
    y_N = tl.maximum(of_rows(columns, a_D.to(encoder_v.dtype.element_ty)), 0.0)
    gated = (x_N * y_N).to(decoder.dtype.element_ty)
    # Decode; the last of the group adds the shares.
    weights = tl.load(decoder + at, mask=(gated > 0.0)[:, None], other=0.0, eviction_policy=KEPT)
    y_D = weighted(gated, weights)
    own = tl.program_id(0)
    tl.store(shares + (own * B + b) * DP + d, y_D)
    group, size = own // GROUP, tl.minimum(GROUP, H * S - own // GROUP * GROUP)
    if is_last(arrived + group * B + b, size):
        first = shares + (group * GROUP * B + b) * DP
        tl.store(answers + (group * B + b) * DP + d, tl.sum(group_of(first, B * DP, size, DP, GROUP), 0))


@triton.jit
def head(
    answers, x, lm_head, logits, V, B, PARTS, LAYERS,
    D: tl.constexpr, DP: tl.constexpr, TILE: tl.constexpr, BLOCK: tl.constexpr,
    RESIDUAL: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """TILE logits of one stream, in float32; finishes the last layer first."""
    v, d, b = tl.program_id(0) * TILE + tl.arange(0, TILE), tl.arange(0, DP), tl.program_id(1).to(tl.int64)
    weights = tl.load(lm_head + d[:, None] * V + v[None, :], mask=(d < D)[:, None] & (v < V)[None, :], other=0.0)
    wait(EARLY)
    x_D = mixed(answers, x + ((LAYERS - 1) * B + b) * DP, b, B, PARTS, D, DP, BLOCK, RESIDUAL)
    tl.store(logits + b * V + v, tl.sum(x_D[:, None] * weights, 0), mask=v < V)


@triton.jit
def mixed(
    answers, x, b, B, PARTS,
    D: tl.constexpr, DP: tl.constexpr, BLOCK: tl.constexpr, RESIDUAL: tl.constexpr,
):  # fmt: skip
    """The residual stream after a layer that read `x`: ln(x + ln(y)), or ln(y), y the sum of PARTS rows."""
    d = tl.arange(0, DP)
    x_D = tl.load(x + d)
    y_D = normalize(summed(answers + b * DP, B * DP, PARTS, DP, BLOCK), d, D)
    if RESIDUAL:
        y_D = normalize(x_D + y_D, d, D)
    return y_D


@triton.jit
def of_rows(rows, vector):
    """Products of every row with a vector, float32: a matrix product with 16 copies of it, which are all the same."""
    copies = tl.broadcast_to(vector[:, None], (vector.shape[0], 16))
    return tl.max(tl.dot(rows, copies, input_precision="ieee"), 1)


@triton.jit
def weighted(weights, rows):
    """Sum of weights * rows, float32, in the same way."""
    copies = tl.broadcast_to(weights[None, :], (16, weights.shape[0]))
    return tl.max(tl.dot(copies, rows, input_precision="ieee"), 0)


@triton.jit
def weighted_wide(weights, rows):
    """Sum of weights * rows for float32 weights, as three numbers of the type of the rows each: no bit is lost."""
    k = tl.arange(0, 16)[:, None]
    first = weights.to(rows.dtype)
    rest = weights - first.to(tl.float32)
    second = rest.to(rows.dtype)
    third = (rest - second.to(tl.float32)).to(rows.dtype)
    shares = tl.where(k == 0, first[None, :], tl.where(k == 1, second[None, :], third[None, :]))
    return tl.sum(tl.where(k < 3, tl.dot(shares, rows, input_precision="ieee"), 0.0), 0)


@triton.jit
def group_of(first, stride, size, WIDTH: tl.constexpr, GROUP: tl.constexpr):
    """The first `size` of GROUP rows, which other programs have just written; zeros after them."""
    k, w = tl.arange(0, GROUP), tl.arange(0, WIDTH)
    at = first + k[:, None] * stride + w[None, :]
    return tl.load(at, mask=(k < size)[:, None], other=0.0, cache_modifier=".cg")


MOST = 2
"""Streams up to which reading the weights once per stream is faster than multiplying them with all streams at once."""


@dataclass(frozen=True)
class FewTiles:
    """How work is cut; found by measurement.

    pairs, neurons: of one program of `ask` and of `answer`, with `ask_warps` and `answer_warps` warps. ask_group,
    answer_group: programs whose shares the last of them adds, powers of two. ahead: `answer` fetches all of encoder_v
    before x is known. keep: weights shall stay in the cache and rows of the state pass through it. registers:
    of one thread of `ask`, at most.
    """

    pairs: int = 32
    neurons: int = 64
    ask_warps: int = 4
    answer_warps: int = 4
    ask_group: int = 16
    answer_group: int = 32
    ahead: bool = False
    keep: bool = True
    registers: int | None = 128


class FewStreams(FusedStep):
    """`FusedStep` in two programs per layer, each of which reads the weights of its neurons for one stream."""

    def __init__(
        self,
        weights: DecodingWeights,
        memory: Memory,
        settings: SamplingSettings,
        early: bool = False,
        tiles: FewTiles | None = None,
    ) -> None:
        super().__init__(weights, memory, settings, early)
        tiles = tiles or FewTiles()
        self.tiles = replace(tiles, pairs=min(tiles.pairs, self.PP), neurons=min(tiles.neurons, self.NP))
        H, B = weights.sizes[0], len(memory.tokens)
        self.ask_programs, self.answer_programs = self.PP // self.tiles.pairs, self.NP // self.tiles.neurons
        self.ask_groups = triton.cdiv(self.ask_programs, self.tiles.ask_group)
        self.answer_groups = triton.cdiv(H * self.answer_programs, self.tiles.answer_group)
        self.x = self.empty(weights.layers, B, self.DP)
        self.read_shares = self.empty(B, H, self.ask_programs, self.DP + memory.window)
        self.reads = self.empty(B, H, self.ask_groups, self.DP)
        self.answer_shares, self.answers = (
            self.empty(count, B, self.DP) for count in (H * self.answer_programs, self.answer_groups)
        )
        self.asked = self.empty(B, H, self.ask_groups, dtype=torch.int32)
        self.answered = self.empty(self.answer_groups, B, dtype=torch.int32)
        self.kept = "evict_last" if self.tiles.keep else ""
        self.answer_block = min(32, triton.next_power_of_2(self.answer_groups))

    def logits_of_tokens(self) -> None:
        """From `memory.tokens` to `logits`."""
        for layer in range(self.weights.layers):
            self.ask(layer)
            self.answer()
        self.head()

    def programs(self) -> dict[str, Callable[[], object]]:
        """The programs of a step by name, those of layers for layer 1."""
        works: dict[str, Callable[[], object]] = {"ask": lambda: self.ask(1), "ask_first": lambda: self.ask(0)}
        return works | {"answer": self.answer, "head": self.head}

    def ask(self, layer: int) -> None:
        """x of the layer, x_sparse, and what its active pairs read; x and they enter the window."""
        weights, memory, tiles = self.weights, self.memory, self.tiles
        (H, D, N), B = weights.sizes, len(memory.tokens)
        high, window_q, window_x = memory.high[:, layer], memory.window_q[:, layer], memory.window_x[:, layer]
        fusing = {"enable_fp_fusion": False} if layer == 0 else {}
        ask[(H * self.ask_programs, B)](
            memory.tokens, memory.position, weights.embed, self.frequency, self.answers, self.x, self.encoder, self.xs,
            self.cos, self.sin, high, window_q, window_x, memory.filled, self.read_shares, self.asked, self.reads,
            high.stride(0), window_q.stride(0), window_x.stride(0), H, self.NP, self.PP, self.ask_programs,
            self.ask_groups, B, self.answer_groups, layer,
            N=N, D=D, DP=self.DP, C=memory.window, PAIRS=tiles.pairs, GROUP=tiles.ask_group, BLOCK=self.answer_block,
            FIRST=layer == 0, RESIDUAL=not weights.accumulates, EARLY=bool(self.launch),
            KEPT=self.kept, PASSING="evict_first" if tiles.keep else "",
            num_warps=tiles.ask_warps, maxnreg=tiles.registers, **fusing, **self.launch,
        )  # fmt: skip

    def answer(self) -> None:
        """Normalised reads, y_sparse, the gate and the decoder."""
        tiles, (H, D, _), B = self.tiles, self.weights.sizes, len(self.memory.tokens)
        answer[(H * self.answer_programs, B)](
            self.xs, self.reads, self.encoder_v, self.decoder, self.answer_shares, self.answered, self.answers,
            H, self.NP, self.answer_programs, B, self.ask_groups,
            D=D, DP=self.DP, NEURONS=tiles.neurons, GROUP=tiles.answer_group,
            BLOCK=min(32, triton.next_power_of_2(self.ask_groups)), EARLY=bool(self.launch), AHEAD=tiles.ahead,
            KEPT=self.kept, num_warps=tiles.answer_warps, **self.launch,
        )  # fmt: skip

    def head(self) -> None:
        """Logits, in float32."""
        weights, B, tile = self.weights, len(self.memory.tokens), 16
        D, V = weights.lm_head.shape
        head[(triton.cdiv(V, tile), B)](
            self.answers, self.x, weights.lm_head, self.logits, V, B, self.answer_groups, weights.layers,
            D=D, DP=self.DP, TILE=tile, BLOCK=self.answer_block, RESIDUAL=not weights.accumulates,
            EARLY=bool(self.launch), num_warps=4, **self.launch,
        )  # fmt: skip
