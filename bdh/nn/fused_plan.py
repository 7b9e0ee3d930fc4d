"""What one fused pass is: its shape, family, precision, dropout, memory and which implementation computes it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor

from bdh.nn import fused_forms
from bdh.nn.fused_dropout import Mask
from bdh.nn.fused_settings import KEPT, Tuning
from bdh.nn.fused_shape import Shape, pair_columns, pair_rows, turns


class Weights(NamedTuple):
    """The three matrices in compute precision and paired order: E, V D,HN and W HN,D."""

    E: Tensor
    V: Tensor
    W: Tensor


@dataclass(frozen=True)
class Plan:
    """A pass over `shape`, of which `tokens` per stream are real.

    layers: L. dtype: of the products' operands. carried: activations add up over layers and there is no residual stream
    (`eq8`), otherwise the layers of `bdh`. mask: dropout of the gated neurons. measure_l1: also the mean activity.
    kernels: Triton (`fused_launch`) or plain torch (`fused_forms`).
    """

    shape: Shape
    tokens: int
    layers: int
    dtype: torch.dtype
    carried: bool
    mask: Mask
    measure_l1: bool
    kernels: bool
    tuning: Tuning

    @property
    def forms(self) -> ModuleType:
        """The module whose functions compute."""
        if not self.kernels:
            return fused_forms
        from bdh.nn import fused_launch

        return fused_launch

    def chunks(self) -> list[tuple[slice, Plan]]:
        """The rows that pass through all layers together, whole streams, each with its own plan."""
        streams = max(1, self.tuning.rows // self.shape.T)
        parts = []
        for first in range(0, self.shape.B, streams):
            count = min(streams, self.shape.B - first)
            row = first * self.shape.T
            shape = dataclasses.replace(self.shape, B=count)
            plan = dataclasses.replace(self, shape=shape, mask=self.mask.of_rows(self.mask.first_row + row))
            parts.append((slice(row, row + count * self.shape.T), plan))
        return parts

    def kept(self) -> list[frozenset[str]]:
        """What each layer keeps for the backward pass within the memory budget; see `fused_settings.KEPT`."""
        left = self.tuning.keep_bytes_long if self.shape.long else self.tuning.keep_bytes
        item = torch.finfo(self.dtype).bits // 8
        kept: list[set[str]] = [{"x"} if self.carried else set() for _ in range(self.layers)]
        for name in KEPT:
            rows = self.shape.segments * self.shape.D if name == "states" else self.shape.R
            size = rows * self.shape.HN * item
            if (name == "states" and not self.shape.long) or (name == "g" and self.tuning.decode == "fused"):
                continue
            for layer in reversed(range(self.layers)):
                if name not in kept[layer] and size <= left:
                    kept[layer].add(name)
                    left -= size
        return [frozenset(names) for names in kept]

    def weights(self, encoder: Tensor, encoder_v: Tensor, decoder: Tensor) -> Weights:
        """Copies of the parameters as the kernels want them."""
        heads = self.shape.H
        return Weights(
            pair_columns(encoder.to(self.dtype)),
            pair_columns(encoder_v.to(self.dtype)),
            pair_rows(decoder.to(self.dtype), heads),
        )

    def turns(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """The rotary tables."""
        return turns(self.shape.T, self.shape.N, device, self.dtype)

    def activation(self, like: Tensor) -> Tensor:
        """An uninitialised R,HN tensor."""
        return torch.empty(self.shape.R, self.shape.HN, dtype=self.dtype, device=like.device)
