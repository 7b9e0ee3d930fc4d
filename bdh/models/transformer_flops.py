"""The dense baseline at equal training operations per token: `transformer` with another default for `match`."""

from __future__ import annotations

from dataclasses import dataclass

from bdh.models.transformer import TINY, Model
from bdh.models.transformer import Config as TransformerConfig

__all__ = ["TINY", "Config", "Model"]


@dataclass(frozen=True)
class Config(TransformerConfig):
    """The settings of `transformer`, matched on operations unless told otherwise."""

    match: str = "flops"
