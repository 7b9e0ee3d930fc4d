"""`neuro_only_branches`: `neuro_none` with nothing but dendritic branches."""

from __future__ import annotations

from dataclasses import dataclass

from bdh.models.neuro_none import TINY, Model
from bdh.models.neuro_none import Config as Bare

__all__ = ["TINY", "Config", "Model"]


@dataclass(frozen=True)
class Config(Bare):
    """Settings of `neuro_none` with other defaults."""

    branches: int = 2
