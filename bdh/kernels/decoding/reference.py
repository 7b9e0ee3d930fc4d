"""Decoding in torch operations: the definition of a step, the path of the CPU, and how prompts are read anywhere.

- `choose` takes the next token inside a fixed program: no host, no generator, random numbers counted instead of drawn.
  The number for token v of a stream at a position is a hash of (seed, position, v), so what a stream writes depends on
  its own seed and logits and not on the streams beside it or on how a graph is replayed. The race of exponentials -
  argmin of E_v / p_v with E_v exponential - draws v with probability p_v.
- `PlainStep` reads one token of every stream. Rounding to the narrow type happens where the kernels of
  `bdh.kernels.decoding.many` round, so the two differ by the order of summation only. In float32 and float64 narrow and
  wide are the same and nothing is rounded.
- `prefill` reads prompts into the memory in chunks, many streams at once, each as far as its own prompt goes. Short
  prompts are padded at the end. A padded token writes nothing, because its activations are set to 0 before they become
  keys; causality keeps it from the tokens before it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from bdh.kernels.decoding.memory import DecodingWeights, Memory
from bdh.nn.attention import attend_chunked
from bdh.nn.rope import rotate, rotation
from bdh.project.device import autocast

MASK = 2**32 - 1


def mix(h: Tensor) -> Tensor:
    """An invertible hash of 32-bit numbers that are held in int64 (two multiplications, three shifts)."""
    h = ((h ^ (h >> 16)) * 0x7FEB352D) & MASK
    h = ((h ^ (h >> 15)) * 0x846CA68B) & MASK
    return h ^ (h >> 16)


def exponentials(seed_B: Tensor, position_B: Tensor, vocabulary: int) -> Tensor:
    """Standard exponential numbers (B,V) float32, a pure function of seeds, positions (int64) and the token."""
    first, second = _keys(seed_B, position_B)
    v_V = torch.arange(vocabulary, device=seed_B.device)
    hashed = mix(mix((first.unsqueeze(1) + v_V * 0x9E3779B1) & MASK) ^ second.unsqueeze(1))
    uniform = ((hashed >> 8).float() + 0.5) * 2.0**-24
    return torch.where(uniform < 2.0**-10, uniform + 0.5 * uniform * uniform, -torch.log(1.0 - uniform))


def _keys(seed_B: Tensor, position_B: Tensor) -> tuple[Tensor, Tensor]:
    low, high = position_B & MASK, (position_B >> 32) & MASK
    first = mix(mix((seed_B & MASK) ^ 0x85EBCA6B) ^ low)
    second = mix(mix(((seed_B >> 32) & MASK) ^ mix(first ^ 0x27D4EB2F)) ^ high)
    return first, second


def choose(logits_BV: Tensor, temperature_B: Tensor, top_k_B: Tensor, seed_B: Tensor, position_B: Tensor) -> Tensor:
    """Next tokens (B,) int64. Temperature 0: the likeliest, the first among equals. top_k: 0 keeps all tokens; tokens
    that tie with the last one kept are kept too."""
    logits_BV = logits_BV.float()
    V = logits_BV.shape[1]
    kept_B = torch.where((top_k_B > 0) & (top_k_B < V), top_k_B, V).long()
    least_B1 = logits_BV.sort(dim=1, descending=True).values.gather(1, (kept_B - 1).unsqueeze(1))
    race = logits_BV / temperature_B.clamp_min(1e-30).unsqueeze(1) - exponentials(seed_B, position_B, V).log()
    race = torch.where(logits_BV >= least_B1, race, float("-inf"))
    return torch.where(temperature_B.unsqueeze(1) > 0.0, race, logits_BV).argmax(dim=1)


SPARSE_FROM = 2**19
"""Numbers in one head's state (N*D) from which gathering the rows of active neurons beats reading all of them."""


class PlainStep:
    """Reads `memory.tokens`, one per stream; B,V logits in the wide type."""

    def __init__(self, weights: DecodingWeights, memory: Memory, sparse: bool | None = None) -> None:
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


TOKENS_AT_ONCE = {"cpu": 4096, "cuda": 16384}
LONGEST_CHUNK = 512


@torch.no_grad()
def prefill(weights: DecodingWeights, memory: Memory, prompts: Sequence[Sequence[int]]) -> None:
    """Read `prompts` (one per stream, each may be empty) on top of what the streams hold; the window must be empty.

    Products run in the narrow type of the memory, those with the state in its wide type.
    """
    longest = max(len(prompt) for prompt in prompts)
    device = weights.encoder.device
    lengths_B = torch.tensor([len(prompt) for prompt in prompts], device=device)
    padded = torch.tensor([[*prompt, *[0] * (longest - len(prompt))] for prompt in prompts], dtype=torch.int64)
    chunk = max(1, min(LONGEST_CHUNK, TOKENS_AT_ONCE[device.type] // len(prompts)))
    for start in range(0, longest, chunk):
        tokens_BT = padded[:, start : start + chunk].to(device)
        places_T = torch.arange(start, start + tokens_BT.shape[1], device=device)
        real_BT = places_T < lengths_B[:, None]
        with autocast(device, torch.bfloat16 if memory.narrow == torch.bfloat16 else torch.float32):
            _read(weights, memory, tokens_BT, real_BT)
        memory.position += real_BT.sum(dim=1)


def _read(weights: DecodingWeights, memory: Memory, tokens_BT: Tensor, real_BT: Tensor) -> None:
    """All layers of one chunk. The last layer's answer is not needed: a prompt gives state, not logits."""
    H, B, T = weights.sizes[0], *tokens_BT.shape
    cos, sin = rotation(T, weights.frequency, memory.position)
    x_BTD = weights.embed[tokens_BT]
    xs_HBTN: Tensor | None = None
    for layer in range(weights.layers):
        gained = F.relu(torch.bmm(x_BTD.flatten(0, 1).expand(H, -1, -1), weights.encoder)).unflatten(1, (B, T))
        xs_HBTN = gained if xs_HBTN is None or not weights.accumulates else xs_HBTN + gained
        q_HBTN = rotate(xs_HBTN * real_BT[..., None], cos, sin)
        a_HBTD, rho_HBND = attend_chunked(q_HBTN, x_BTD, memory.layer(layer).transpose(0, 1), T)
        memory.store(layer, rho_HBND.transpose(0, 1))
        if layer + 1 < weights.layers:
            x_BTD = _answer(weights, x_BTD, xs_HBTN, a_HBTD)


def _answer(weights: DecodingWeights, x_BTD: Tensor, xs_HBTN: Tensor, a_HBTD: Tensor) -> Tensor:
    ys_HBTN = F.relu(torch.bmm(normalize(a_HBTD).flatten(1, 2), weights.encoder_v)).view_as(xs_HBTN)
    y_BTD = torch.bmm((xs_HBTN * ys_HBTN).flatten(1, 2), weights.decoder).sum(dim=0).view_as(x_BTD)
    return normalize(y_BTD) if weights.accumulates else normalize(x_BTD + normalize(y_BTD))


def normalize(x: Tensor) -> Tensor:
    """Layer norm over the last dimension without parameters."""
    return F.layer_norm(x, x.shape[-1:])
