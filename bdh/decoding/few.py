"""A step of few streams: two programs per layer (`bdh.decoding.kernels_few`), one for the logits, one to draw."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import triton

from bdh.decoding import kernels_few
from bdh.decoding.fused import FusedStep, Settings
from bdh.decoding.memory import Memory
from bdh.decoding.weights import Weights

MOST = 2
"""Streams up to which reading the weights once per stream is faster than multiplying them with all streams at once."""


@dataclass(frozen=True)
class Tiles:
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
        self, weights: Weights, memory: Memory, settings: Settings, early: bool = False, tiles: Tiles | None = None
    ) -> None:
        super().__init__(weights, memory, settings, early)
        tiles = tiles or Tiles()
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
        kernels_few.ask[(H * self.ask_programs, B)](
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
        kernels_few.answer[(H * self.answer_programs, B)](
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
        kernels_few.head[(triton.cdiv(V, tile), B)](
            self.answers, self.x, weights.lm_head, self.logits, V, B, self.answer_groups, weights.layers,
            D=D, DP=self.DP, TILE=tile, BLOCK=self.answer_block, RESIDUAL=not weights.accumulates,
            EARLY=bool(self.launch), num_warps=4, **self.launch,
        )  # fmt: skip
