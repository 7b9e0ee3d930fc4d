"""A step of many streams: a token is embedded by `begin`, read by encode, read, gate and mix of every layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import triton

from bdh.decoding import kernels
from bdh.decoding.fused import FusedStep, Settings
from bdh.decoding.memory import Memory
from bdh.decoding.weights import Weights


@dataclass(frozen=True)
class Tiles:
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
        self, weights: Weights, memory: Memory, settings: Settings, early: bool = False, tiles: Tiles | None = None
    ) -> None:
        super().__init__(weights, memory, settings, early)
        tiles = tiles or Tiles()
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
        kernels.begin[(B, triton.cdiv(self.PP, 1024))](
            memory.tokens, memory.position, weights.embed, self.frequency, self.x, self.x_narrow, self.cos, self.sin,
            D, self.PP, DP=self.DP, BLOCK=1024, EARLY=bool(self.launch), enable_fp_fusion=False, **self.launch,
        )  # fmt: skip

    def head(self) -> None:
        """Logits, in float32."""
        torch.mm(self.x[:, : self.weights.sizes[1]], self.weights.lm_head, out=self.logits)

    def encode(self, layer: int) -> None:
        """x_sparse of the layer."""
        B, rows = len(self.x), self.weights.sizes[0] * self.NP
        kernels.encode[(rows // self.tiles.encode, triton.cdiv(B, self.block))](
            self.x_narrow, self.encoder, self.xs, B, rows, DP=self.DP, DK=min(64, self.DP), BM=self.block,
            TILE=self.tiles.encode, ACCUMULATE=self.weights.accumulates and layer > 0, EARLY=bool(self.launch),
            num_warps=4, num_stages=4, **self.launch,
        )  # fmt: skip

    def read(self, layer: int) -> None:
        """Normalised reads of the state and of the window by the active pairs, which enter the window, as x does."""
        memory, (H, D, N), tiles, B = self.memory, self.weights.sizes, self.tiles, len(self.x)
        high, window_q, window_x = memory.high[:, layer], memory.window_q[:, layer], memory.window_x[:, layer]
        kernels.read[(self.splits, H, B)](
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
        kernels.gate[(H * self.groups, triton.cdiv(B, self.block))](
            self.a, self.encoder_v, self.decoder, self.xs, self.answers, B, H, self.NP, self.groups,
            DP=self.DP, BM=self.block, PER=self.per_group, TILE=self.tiles.gate, STAGES=self.tiles.gate_stages,
            EARLY=bool(self.launch), num_warps=8 if self.block > 32 else 4, **self.launch,
        )  # fmt: skip

    def mix(self) -> None:
        """The residual stream after the layer."""
        parts = len(self.answers)
        kernels.mix[(len(self.x),)](
            self.answers, self.x, self.x_narrow, len(self.x), self.weights.sizes[1], parts, DP=self.DP,
            BLOCK=min(self.tiles.mix, triton.next_power_of_2(parts)), RESIDUAL=not self.weights.accumulates,
            EARLY=bool(self.launch), num_warps=16, **self.launch,
        )  # fmt: skip
