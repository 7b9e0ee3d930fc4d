"""`slim_frozen`: the control of the local rules - BDH-SLIM's random features, frozen, under a readout that learns.

The readout learns by the local delta rule (`train.learning_rule: hebbian`, as in `slim_hebbian`) or by
back-propagation, which in any regime reaches the readout only. Nothing is pruned or scaled.
"""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from bdh.models.slim import TINY as TINY
from bdh.models.slim import Config as Config
from bdh.models.slim import Model as PlasticModel


class Model(PlasticModel):
    """The model of `slim_backprop` whose hidden maps, embeddings and norms keep their initial values."""

    learning_rules: ClassVar[tuple[str, ...]] = ("backprop", "hebbian")
    plastic: ClassVar[bool] = False

    def trainable_parameters(self, regime: str) -> list[tuple[str, nn.Parameter]]:
        """The readout, or nothing in regime `none`."""
        return super().trainable_parameters("none" if regime == "none" else "readout")
