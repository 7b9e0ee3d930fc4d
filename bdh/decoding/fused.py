"""One token of every stream in a few Triton programs that a CUDA graph can hold; importing this file needs triton.

Per token: `begin`, per layer encode, read, attend, gate and mix, then one matrix product for the logits and `choose`.
Nothing is allocated and the host is never asked. Weights are copied once, in the narrow type, pairs of neurons apart.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
import triton
from torch import Tensor

from bdh.decoding import kernel_sampling, kernels
from bdh.decoding.memory import Memory
from bdh.decoding.weights import Weights

TILE = 32
ENOUGH_PROGRAMS = 1056
MOST_SPLITS = 64
GROUPS = 128


@dataclass(frozen=True)
class Settings:
    """How each stream samples, on the device: temperature (B,) float32, top_k (B,) int32 (0: all), seed (B,) int64."""

    temperature: Tensor
    top_k: Tensor
    seed: Tensor


class FusedStep:
    """Reads `memory.tokens` and writes the next ones there and into `history` (B,C), at the place of the token read."""

    def __init__(self, weights: Weights, memory: Memory, settings: Settings) -> None:
        self.weights, self.memory, self.settings = weights, memory, settings
        H, D, N = weights.sizes
        B, device = len(memory.tokens), weights.encoder.device
        self.P, self.DP = N // 2, max(16, triton.next_power_of_2(D))
        self.PP = triton.cdiv(self.P, TILE) * TILE
        self.tiles = self.PP // TILE
        self.rows = min(64, max(16, triton.next_power_of_2(B)))
        splits = triton.next_power_of_2(triton.cdiv(ENOUGH_PROGRAMS, 2 * B * H))
        self.splits = min(splits, MOST_SPLITS, triton.next_power_of_2(self.tiles))
        self.per_split = max(2, triton.next_power_of_2(triton.cdiv(self.tiles, self.splits)))
        self.per_group = triton.cdiv(H * self.tiles, GROUPS)
        self.groups = triton.cdiv(self.tiles, self.per_group)
        self._copy_weights()
        self._allocate(B, H, device)

    def _copy_weights(self) -> None:
        """Even and odd neurons apart, padded with zeros: H,2,DP,PP twice and H,2,PP,DP."""
        weights, narrow = self.weights, self.memory.narrow
        D, pairs = self.DP - weights.sizes[1], self.PP - self.P

        def columns(weight_HDN: Tensor) -> Tensor:
            halves_HPD2 = weight_HDN.unflatten(2, (-1, 2)).permute(0, 3, 1, 2)
            return F.pad(halves_HPD2, (0, pairs, 0, D)).to(narrow).contiguous()

        self.encoder, self.encoder_v = columns(weights.encoder), columns(weights.encoder_v)
        self.decoder = columns(weights.decoder.mT).mT.contiguous()
        self.frequency = F.pad(weights.frequency, (0, pairs))

    def _allocate(self, B: int, H: int, device: torch.device) -> None:
        memory, PP, DP = self.memory, self.PP, self.DP
        V = self.weights.lm_head.shape[1]

        def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        self.x, self.cos, self.sin = empty(B, DP), empty(B, PP), empty(B, PP)
        self.xs = empty(B, H, 2, PP, dtype=memory.narrow)
        self.pair_list = empty(B, H, PP, dtype=torch.int32)
        self.even_list, self.odd_list = (empty(B, H, PP, dtype=memory.narrow) for _ in range(2))
        self.count = empty(B, H, self.tiles, dtype=torch.int32)
        self.reads = empty(B, H, self.splits, DP + memory.window)
        self.a = empty(B, H, DP, dtype=memory.narrow)
        self.answers = empty(H * self.groups, B, DP)
        self.logits = empty(B, V)
        self.history = empty(B, memory.window, dtype=torch.int64)

    @torch.no_grad()
    def __call__(self) -> None:
        """One token of every stream."""
        self.begin()
        for layer in range(self.weights.layers):
            self.encode(layer)
            self.read(layer)
            self.attend(layer)
            self.gate()
            self.mix()
        self.head()
        self.choose()

    def begin(self) -> None:
        """Embedding and rotation of the tokens to read."""
        weights, memory = self.weights, self.memory
        B, D = len(memory.tokens), weights.sizes[1]
        kernels.begin[(B, triton.cdiv(self.PP, 1024))](
            memory.tokens, memory.position, weights.embed, self.frequency, self.x, self.cos, self.sin, D, self.PP,
            DP=self.DP, BLOCK=1024, enable_fp_fusion=False,
        )  # fmt: skip

    def head(self) -> None:
        """Logits, in float32."""
        torch.mm(self.x[:, : self.weights.sizes[1]], self.weights.lm_head, out=self.logits)

    def choose(self) -> None:
        """The next tokens; the one just read is counted."""
        memory, settings = self.memory, self.settings
        V = self.logits.shape[1]
        VP = max(16, triton.next_power_of_2(V))
        kernel_sampling.choose[(len(self.logits),)](
            self.logits, settings.temperature, settings.top_k, settings.seed, memory.position, memory.filled,
            memory.tokens, self.history, V, memory.window, VP=VP, num_warps=16 if VP > 8192 else 4,
        )  # fmt: skip

    def encode(self, layer: int) -> None:
        """x_sparse of the layer and the lists of its active pairs."""
        B, H = len(self.x), self.weights.sizes[0]
        kernels.encode[(H * self.tiles, triton.cdiv(B, self.rows))](
            self.x, self.encoder, self.cos, self.sin, self.xs, self.pair_list, self.even_list, self.odd_list,
            self.count, B, H, self.PP, self.tiles, DP=self.DP, DK=min(64, self.DP), BM=self.rows, TILE=TILE,
            ACCUMULATE=self.weights.accumulates and layer > 0, num_warps=4,
        )  # fmt: skip

    def read(self, layer: int) -> None:
        """Partial reads of the state and of the window by the active pairs, which enter the window."""
        memory, (H, D, _) = self.memory, self.weights.sizes
        high, window_q = memory.high[:, layer], memory.window_q[:, layer]
        kernels.read[(len(self.x), H, self.splits)](
            high, window_q, self.pair_list, self.even_list, self.odd_list, self.count, memory.filled, self.reads,
            high.stride(0), window_q.stride(0), H, self.P, self.PP, D, self.tiles,
            DP=self.DP, C=memory.window, S=self.splits, PER=self.per_split, ROWS=16, TILE=TILE, num_warps=4,
        )  # fmt: skip

    def attend(self, layer: int) -> None:
        """Normalised reads; the residual stream enters the window."""
        memory, (H, D, _) = self.memory, self.weights.sizes
        window_x = memory.window_x[:, layer]
        kernels.attend[(len(self.x), H)](
            self.reads, window_x, memory.filled, self.x, self.a, window_x.stride(0), H, D,
            DP=self.DP, C=memory.window, S=self.splits, BLOCK=min(16, self.splits), num_warps=8,
        )  # fmt: skip

    def gate(self) -> None:
        """y_sparse, the gate and the decoder, in groups of tiles."""
        B, H = len(self.x), self.weights.sizes[0]
        kernels.gate[(H * self.groups, triton.cdiv(B, self.rows))](
            self.a, self.encoder_v, self.decoder, self.xs, self.answers, B, H, self.PP, self.tiles, self.groups,
            DP=self.DP, BM=self.rows, PER=self.per_group, TILE=TILE, num_warps=8 if self.rows > 32 else 4, num_stages=2,
        )  # fmt: skip

    def mix(self) -> None:
        """The residual stream after the layer."""
        parts = len(self.answers)
        kernels.mix[(len(self.x),)](
            self.answers, self.x, len(self.x), self.weights.sizes[1], parts, DP=self.DP,
            BLOCK=min(32, triton.next_power_of_2(parts)), RESIDUAL=not self.weights.accumulates, num_warps=8,
        )  # fmt: skip

    def fold(self) -> None:
        """`Memory.fold` in one program over all streams, layers and heads."""
        memory, (H, D, N) = self.memory, self.weights.sizes
        B, L = memory.high.shape[:2]
        kernels.fold[(triton.cdiv(N, TILE), L * H, B)](
            memory.high, memory.low, memory.window_q, memory.window_x, N, D, L, H,
            DP=self.DP, C=memory.window, ROWS=TILE, PLANES=memory.planes, num_warps=4,
        )  # fmt: skip
        memory.filled.zero_()
