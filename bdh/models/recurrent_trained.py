"""`recurrent_trained`: `recurrent` with E, Dx, Dy and token_emb trained by truncated back-propagation through time.

Gradients flow back over `truncation` tokens inside a window: the state is cut from its history at every multiple.
They pass through k-WTA and thresholds where the mask is open and nowhere else; the masks, and the number of neurons
that the gain lets through, are not differentiated.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from bdh.models.recurrent import TINY as TINY_CORE
from bdh.models.recurrent import Config as Untrained
from bdh.models.recurrent import Model as UntrainedModel

TINY = TINY_CORE | {"truncation": 8}


@dataclass(frozen=True)
class Config(Untrained):
    """Settings of `recurrent`, and `truncation`: tokens that gradients flow back over."""

    truncation: int = 32


class Model(UntrainedModel):
    """`recurrent` whose core learns."""

    trains: ClassVar[bool] = True
    trains_core: ClassVar[bool] = True
    config: Config

    def truncation(self) -> int | None:
        """Tokens that gradients flow back over."""
        return self.config.truncation
