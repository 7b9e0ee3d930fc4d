"""`neuro_multiscale`: `neuro` with one rho per kernel, read as their weighted sum: three time scales instead of one."""

from __future__ import annotations

from dataclasses import dataclass

from bdh.models.neuro import TINY, Model
from bdh.models.neuro import Config as Neuro

__all__ = ["TINY", "Config", "Model"]


@dataclass(frozen=True)
class Config(Neuro):
    """Settings of `neuro` with other defaults."""

    separate_kernels: bool = True
