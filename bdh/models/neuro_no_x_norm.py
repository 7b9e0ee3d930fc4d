"""`neuro_no_x_norm`: `neuro` without leak and L1 norm of x (x accumulates as in `recurrent`)."""

from __future__ import annotations

from dataclasses import dataclass

from bdh.models.neuro import TINY, Model
from bdh.models.neuro import Config as Neuro

__all__ = ["TINY", "Config", "Model"]


@dataclass(frozen=True)
class Config(Neuro):
    """Settings of `neuro` with other defaults."""

    x_decay: float = 1.0
    x_normalized: bool = False
