"""What backprop minimises: cross-entropy and the two penalties of the structured protocol."""

from __future__ import annotations

import torch
from torch import Tensor

from bdh.errors import ParamsError
from bdh.models.base import LanguageModel, Output
from bdh.params import Train


def objective(model: LanguageModel, output: Output, settings: Train) -> Tensor:
    """CE + l1 * mean |x_sparse| + l21 * structured norm, a scalar in nats per token.

    `output` comes from a forward pass with targets. The L1 term has a gradient: it is taken from the activations
    themselves. Raises ParamsError when a weight is positive and the model does not offer its penalty.
    """
    assert output.loss is not None
    total = output.loss
    if settings.l1 > 0:
        total = total + settings.l1 * _offered(output.l1, "l1", model)
    if settings.l21 > 0:
        total = total + settings.l21 * _offered(model.l21_penalty(), "l21", model)
    return total


def check_objective(model: LanguageModel, settings: Train, device: torch.device) -> None:
    """Switch on what the objective needs in `model` and raise ParamsError for a penalty or rule it does not offer."""
    model.measure_l1, model.l1_weight = settings.l1 > 0, settings.l1
    if settings.learning_rule not in model.learning_rules:
        raise ParamsError(
            f"train.learning_rule: {_name(model)} does not learn by {settings.learning_rule}; "
            f"allowed: {', '.join(model.learning_rules)}"
        )
    if settings.learning_rule == "hebbian" and (settings.l1 > 0 or settings.l21 > 0):
        raise ParamsError("train.l1 and train.l21 need a gradient and learning_rule: hebbian has none; set them to 0")
    if settings.regime == "none" or (settings.l1 == 0 and settings.l21 == 0):
        return
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        token = torch.zeros(1, 2, dtype=torch.int64, device=device)
        objective(model, model(token, token), settings)


def _offered(penalty: Tensor | None, key: str, model: LanguageModel) -> Tensor:
    if penalty is None:
        raise ParamsError(f"train.{key}: {_name(model)} has no such penalty; set train.{key}: 0 for this variant")
    return penalty


def _name(model: LanguageModel) -> str:
    return type(model).__module__.rpartition(".")[2]
