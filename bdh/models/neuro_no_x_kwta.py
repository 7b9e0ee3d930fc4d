"""`neuro_no_x_kwta`: `neuro` without k-WTA on x."""

from __future__ import annotations

from dataclasses import dataclass

from bdh.models.neuro import TINY, Model
from bdh.models.neuro import Config as Neuro

__all__ = ["TINY", "Config", "Model"]


@dataclass(frozen=True)
class Config(Neuro):
    """Settings of `neuro` with other defaults."""

    x_kwta: bool = False
