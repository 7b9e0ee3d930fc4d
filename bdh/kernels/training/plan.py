"""What one fused pass is: its shape, family, precision, dropout, memory and which implementation computes it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor

from bdh.kernels.training import reference
from bdh.kernels.training.dropout import Mask, draws_of
from bdh.kernels.training.shape import Shape, Tuning, columns, turns


class Weights(NamedTuple):
    """The three matrices in compute precision: E, V D,HN and W HN,D."""

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
            return reference
        from bdh.kernels.training import launch

        return launch

    @property
    def rows(self) -> ModuleType:
        """The module whose functions work on rows between the large steps."""
        if not self.kernels:
            return reference
        from bdh.kernels.training import launch

        return launch

    @property
    def activities(self) -> int:
        """Entries of the activations of all layers: L*B*H*T*N, real tokens only."""
        return self.layers * self.shape.B * self.tokens * self.shape.HN

    def groups(self) -> tuple[Plan, list[slice]]:
        """The streams that pass through all layers together, equally many in every group, and the plan of a group."""
        size = max(1, min(self.shape.B, self.tuning.bytes // (self.bytes_per_token() * self.shape.T)))
        while self.shape.B % size:
            size -= 1
        streams = [slice(first, first + size) for first in range(0, self.shape.B, size)]
        return dataclasses.replace(self, shape=dataclasses.replace(self.shape, B=size)), streams

    def bytes_per_token(self) -> int:
        """Of the activations that a group keeps; see `fused_layers.Group`."""
        tensors = (4 if self.carried else 3) * self.layers + 1
        return tensors * self.shape.HN * torch.finfo(self.dtype).bits // 8

    def draws(self, streams: list[slice], device: torch.device) -> Tensor:
        """The numbers that decide dropout in these groups; see `fused_dropout.draws_of`."""
        first_rows = [self.mask.first_row + part.start * self.shape.T for part in streams]
        return draws_of(self.mask, self.layers, first_rows, device)

    def in_order(self, matrices: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """encoder, encoder_v H,D,N and decoder HN,D in the order of `Weights`, as views where possible."""
        encoder, encoder_v, decoder = matrices
        return columns(encoder), columns(encoder_v), decoder

    def weights(self, encoder: Tensor, encoder_v: Tensor, decoder: Tensor) -> Weights:
        """Copies of the parameters (H,D,N twice, HN,D) as the kernels want them."""
        E, V, W = self.in_order((encoder, encoder_v, decoder))
        return Weights(E.to(self.dtype), V.to(self.dtype), W.to(self.dtype))

    def weights_like(self, like: Tensor) -> Weights:
        """Room for such copies."""
        D, HN = self.shape.D, self.shape.HN
        return Weights(*(like.new_empty(size, dtype=self.dtype) for size in ((D, HN), (D, HN), (HN, D))))

    def turns(self, device: torch.device) -> Tensor:
        """The rotary table."""
        return turns(self.shape.T, self.shape.N, device, self.dtype)
