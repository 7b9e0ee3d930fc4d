"""`neuro_no_kwta`: `neuro` without k-WTA on y."""

from __future__ import annotations

from dataclasses import dataclass

from bdh.models.neuro import TINY, Model
from bdh.models.neuro import Config as Neuro

__all__ = ["TINY", "Config", "Model"]


@dataclass(frozen=True)
class Config(Neuro):
    """Settings of `neuro` with other defaults."""

    k_wta: float = 0.0
