"""`neuro_only_modulation`: `neuro_none` with nothing but neuromodulation."""

from __future__ import annotations

from dataclasses import dataclass

from bdh.models.neuro_none import TINY, Model
from bdh.models.neuro_none import Config as Bare

__all__ = ["TINY", "Config", "Model"]


@dataclass(frozen=True)
class Config(Bare):
    """Settings of `neuro_none` with other defaults."""

    mod_gamma_max: float = 0.8
