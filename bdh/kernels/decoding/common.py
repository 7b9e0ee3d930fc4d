"""What the steps for few and for many streams share; importing this file needs triton.

`FusedStep` lays out weights and buffers and launches the two programs that both kinds need: `choose` draws the next
tokens (`reference.choose` is its definition), `fold` adds a full window to the state (`Memory.fold`).
`many.ManyStreams` multiplies the weights with all streams at once, `few.FewStreams` reads them once per stream in as
few programs as possible. Both read `memory.tokens` and write the next ones there and into `history`, allocate nothing
and never ask the host, so a CUDA graph can hold a step.

Operands of the two programs, all row-major (the tensors of `Memory` and `SamplingSettings`):

| operand | shape | dtype |
|---|---|---|
| high, low | B,L,H,N,D | bfloat16 and int16 planes (PLANES), or float32 in `high` alone |
| window_q | B,L,H,N,C | narrow: bfloat16, or float32 |
| window_x | B,L,C,D | narrow |
| logits | B,V | float32 |
| temperature; top_k, filled; seed, position, tokens | B | float32; int32; int64 |
| history | B,C | int64 |

Letters as in `many`; DP, VP: D and V padded to powers of two.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from bdh.kernels.decoding.memory import DecodingWeights, Memory

# The arguments of a Triton program are pointers and numbers of the device, which Python's types do not describe.
# ruff: noqa: ANN001, ANN201, ANN202
# mypy: disallow-untyped-defs=False

ROWS = 32
"""Neurons of one program of `fold`."""
PADDING = 256
"""Neurons of a head are padded with silent ones to a multiple of this, or of the next power of two if that is less."""


@triton.jit
def fold(
    high, low, window_q, window_x, N, D, L, H,
    DP: tl.constexpr, C: tl.constexpr, ROWS: tl.constexpr, PLANES: tl.constexpr,
):  # fmt: skip
    """rho += window_q^T window_x for ROWS neurons of one stream, layer and head; rows that never fired are left."""
    # What waits in the window for these neurons; those that never fired in it need nothing.
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
    # Join the two planes to a float32 number, add, and split it again; bits as an integer are 65536 upper + lower.
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
    # The window is empty for the next tokens.
    tl.store(q_at, tl.zeros((ROWS, C), q_NC.dtype), mask=fired[:, None] & (c < C)[None, :])


@triton.jit
def _mix(h):
    h = ((h ^ (h >> 16)) * 0x7FEB352D) & 0xFFFFFFFF
    h = ((h ^ (h >> 15)) * 0x846CA68B) & 0xFFFFFFFF
    return h ^ (h >> 16)


@triton.jit
def choose(
    logits, temperature, top_k, seed, position, filled, tokens, history, V, C,
    VP: tl.constexpr, EARLY: tl.constexpr = False,
):  # fmt: skip
    """Next token of stream b into `tokens` and `history`; counts the token just read in `position` and `filled`.

    EARLY: launched before the program that writes the logits has ended.
    """
    if EARLY:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    # The stream's logits and settings; temperature 0 races with the logits themselves.
    b = tl.program_id(0)
    v = tl.arange(0, VP)
    inside = v < V
    value = tl.load(logits + b.to(tl.int64) * V + v, mask=inside, other=float("-inf")).to(tl.float32)
    heat = tl.load(temperature + b)
    kept = tl.load(top_k + b)
    place = tl.load(position + b) + 1
    race = value
    # Race of exponentials: a number for every token from a hash of (seed, position, token), top_k drops the rest.
    if heat > 0.0:
        key = tl.load(seed + b)
        first = _mix(_mix((key & 0xFFFFFFFF) ^ 0x85EBCA6B) ^ (place & 0xFFFFFFFF))
        second = _mix(_mix(((key >> 32) & 0xFFFFFFFF) ^ _mix(first ^ 0x27D4EB2F)) ^ ((place >> 32) & 0xFFFFFFFF))
        hashed = _mix(_mix((first + v.to(tl.int64) * 0x9E3779B1) & 0xFFFFFFFF) ^ second)
        uniform = ((hashed >> 8).to(tl.float32) + 0.5) * 5.9604644775390625e-08
        waits = tl.where(uniform < 0.0009765625, uniform + 0.5 * uniform * uniform, -tl.log(1.0 - uniform))
        race = value / heat - tl.log(waits)
        if (kept > 0) & (kept < V):
            race = tl.where(value >= _least(value, kept), race, float("-inf"))
    # The winner is the next token; the one just read is counted.
    chosen = tl.argmax(tl.where(inside, race, float("-inf")), 0).to(tl.int64)
    waiting = tl.load(filled + b)
    tl.store(tokens + b, chosen)
    tl.store(history + b * C + waiting, chosen)
    tl.store(position + b, place)
    tl.store(filled + b, waiting + 1)


@triton.jit
def _least(value, kept):
    """The kept-th largest of the values: its bits, as an integer of the same order, are found from the top down."""
    bits = value.to(tl.int32, bitcast=True)
    order = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.int64) + 2147483648
    found = tl.sum(order, 0) * 0
    bit = found + 2147483648
    for _ in range(32):
        enough = tl.sum((order >= found + bit).to(tl.int32), 0) >= kept
        found = tl.where(enough, found + bit, found)
        bit = bit // 2
    return tl.min(tl.where(order >= found, value, float("inf")), 0)


@dataclass(frozen=True)
class SamplingSettings:
    """How each stream samples, on the device: temperature (B,) float32, top_k (B,) int32 (0: all), seed (B,) int64."""

    temperature: Tensor
    top_k: Tensor
    seed: Tensor


class FusedStep:
    """One token of every stream when called; `history` (B,C) has the tokens drawn at each place of the window."""

    def __init__(
        self, weights: DecodingWeights, memory: Memory, settings: SamplingSettings, early: bool = False
    ) -> None:
        """early: programs may start before the one before them has ended (programmatic dependent launch)."""
        self.weights, self.memory, self.settings = weights, memory, settings
        self.launch: dict[str, Any] = {"launch_pdl": True} if early else {}
        H, D, N = weights.sizes
        padding = min(PADDING, max(32, triton.next_power_of_2(N)))
        self.DP, self.NP = max(16, triton.next_power_of_2(D)), triton.cdiv(N, padding) * padding
        self.PP = self.NP // 2
        self._copy_weights()
        B, V = len(memory.tokens), weights.lm_head.shape[1]
        self.cos, self.sin = self.empty(B, self.PP), self.empty(B, self.PP)
        self.xs = self.empty(B, H, self.NP, dtype=memory.narrow)
        self.logits = self.empty(B, V)
        self.history = self.empty(B, memory.window, dtype=torch.int64)

    def empty(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Zeros on the device of the weights."""
        return torch.zeros(shape, dtype=dtype, device=self.weights.encoder.device)

    def _copy_weights(self) -> None:
        """Weights in the narrow type as H,NP,DP, the numbers of a neuron side by side, padded with zeros."""
        weights, narrow = self.weights, self.memory.narrow
        _, D, N = weights.sizes

        def rows(weight_HND: Tensor) -> Tensor:
            return F.pad(weight_HND, (0, self.DP - D, 0, self.NP - N)).to(narrow).contiguous()

        self.encoder, self.encoder_v = rows(weights.encoder.mT), rows(weights.encoder_v.mT)
        self.decoder = rows(weights.decoder)
        self.frequency = F.pad(weights.frequency, (0, self.PP - N // 2))

    @torch.no_grad()
    def __call__(self) -> None:
        """One token of every stream."""
        self.logits_of_tokens()
        self.choose()

    def logits_of_tokens(self) -> None:
        """From `memory.tokens` to `logits`; what is read enters the window, but is not counted yet."""
        raise NotImplementedError

    def programs(self) -> dict[str, Callable[[], object]]:
        """The programs of a step by name, those of layers for layer 1."""
        raise NotImplementedError

    def choose(self) -> None:
        """The next tokens; the one just read is counted."""
        memory, settings = self.memory, self.settings
        V = self.logits.shape[1]
        VP = max(16, triton.next_power_of_2(V))
        choose[(len(self.logits),)](
            self.logits, settings.temperature, settings.top_k, settings.seed, memory.position, memory.filled,
            memory.tokens, self.history, V, memory.window, VP=VP, EARLY=bool(self.launch),
            num_warps=16 if VP > 8192 else 4, **self.launch,
        )  # fmt: skip

    def fold(self) -> None:
        """`Memory.fold` in one program over all streams, layers and heads."""
        memory, (H, D, N) = self.memory, self.weights.sizes
        B, L = memory.high.shape[:2]
        fold[(triton.cdiv(N, ROWS), L * H, B)](
            memory.high, memory.low, memory.window_q, memory.window_x, N, D, L, H,
            DP=self.DP, C=memory.window, ROWS=ROWS, PLANES=memory.planes, num_warps=4,
        )  # fmt: skip
        memory.filled.zero_()
