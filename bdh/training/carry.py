"""Training with a carried state: every stream hands its state on from window to window (`train.carry`).

The state that comes in was detached from the window before, so gradients stay within a window (truncated
back-propagation through time). On the way from one window to the next its synaptic tensors (`rho*`, `sigma*`) are
multiplied by carry_damping**window, exactly as arm `carry` of stage hebbian does: what a model is trained with is what
it is read with. Without damping rho grows with every token read.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bdh.models.base import LanguageModel, State, damp_state
from bdh.params import Train


class CarriedState:
    """The states of `streams` streams of this process. `tensors` keep their memory for the whole training."""

    def __init__(self, model: LanguageModel, settings: Train, streams: int) -> None:
        """Streams that have read nothing, where the weights are."""
        self.factor = settings.carry_damping**settings.window
        self.initial = model.initial_state(1)
        self.tensors = model.initial_state(streams)

    @torch.no_grad()
    def start_anew(self, starts_B: Tensor) -> None:
        """Forget what the streams with True in `starts` (B) have read."""
        for name, tensor in self.tensors.items():
            torch.where(starts_B.view(-1, *[1] * (tensor.ndim - 1)), self.initial[name], tensor, out=tensor)

    def parts(self, count: int) -> list[State]:
        """The states of `count` micro-batches of streams; their tensors are views of `tensors`."""
        chunks = {name: tensor.chunk(count) for name, tensor in self.tensors.items()}
        return [{name: tensors[part] for name, tensors in chunks.items()} for part in range(count)]

    @torch.no_grad()
    def keep(self, part: State, reached: State) -> None:
        """Put the states behind a window, damped, into `part` (one of `parts`), whose backward pass is over."""
        for name, tensor in damp_state(reached, self.factor).items():
            part[name].copy_(tensor)
