"""Local learning rules: a synapse changes by what its own two ends do. No gradient is propagated.

Every rule takes one layer's inputs x (R,I) and outputs y (R,O), R rows being all tokens of a batch. In a
data-parallel group the means are taken over the rows of all ranks, so that replicas stay equal.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.distributed
import torch.nn.functional as F
from torch import Tensor

Rule = Callable[[Tensor, Tensor, Tensor, float], Tensor]
LARGEST_STEP = 0.5
"""Oja: largest rate times mean squared output; at one half the step is the Babylonian square root, which contracts."""
SELF_CONCORDANCE = 1.44
"""2 (e - 2), rounded up: how much steeper than its parabola the softmax loss can get within one nat."""
TINIEST = torch.finfo(torch.float32).tiny


def plain_change(weight_OI: Tensor, x_RI: Tensor, y_RO: Tensor, rate: float) -> Tensor:
    """Hebb's rule `dW = rate * mean(y x^T)`.

    With y = W x it multiplies W by `1 + rate * mean(x x^T)`: a power iteration without bound.
    """
    return rate * _correlation(x_RI, y_RO)


def oja_change(weight_OI: Tensor, x_RI: Tensor, y_RO: Tensor, rate: float) -> Tensor:
    """Oja's rule `dW = rate * mean(y x^T - y^2 W)` (Oja 1982), every neuron (row of W) for itself.

    As written it diverges for large inputs (rate * mean y^2 above 2), so a neuron's rate is at most
    LARGEST_STEP / mean y^2. With y = W x, for any rate and any inputs with X = mean |x|^2, a row then obeys
    `|w_after|^2 <= max(|w|^2, 2 + rate X)`: learning cannot diverge. Behind a GELU, y is smaller and the same holds but
    for a drift that ends where the neuron falls silent.
    """
    energy_O = mean_over_ranks(y_RO.square().mean(0))
    rate_O1 = (LARGEST_STEP / energy_O).clamp(max=rate)[:, None]
    return rate_O1 * (_correlation(x_RI, y_RO) - energy_O[:, None] * weight_OI)


def delta_change(logits_RV: Tensor, targets_R: Tensor, h_RD: Tensor, rate: float) -> Tensor:
    """Delta rule of a softmax readout, `dW = rate * mean((onehot(target) - softmax(logits)) h^T)`, (V,D).

    Local: each readout neuron knows its own error and its own inputs. `rate` is an upper limit. The step also ends
    where a logit range would change by more than one nat, and at the minimum of a parabola above the mean loss
    (softmax is self-concordant: within one nat its curvature grows by less than SELF_CONCORDANCE). So a step never
    raises the mean loss of its own tokens, whatever they are.
    """
    p_RV = F.softmax(logits_RV, dim=-1)
    error_RV = -p_RV
    error_RV[torch.arange(len(targets_R), device=targets_R.device), targets_R] += 1.0
    direction_VD = _correlation(h_RD, error_RV)
    change_RV = h_RD @ direction_VD.mT
    range_R = change_RV.amax(-1) - change_RV.amin(-1)
    mean_R1 = (p_RV * change_RV).sum(-1, keepdim=True)
    curvature = mean_over_ranks((p_RV * (change_RV - mean_R1).square()).sum(-1).mean())
    minimum = direction_VD.square().sum() / (SELF_CONCORDANCE * curvature.clamp(min=TINIEST))
    step = torch.minimum(minimum, 1.0 / largest_over_ranks(range_R.amax())).clamp(max=rate)
    return step * direction_VD


RULES: dict[str, Rule] = {"oja": oja_change, "plain": plain_change}


def mean_over_ranks(value: Tensor) -> Tensor:
    """The mean of `value` over a data-parallel group, `value` itself outside of one."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        value = value.clone()
        torch.distributed.all_reduce(value)
        value /= torch.distributed.get_world_size()
    return value


def largest_over_ranks(value: Tensor) -> Tensor:
    """The largest `value` of a data-parallel group, `value` itself outside of one."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        value = value.clone()
        torch.distributed.all_reduce(value, op=torch.distributed.ReduceOp.MAX)
    return value


def _correlation(x_RI: Tensor, y_RO: Tensor) -> Tensor:
    return mean_over_ranks(y_RO.mT @ x_RI / len(x_RI))
