"""`neuro_only_x_norm`: `neuro_none` with nothing but leak and L1 norm of x."""

from __future__ import annotations

from dataclasses import dataclass

from bdh.models.neuro_none import TINY, Model
from bdh.models.neuro_none import Config as Bare

__all__ = ["TINY", "Config", "Model"]


@dataclass(frozen=True)
class Config(Bare):
    """Settings of `neuro_none` with other defaults."""

    x_decay: float = 0.97
    x_normalized: bool = True
