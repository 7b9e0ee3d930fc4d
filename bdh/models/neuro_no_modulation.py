"""`neuro_no_modulation`: `neuro` without neuromodulation (the gain of every write is 1)."""

from __future__ import annotations

from dataclasses import dataclass

from bdh.models.neuro import TINY, Model
from bdh.models.neuro import Config as Neuro

__all__ = ["TINY", "Config", "Model"]


@dataclass(frozen=True)
class Config(Neuro):
    """Settings of `neuro` with other defaults."""

    mod_gamma_max: float = 0.0
