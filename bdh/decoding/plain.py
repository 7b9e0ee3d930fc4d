"""One token of every stream in torch operations: the definition of a decoding step, and the path of the CPU.

Rounding to the narrow type happens where the kernels of `bdh.decoding.kernels` round, so the two differ by the order of
summation only. In float32 and float64 narrow and wide are the same and nothing is rounded.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from bdh.decoding.memory import Memory
from bdh.decoding.prefill import normalize
from bdh.decoding.weights import Weights
from bdh.nn.rope import rotate, rotation

SPARSE_FROM = 2**19
"""Numbers in one head's state (N*D) from which gathering the rows of active neurons beats reading all of them."""


class PlainStep:
    """Reads `memory.tokens`, one per stream; B,V logits in the wide type."""

    def __init__(self, weights: Weights, memory: Memory, sparse: bool | None = None) -> None:
        """sparse: read only the rows of active neurons (None: by size, on the CPU)."""
        self.weights, self.memory = weights, memory
        large = weights.encoder[0].numel() >= SPARSE_FROM and weights.encoder.device.type == "cpu"
        self.sparse = large if sparse is None else sparse
        self.encoder, self.encoder_v, self.decoder = (
            self._round(weight) for weight in (weights.encoder, weights.encoder_v, weights.decoder)
        )

    def _round(self, x: Tensor) -> Tensor:
        return x.to(self.memory.narrow).to(self.memory.wide)

    @torch.no_grad()
    def __call__(self, filled: int) -> Tensor:
        """Logits after `memory.tokens`, which go to place `filled` of the window; positions and `filled` go on."""
        weights, memory = self.weights, self.memory
        H = weights.sizes[0]
        turn = rotation(1, weights.frequency, memory.position)
        x_BD = weights.embed[memory.tokens]
        xs_HBN: Tensor | None = None
        for layer in range(weights.layers):
            narrow_BD = self._round(x_BD)
            gained = F.relu(torch.bmm(narrow_BD.expand(H, -1, -1), self.encoder))
            xs_HBN = self._round(gained if xs_HBN is None or not weights.accumulates else xs_HBN + gained)
            q_HBN = self._round(rotate(xs_HBN.unsqueeze(2), *turn).squeeze(2))
            a_HBD = self._round(normalize((read_rows if self.sparse else read_all)(memory, layer, q_HBN, filled)))
            memory.window_q[:, layer, :, :, filled] = q_HBN.transpose(0, 1).to(memory.narrow)
            memory.window_x[:, layer, filled] = x_BD.to(memory.narrow)
            gated_HBN = self._round(xs_HBN * F.relu(torch.bmm(a_HBD, self.encoder_v)))
            y_BD = normalize(torch.bmm(gated_HBN, self.decoder).sum(dim=0))
            x_BD = y_BD if weights.accumulates else normalize(x_BD + y_BD)
        memory.position += 1
        memory.filled += 1
        return x_BD @ weights.lm_head


def read_all(memory: Memory, layer: int, q_HBN: Tensor, filled: int) -> Tensor:
    """a (H,B,D) = q rho + (q window_q) window_x over the first `filled` places of the window."""
    q_BH1N = q_HBN.transpose(0, 1).unsqueeze(2)
    a_BH1D = q_BH1N @ memory.high[:, layer].to(memory.wide)
    scores_BH1C = q_BH1N @ memory.window_q[:, layer, ..., :filled].to(memory.wide)
    a_BH1D = a_BH1D + scores_BH1C @ memory.window_x[:, layer, None, :filled].to(memory.wide)
    return a_BH1D.squeeze(2).transpose(0, 1)


def read_rows(memory: Memory, layer: int, q_HBN: Tensor, filled: int) -> Tensor:
    """`read_all` that touches only the rows of active neurons, one stream and head after another."""
    H, B, _ = q_HBN.shape
    a_HBD = q_HBN.new_zeros(H, B, memory.high.shape[-1])
    for stream in range(B):
        x_CD = memory.window_x[stream, layer, :filled].to(memory.wide)
        for head in range(H):
            active = q_HBN[head, stream].nonzero().squeeze(1)
            q_A = q_HBN[head, stream, active]
            rows_AD = memory.high[stream, layer, head].index_select(0, active).to(memory.wide)
            waiting_AC = memory.window_q[stream, layer, head].index_select(0, active)[:, :filled].to(memory.wide)
            a_HBD[head, stream] = q_A @ rows_AD + (q_A @ waiting_AC) @ x_CD
    return a_HBD
