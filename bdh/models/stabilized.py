"""`stabilized`: the reservoir with a leaky, normalised, thresholded x; as published only a linear readout is trained.

- x_t = x_decay x_{t-1} + Dx e, divided by its L1 norm; every entry at or below threshold_ratio times the largest is 0.
- Everything else is `recurrent`; `lm_head` (D to V, with bias) learns, the random core where `truncation` says so.
- Only x is scanned token by token; the readout through rho is parallel.

Shape letters: B batch, T tokens, D embedding, N neurons, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from bdh.models.recurrent import TINY as TINY
from bdh.models.recurrent import Recurrent
from bdh.reservoir.step import Rules


@dataclass(frozen=True)
class StabilizedConfig:
    """Settings of `stabilized`; names and values are those of the published code.

    n: neurons. d: width. u_decay: decay of rho per token. ln_before_Dy: Dy ln(a), else ln(Dy a). unbiased_std: the
    LayerNorm divides by size - 1. x_decay: leak of x per token. threshold_ratio: share of the largest x below which
    an entry is zero. truncation: as in `recurrent`.
    """

    n: int = 128
    d: int = 32
    u_decay: float = 0.97
    ln_before_Dy: bool = True
    unbiased_std: bool = True
    x_decay: float = 0.97
    threshold_ratio: float = 0.02
    truncation: int = 0


class ReadoutReservoir(Recurrent):
    """A reservoir read by a trained linear layer `lm_head` (weight V,D and bias V; torch's default initialisation)."""

    def __init__(self, config: Any, vocab_size: int) -> None:
        """The random core, then the readout."""
        super().__init__(config, vocab_size)
        self.trains = True
        self.lm_head = nn.Linear(config.d, vocab_size)

    def readout(self, v_BTD: Tensor) -> Tensor:
        """Logits (B,T,V) from v."""
        return self.lm_head(v_BTD.to(self.lm_head.weight.dtype))


class Stabilized(ReadoutReservoir):
    """The stabilized reservoir as a language model."""

    config: StabilizedConfig

    def make_rules(self) -> Rules:
        """The dynamics that the settings stand for."""
        c = self.config
        plain = Rules(kernels=(c.u_decay,), ln_before_Dy=c.ln_before_Dy, unbiased_std=c.unbiased_std)
        return replace(
            plain,
            use_relu_lowrank=False,
            x_decay=c.x_decay,
            x_normalized=True,
            threshold_ratio=c.threshold_ratio,
        )


Config = StabilizedConfig
Model = Stabilized
