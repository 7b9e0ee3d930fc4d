"""What back-propagation minimises and how: the objective (cross-entropy and the two penalties of the structured
protocol), AdamW with decay on matrices only, the learning-rate schedule, and the average of the weights."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from bdh.models.base import LanguageModel, Output
from bdh.params import Train
from bdh.project.errors import ParamsError


def objective(model: LanguageModel, output: Output, settings: Train) -> Tensor:
    """CE + l1 * mean |x_sparse| + l21 * structured norm, a scalar in nats per token.

    `output` comes from a training pass of the model, which `begin_training` has told the weight of the L1 term. That
    term has a gradient: it is taken from the activations themselves. Raises ParamsError when a weight is positive and
    the model does not offer its penalty.
    """
    if settings.l1 > 0:
        _offered(output.l1, "l1", model)
    total = model.objective(output)
    if settings.l21 > 0:
        total = total + settings.l21 * _offered(model.l21_penalty(), "l21", model)
    return total


def check_objective(model: LanguageModel, settings: Train, device: torch.device) -> None:
    """Raise ParamsError for a penalty or a rule that `model`, after its `begin_training`, does not offer."""
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
        objective(model, model.training_pass(token, token), settings)


def _offered(penalty: Tensor | None, key: str, model: LanguageModel) -> Tensor:
    if penalty is None:
        raise ParamsError(f"train.{key}: {_name(model)} has no such penalty; set train.{key}: 0 for this variant")
    return penalty


def _name(model: LanguageModel) -> str:
    return type(model).__module__.rpartition(".")[2]


Named = Sequence[tuple[str, nn.Parameter]]


def make_optimizer(named: Named, settings: Train, device: torch.device) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter 2019) over `named`; gains and biases (one dimension) are not decayed."""
    matrices = [parameter for _, parameter in named if parameter.ndim >= 2]
    others = [parameter for _, parameter in named if parameter.ndim < 2]
    groups = [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=settings.learning_rate,
        betas=(settings.beta1, settings.beta2),
        fused=device.type == "cuda",
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group of parameters this rate; where theirs is a tensor, by writing into it."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def read_rates_from_tensors(optimizer: torch.optim.Optimizer, device: torch.device) -> None:
    """Have the groups read their learning rate from tensors on `device`, as a CUDA graph has to."""
    for group in optimizer.param_groups:
        group["lr"] = torch.as_tensor(group["lr"], dtype=torch.float32, device=device)
        group["capturable"] = device.type == "cuda"


def learning_rate(step: int, settings: Train) -> float:
    """Learning rate of step 1, 2, ...: linear warm-up, then half a cosine down to final_learning_rate * peak."""
    if step <= settings.warmup_steps:
        return settings.learning_rate * step / settings.warmup_steps
    rest = max(1, settings.steps - settings.warmup_steps)
    done = min(1.0, (step - settings.warmup_steps) / rest)
    low = settings.final_learning_rate
    return settings.learning_rate * (low + (1 - low) * 0.5 * (1 + math.cos(math.pi * done)))


def optimizer_tensors(optimizer: torch.optim.Optimizer, named: Named) -> dict[str, Tensor]:
    """The optimizer's memory as `<parameter>/<quantity>`; empty before the first step."""
    names = {id(parameter): name for name, parameter in named}
    return {
        f"{names[id(parameter)]}/{quantity}": tensor
        for parameter, memory in optimizer.state.items()
        for quantity, tensor in memory.items()
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, named: Named, tensors: dict[str, Tensor]) -> None:
    """Give `optimizer` the memory that `optimizer_tensors` returned."""
    names = {id(parameter): name for name, parameter in named}
    order = [names[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        name, _, quantity = key.rpartition("/")
        state.setdefault(order.index(name), {})[quantity] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


class Average:
    """Exponential moving average of a model's parameters (Polyak averaging), float32.

    The first updates use the smaller decay (1 + n) / (10 + n), so that the random start is forgotten. A weight that is
    exactly zero is pruned and is zero in the average too when `keeps_zeros`.
    """

    def __init__(self, model: nn.Module, decay: float, keeps_zeros: bool) -> None:
        self.decay = decay
        self.keeps_zeros = keeps_zeros
        self.names = [name for name, _ in model.named_parameters()]
        self.tensors = [parameter.detach().clone() for parameter in model.parameters()]

    def share(self, step: int) -> float:
        """Share of the way to the weights that the average goes after optimizer step 1, 2, ..."""
        return 1 - min(self.decay, (1 + step) / (10 + step))

    @torch.no_grad()
    def update(self, model: nn.Module, share: float | Tensor) -> None:
        """Move towards the weights by `share` of the way; a number, or a tensor on the device of the weights."""
        weights = [parameter.detach() for parameter in model.parameters()]
        if not weights:
            return
        if isinstance(share, Tensor):
            ways = torch._foreach_sub(weights, self.tensors)
            torch._foreach_mul_(ways, share)
            torch._foreach_add_(self.tensors, ways)
        else:
            torch._foreach_lerp_(self.tensors, weights, share)
        if self.keeps_zeros:
            for average, weight in zip(self.tensors, weights, strict=True):
                average.masked_fill_(weight == 0, 0)

    def put_into(self, model: nn.Module) -> None:
        """Give `model` the averaged weights for good."""
        self._copy(self.tensors, model)

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """Inside the block `model` has the averaged weights."""
        raw = [parameter.detach().clone() for parameter in model.parameters()]
        self._copy(self.tensors, model)
        try:
            yield
        finally:
            self._copy(raw, model)

    @staticmethod
    @torch.no_grad()
    def _copy(tensors: list[Tensor], model: nn.Module) -> None:
        for parameter, tensor in zip(model.parameters(), tensors, strict=True):
            parameter.copy_(tensor)
