"""Choosing the next token inside a fixed program: no host, no generator, random numbers counted instead of drawn.

The number for token v of a stream at a position is a hash of (seed, position, v), so what a stream writes depends on
its own seed and logits and not on the streams beside it or on how a graph is replayed. The race of exponentials
- argmin of E_v / p_v with E_v exponential - draws v with probability p_v.
"""

from __future__ import annotations

import torch
from torch import Tensor

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
