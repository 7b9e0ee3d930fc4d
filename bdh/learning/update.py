"""One update of the weights: by back-propagation, by the model's local rule, or by both in that order."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from bdh.device import autocast
from bdh.errors import ParamsError
from bdh.learning.objective import objective
from bdh.learning.optimizer import Named, learning_rate, make_optimizer
from bdh.models.base import LanguageModel
from bdh.params import Train


class Update:
    """Applies `settings.learning_rule` to the parameters of `settings.regime`.

    Everything that is not trained by gradient has `requires_grad` off: a purely Hebbian training never builds a graph.
    Raises ParamsError when the variant has nothing to train under these settings.
    """

    def __init__(self, model: LanguageModel, settings: Train, device: torch.device, precision: torch.dtype) -> None:
        self.model, self.settings, self.device, self.precision = model, settings, device, precision
        self.named: Named = []
        if settings.regime != "none" and settings.learning_rule != "hebbian":
            self.named = model.trainable_parameters(settings.regime)
            if not self.named:
                raise ParamsError(
                    f"train.regime: {settings.regime} has no parameters to train in {type(model).__module__}; "
                    "set train.regime: none for this variant"
                )
        trained = {id(parameter) for _, parameter in self.named}
        for parameter in model.parameters():
            parameter.requires_grad_(id(parameter) in trained)
        self.optimizer = make_optimizer(self.named, settings, device) if self.named else None
        self.forward: nn.Module = model

    def compile(self, tokens_BT: Tensor, targets_BT: Tensor) -> str | None:
        """Use torch.compile as `settings.compile` asks (auto: on a GPU), tried on a batch without taking a step.

        Returns None, or the reason why this machine cannot compile; the model then runs as it is.
        """
        wanted = self.settings.compile == "on" or (self.settings.compile == "auto" and self.device.type == "cuda")
        if not wanted or self.optimizer is None:
            return None
        try:
            module = cast(nn.Module, torch.compile(self.model))
            with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
                with autocast(self.device, self.precision):
                    total = objective(self.model, module(tokens_BT, targets_BT), self.settings)
                total.backward()
        except Exception as error:  # the compiler's back ends raise whatever they like
            torch.compiler.reset()
            return (str(error).strip().splitlines() or [type(error).__name__])[0]
        finally:
            self.optimizer.zero_grad(set_to_none=True)
        self.forward = module
        return None

    def apply(self, step: int, tokens_BT: Tensor, targets_BT: Tensor) -> tuple[Tensor, Tensor | None]:
        """Optimizer step 1, 2, ...: cross-entropy before it (nats per token) and the gradient norm before clipping."""
        loss = norm = None
        if self.optimizer is not None:
            loss, norm = self._descend(self.optimizer, step, tokens_BT, targets_BT)
        if self.settings.learning_rule != "backprop":
            with torch.no_grad():
                output = cast(Any, self.model).local_update(tokens_BT, targets_BT)
            loss = output.loss if loss is None else loss
        after_step = getattr(self.model, "after_step", None)
        if after_step is not None:
            after_step(step)
        assert loss is not None
        return loss, norm

    def _descend(
        self, optimizer: torch.optim.Optimizer, step: int, tokens_BT: Tensor, targets_BT: Tensor
    ) -> tuple[Tensor, Tensor]:
        optimizer.zero_grad(set_to_none=True)
        with autocast(self.device, self.precision):
            output = self.forward(tokens_BT, targets_BT)
            total = objective(self.model, output, self.settings)
        total.backward()
        norm = nn.utils.clip_grad_norm_([parameter for _, parameter in self.named], self.settings.gradient_clip)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, self.settings)
        optimizer.step()
        assert output.loss is not None
        return output.loss.detach(), norm.detach()
