"""What decoding needs of a model: its weights by name and the two facts in which `bdh` and `eq8` differ."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from bdh.models.base import LanguageModel

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
    return type(model).__name__ == "Model" and type(model).__module__ in ACCUMULATES


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
