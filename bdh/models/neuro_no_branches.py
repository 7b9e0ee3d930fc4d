"""`neuro_no_branches`: `neuro` without dendritic branches (no non-linearity on Dy ln a)."""

from __future__ import annotations

from dataclasses import dataclass

from bdh.models.neuro import TINY, Model
from bdh.models.neuro import Config as Neuro

__all__ = ["TINY", "Config", "Model"]


@dataclass(frozen=True)
class Config(Neuro):
    """Settings of `neuro` with other defaults."""

    branches: int = 0
