"""`neuro_only_x_kwta`: `neuro_none` with nothing but k-WTA on x."""

from __future__ import annotations

from dataclasses import dataclass

from bdh.models.neuro_none import TINY, Model
from bdh.models.neuro_none import Config as Bare

__all__ = ["TINY", "Config", "Model"]


@dataclass(frozen=True)
class Config(Bare):
    """Settings of `neuro_none` with other defaults."""

    x_kwta: bool = True
