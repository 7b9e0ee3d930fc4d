"""The memory of the streams that are decoded together: fixed buffers, written in place.

A stream's synapses are `rho` plus what the last few tokens wrote, which waits in a window of C tokens:

    a_t = q_t rho + sum_j (q_t . window_q[j]) window_x[j]        (the same sum, in two parts)

When the window is full it is folded, rho += window_q^T window_x, one matrix product in float32 instead of C updates.
So a token reads the rows of its active neurons and writes no state; writing is paid once per C tokens.

A float32 number in two halves that are stored apart: its bfloat16 rounding and what the rounding left.

Reading the state then moves two bytes per number instead of four, while every update is done in float32, exactly: the
32 bits of the number, taken as an integer, are 65536 * high + low with low in [-32768, 32767].

What decoding needs of a model: its weights by name and the two facts in which `bdh` and `eq8` differ.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from bdh.models.base import LanguageModel, State


def split_planes(wide: Tensor) -> tuple[Tensor, Tensor]:
    """High (bfloat16, the nearest, ties away from zero) and low (int16) half of float32 numbers; NaN is not kept."""
    bits = wide.float().contiguous().view(torch.int32)
    high = (bits + 0x8000) >> 16
    return high.to(torch.int16).view(torch.bfloat16), (bits - (high << 16)).to(torch.int16)


def join_planes(high: Tensor, low: Tensor) -> Tensor:
    """The float32 numbers that `split_planes` took apart, bit for bit."""
    bits = (high.contiguous().view(torch.int16).to(torch.int32) << 16) + low.to(torch.int32)
    return bits.view(torch.float32)


ACCUMULATES = {"bdh.models.bdh": False, "bdh.models.eq8": True}
"""Modules whose `Model` can be decoded here; whether x is accumulated over layers (equation (8) of the paper, where
the stream has no residual path either)."""


@dataclass(frozen=True)
class Weights:
    """Weights of one model; `wide` is float32, or float64 for a float64 model.

    encoder, encoder_v: H,D,N. decoder: H,N,D. embed: V,D, rows normalised, wide. lm_head: D,V, wide. frequency: P
    int64. layers: L. accumulates: x_l = x_{l-1} + relu(...) and no residual path.
    """

    encoder: Tensor
    encoder_v: Tensor
    decoder: Tensor
    embed: Tensor
    lm_head: Tensor
    frequency: Tensor
    layers: int
    accumulates: bool

    @property
    def wide(self) -> torch.dtype:
        """Type of the residual stream, the logits and the sums."""
        return self.embed.dtype

    @property
    def sizes(self) -> tuple[int, int, int]:
        """H, D, N."""
        H, D, N = self.encoder.shape
        return H, D, N


def decodable(model: LanguageModel) -> bool:
    """Whether `weights_of` takes the model: exactly the `Model` of bdh (and bdh_structured) or eq8."""
    return type(model).__name__ in ("BDH", "Eq8") and type(model).__module__ in ACCUMULATES


@torch.no_grad()
def weights_of(model: LanguageModel) -> Weights:
    """The weights of a `decodable` model; those that are wide already share its memory, except the embedding."""
    assert decodable(model), type(model)
    tensors = dict(model.named_parameters())
    wide = torch.promote_types(tensors["encoder"].dtype, torch.float32)
    encoder = tensors["encoder"].detach().to(wide)
    embed = tensors["embed.weight"].detach().to(wide)
    return Weights(
        encoder=encoder,
        encoder_v=tensors["encoder_v"].detach().to(wide),
        decoder=tensors["decoder"].detach().to(wide).unflatten(0, (encoder.shape[0], -1)),
        embed=F.layer_norm(embed, embed.shape[-1:]),
        lm_head=tensors["lm_head"].detach().to(wide),
        frequency=model.get_buffer("frequency"),
        layers=int(model.config.n_layer),  # type: ignore[union-attr, arg-type]
        accumulates=ACCUMULATES[type(model).__module__],
    )


class Memory:
    """State of B streams on the device of the weights, all zero at first.

    Tensors: `high` (B,L,H,N,D) the state in the wide type, or its bfloat16 plane with the int16 plane in `low`;
    `window_q` (B,L,H,N,C) rotated activations and `window_x` (B,L,C,D) residual streams of the tokens that wait, in
    the narrow type; `position` (B,) tokens read; `filled` (B,) int32 tokens that wait, the same for all streams;
    `tokens` (B,) the next ones to read. Entries of the window from `filled` on are 0 in `window_q`.
    """

    def __init__(self, weights: Weights, streams: int, window: int, narrow: torch.dtype) -> None:
        H, D, N = weights.sizes
        L, device = weights.layers, weights.encoder.device
        self.planes = narrow == torch.bfloat16
        self.wide, self.narrow, self.window = weights.wide, narrow, window
        shape = (streams, L, H, N, D)
        self.high = torch.zeros(shape, dtype=torch.bfloat16 if self.planes else self.wide, device=device)
        self.low = torch.zeros(shape if self.planes else (0,), dtype=torch.int16, device=device)
        self.window_q = torch.zeros(streams, L, H, N, window, dtype=narrow, device=device)
        self.window_x = torch.zeros(streams, L, window, D, dtype=narrow, device=device)
        self.position = torch.zeros(streams, dtype=torch.int64, device=device)
        self.filled = torch.zeros(streams, dtype=torch.int32, device=device)
        self.tokens = torch.zeros(streams, dtype=torch.int64, device=device)

    def clear(self) -> None:
        """Forget everything."""
        for tensor in (self.high, self.low, self.window_q, self.window_x, self.position, self.filled, self.tokens):
            tensor.zero_()

    def layer(self, layer: int) -> Tensor:
        """rho of one layer (B,H,N,D) in the wide type, without the window; a view where it is stored so."""
        high = self.high[:, layer]
        return join_planes(high, self.low[:, layer]) if self.planes else high

    def store(self, layer: int, rho_BHND: Tensor) -> None:
        """Replace rho of one layer."""
        if not self.planes:
            self.high[:, layer] = rho_BHND
            return
        for stream, rho_HND in enumerate(rho_BHND):
            self.high[stream, layer], self.low[stream, layer] = split_planes(rho_HND)

    def fold(self) -> None:
        """rho += window_q^T window_x of every layer, products and sums in the wide type; the window is empty then."""
        for layer in range(self.high.shape[1]):
            for stream in range(len(self.high)):
                q_HNC = self.window_q[stream, layer].to(self.wide)
                added_HND = q_HNC @ self.window_x[stream, layer].to(self.wide)
                if self.planes:
                    rho_HND = join_planes(self.high[stream, layer], self.low[stream, layer]) + added_HND
                    self.high[stream, layer], self.low[stream, layer] = split_planes(rho_HND)
                else:
                    self.high[stream, layer] += added_HND
        self.window_q.zero_()
        self.filled.zero_()

    def state(self) -> State:
        """The streams as the model carries them; fold first, or what waits in the window is missing."""
        rho = torch.stack([self.layer(layer) for layer in range(self.high.shape[1])], dim=1)
        return {"rho": rho, "position": self.position.clone()}

    def bytes_per_stream(self) -> int:
        """Bytes of state and window of one stream, whatever it has read."""
        tensors = (self.high, self.low, self.window_q, self.window_x)
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors) // len(self.high)
