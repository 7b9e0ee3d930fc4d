"""What the fused steps share: weights and buffers laid out for Triton programs, drawing and folding; needs triton.

`many.ManyStreams` multiplies the weights with all streams at once, `few.FewStreams` reads them once per stream in as
few programs as possible. Both read `memory.tokens` and write the next ones there and into `history`, allocate nothing
and never ask the host, so a CUDA graph can hold a step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
import triton
from torch import Tensor

from bdh.decoding import kernel_fold, kernel_sampling
from bdh.decoding.memory import Memory
from bdh.decoding.weights import Weights

PADDING = 256
"""Neurons of a head are padded with silent ones to a multiple of this, or of the next power of two if that is less."""


@dataclass(frozen=True)
class Settings:
    """How each stream samples, on the device: temperature (B,) float32, top_k (B,) int32 (0: all), seed (B,) int64."""

    temperature: Tensor
    top_k: Tensor
    seed: Tensor


class FusedStep:
    """One token of every stream when called; `history` (B,C) has the tokens drawn at each place of the window."""

    def __init__(self, weights: Weights, memory: Memory, settings: Settings, early: bool = False) -> None:
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
        kernel_sampling.choose[(len(self.logits),)](
            self.logits, settings.temperature, settings.top_k, settings.seed, memory.position, memory.filled,
            memory.tokens, self.history, V, memory.window, VP=VP, EARLY=bool(self.launch),
            num_warps=16 if VP > 8192 else 4, **self.launch,
        )  # fmt: skip

    def fold(self) -> None:
        """`Memory.fold` in one program over all streams, layers and heads."""
        memory, (H, D, N) = self.memory, self.weights.sizes
        B, L = memory.high.shape[:2]
        kernel_fold.fold[(triton.cdiv(N, kernel_fold.ROWS), L * H, B)](
            memory.high, memory.low, memory.window_q, memory.window_x, N, D, L, H,
            DP=self.DP, C=memory.window, ROWS=kernel_fold.ROWS, PLANES=memory.planes, num_warps=4,
        )  # fmt: skip
        memory.filled.zero_()
