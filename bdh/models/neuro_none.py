"""`neuro_none`: `recurrent` with a trained readout: every mechanism of `neuro` off, the control of its ablations."""

from __future__ import annotations

from dataclasses import dataclass

from bdh.models.neuro import TINY, Model
from bdh.models.neuro import Config as Neuro

__all__ = ["TINY", "Config", "Model"]


@dataclass(frozen=True)
class Config(Neuro):
    """Settings of `neuro` with other defaults."""

    spike_rate: float = 0.0
    k_wta: float = 0.0
    homeostasis_tau: float = 0.0
    local_forget_eta: float = 0.0
    branches: int = 0
    mod_gamma_max: float = 0.0
    U_kernels: str = ""
    x_kwta: bool = False
    x_decay: float = 1.0
    x_normalized: bool = False
