"""Rotary position encoding.

Of BDH's neurons: neighbours (2i, 2i+1) turn together, each pair at its own frequency.

- The frequency of neuron n is `1 / (2^16)^(2*floor(n/2)/N) / 2pi` turns per token, a float32 number.
- Below position `EXACT_FROM` the phase is the float32 product position * frequency modulo 1, bit for bit what the
  official model computes. That product loses one bit whenever the position doubles: at `EXACT_FROM` it is off by
  up to 1.2e-4 turns, at 2^24 by an eighth of a turn.
- From `EXACT_FROM` on, where the quadratic official form is out of reach and only a carried state arrives, the phase
  is exact at any int64 position: a float32 frequency is a whole number of 2^-42 turns, so position * frequency is a
  product of integers and its fraction is the low 42 bits.
- Phases, cosines and sines are float32 whatever the precision of the model.

Over the two halves of a head (`half_rotation`, `rotate_halves`): pairs (i, i + K/2), base 10000 (Su et al. 2021,
GPT-NeoX layout).

Letters: B batch, T tokens, N neurons per head, P = N/2 pairs, K entries per head.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor

BASE = 2**16
FRACTION_BITS = 42
EXACT_FROM = 2**14


def pair_frequencies(neurons: int) -> Tensor:
    """Frequencies of the N/2 neuron pairs in units of 2^-42 turns per token, (P,) int64, exact.

    Integers survive `model.double()` and `model.bfloat16()`, so the rotation does not depend on the model's dtype.
    """
    pair_start_P = torch.arange(0, neurons, 2, dtype=torch.float32)
    turns_P = 1.0 / BASE ** (pair_start_P / neurons) / (2 * math.pi)
    return (turns_P.double() * 2**FRACTION_BITS).long()


def neuron_frequencies(frequency_P: Tensor) -> Tensor:
    """Frequencies of all N neurons in turns per token, (N,) float32, from the integers of `pair_frequencies`."""
    return (frequency_P.double() / 2**FRACTION_BITS).float().repeat_interleave(2)


def phases(positions: Tensor, frequency_P: Tensor) -> Tensor:
    """Phases in turns, 0 to 1, at int64 `positions` of any shape: that shape and P, float32."""
    rounded = _rounded_phases(positions, frequency_P)
    fraction = positions.unsqueeze(-1) * frequency_P & (2**FRACTION_BITS - 1)
    exact = fraction.float() * 2.0**-FRACTION_BITS
    return torch.where(positions.unsqueeze(-1) < EXACT_FROM, rounded, exact)


def rotation(tokens: int, frequency_P: Tensor, position_B: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Cosine and sine of the phases of the next `tokens` positions, float32.

    Shape T,P for streams that start at 0 (`position_B` None), otherwise B,T,P.
    """
    positions = torch.arange(tokens, device=frequency_P.device)
    if position_B is not None:
        turns = phases(position_B.unsqueeze(-1) + positions, frequency_P)
    elif tokens > EXACT_FROM:
        turns = phases(positions, frequency_P)
    else:
        turns = _rounded_phases(positions, frequency_P)
    angles = turns * (2 * math.pi)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the pairs of `x` (..., T, N) by the angles of `rotation`; same shape and dtype.

    Computed in float32 at least. A pair is a complex number and a turn a product, which runs in one pass; a compiler,
    which has no complex numbers but fuses, gets the same products written out. Many tokens on a GPU without gradients
    are turned by one compiled program, which moves a fifth of the bytes.
    """
    if torch.compiler.is_compiling():
        return _written_out(x, cos, sin)
    if x.is_cuda and x.numel() >= MANY and not torch.is_grad_enabled():
        return _compiled()(x, cos, sin)
    wide = x if x.dtype == torch.float64 else x.float()
    pairs = torch.view_as_complex(wide.unflatten(-1, (-1, 2)).contiguous())
    turned = torch.view_as_real(pairs * torch.complex(cos, sin).to(pairs.dtype))
    return turned.flatten(-2).to(x.dtype)


MANY = 2**24


def _written_out(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """`rotate` in real numbers."""
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.stack((even * cos - odd * sin, odd * cos + even * sin), dim=-1)
    return turned.flatten(-2).to(x.dtype)


@functools.cache
def _compiled() -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """`_written_out` as one program for every size."""
    return torch.compile(_written_out, dynamic=True)


def _rounded_phases(positions: Tensor, frequency_P: Tensor) -> Tensor:
    turns_P = (frequency_P.double() / 2**FRACTION_BITS).float()
    return positions.unsqueeze(-1).float() * turns_P % 1


HALF_BASE = 10000.0


def half_frequencies(head_size: int, device: torch.device | None = None) -> Tensor:
    """Radians per token of every pair, (head_size / 2,) float32: `BASE ** (-2 i / head_size)`."""
    exponents = torch.arange(0, head_size, 2, device=device).float() / head_size
    return 1.0 / (HALF_BASE**exponents)


def half_rotation(positions_BT: Tensor, head_size: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosine and sine (B,1,T,K/2) of the phases at integer positions (B,T).

    Phases are float64, so that a stream may be millions of tokens long.
    """
    frequencies_K = half_frequencies(head_size, positions_BT.device).double()
    phases_B1TK = positions_BT[:, None, :, None].double() * frequencies_K
    return phases_B1TK.cos().to(dtype), phases_B1TK.sin().to(dtype)


def rotate_halves(x_BHTK: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Turn every pair (i, i + K/2) of `x_BHTK` by the phase of its position."""
    cos, sin = rotation
    first, second = x_BHTK.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
