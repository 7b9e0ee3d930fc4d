"""`neuro_only_kernels`: `neuro_none` with nothing but the mixture of kernels."""

from __future__ import annotations

from dataclasses import dataclass

from bdh.models.neuro_none import TINY, Model
from bdh.models.neuro_none import Config as Bare

__all__ = ["TINY", "Config", "Model"]


@dataclass(frozen=True)
class Config(Bare):
    """Settings of `neuro_none` with other defaults."""

    U_kernels: str = "0.99,0.97,0.94"
