"""Whether a model trains through the fused layers, and the pass through them.

`model.kernel` says what is wanted: `auto` (the fused path where it can run: on a GPU, in training, in bfloat16),
`plain` (never), `fused` (always, or an error that says why not; on a CPU the plain-torch forms of the kernels run).
One line of the log tells which path was taken and, if not the fused one, why.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import os
import weakref
from typing import Any

import torch
from torch import Tensor

from bdh.kernels.training.dropout import Mask
from bdh.kernels.training.plan import Plan
from bdh.kernels.training.shape import SMALLEST, shape_of
from bdh.kernels.training.step import FusedStack, FusedTraining, Runner
from bdh.models.base import Output, State, cross_entropy
from bdh.nn.probe import watched
from bdh.project.errors import ParamsError

LARGEST_WIDTH = 512
GENERATIONS = (9, 10)
"""Compute capabilities whose multiprocessors have the shared memory that the tiles want."""

_log = logging.getLogger(__name__)
_RUNNERS: weakref.WeakKeyDictionary[torch.nn.Module, Runner] = weakref.WeakKeyDictionary()


@torch.compiler.disable
def fused_output(
    model: Any, tokens_BT: Tensor, targets_BT: Tensor | None, state: State | None, *, carried: bool
) -> Output | None:
    """The output of a training pass through the fused layers, or None where the plain path has to run.

    `model` has the parameters and Config of `bdh`; `carried` as in `fused_plan.Plan`. With targets the loss and all
    gradients are computed together and the logits are never whole: the output's have shape B,0,V. Raises ParamsError if
    `model.kernel` is `fused` and the sizes do not allow it. Under torch.compile this runs uncompiled.
    """
    if model.kernel == "plain" or state is not None or not torch.is_grad_enabled() or watched():
        return None
    if model.kernel == "auto" and not model.training:
        return None
    reason = reason_against(model)
    if reason is not None:
        if model.kernel == "fused":
            raise ParamsError(f"train.kernel: fused cannot run here: {reason}; set train.kernel: auto")
        _say(f"training on the plain path: {reason}")
        return None
    plan = plan_of(model, tokens_BT, carried)
    _say(f"training on the fused path ({'Triton kernels' if plan.kernels else 'plain-torch forms'})")
    x_BTD = torch.nn.functional.layer_norm(model.embed(tokens_BT), (plan.shape.D,))
    padded = torch.nn.functional.pad(x_BTD, (0, 0, 0, plan.shape.T - plan.tokens))
    matrices = (model.encoder, model.encoder_v, model.decoder)
    if targets_BT is not None and (model.l1_weight > 0 or not plan.measure_l1):
        runner = _RUNNERS.setdefault(model, Runner())
        loss, l1 = FusedTraining.apply(padded, *matrices, model.lm_head, targets_BT, model.l1_weight, plan, runner)
        return Output(x_BTD.new_empty(x_BTD.shape[0], 0, model.vocab_size), loss, None, l1)
    after_BTD, l1 = FusedStack.apply(padded, *matrices, plan)
    logits_BTV = after_BTD[:, : plan.tokens] @ model.lm_head
    return Output(logits_BTV, cross_entropy(logits_BTV, targets_BT), None, l1)


def reason_against(model: Any) -> str | None:
    """Why the fused path cannot serve this model on its device in the present autocast, or None."""
    device, (_, D, N) = model.encoder.device, model.encoder.shape
    if model.kernel == "auto":
        if device.type != "cuda":
            return f"the kernels are for GPUs and this is {device.type}"
        if not _autocast_bfloat16(device):
            return "the precision is not bfloat16"
        if torch.cuda.get_device_capability(device)[0] not in GENERATIONS:
            return "the tiles are for GPUs with 227 KiB of shared memory (Hopper, Blackwell); kernel: fused tries them"
    if not _kernels(device):
        return None if device.type == "cpu" else f"there is no form of it for {device.type}"
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    if D & (D - 1) or not SMALLEST <= D <= LARGEST_WIDTH:
        return f"n_embd {D} is not a power of two from {SMALLEST} to {LARGEST_WIDTH}"
    if N % (2 * SMALLEST):
        return f"{N} neurons per head are not a multiple of {2 * SMALLEST}"
    return None


def plan_of(model: Any, tokens_BT: Tensor, carried: bool) -> Plan:
    """The plan of one pass of `model` over these tokens, with a fresh seed for dropout from the CPU's generator."""
    (H, D, N), (B, T) = model.encoder.shape, tokens_BT.shape
    device, tuning = model.encoder.device, model.tuning
    dtype = model.encoder.dtype
    if torch.is_autocast_enabled(device.type):
        dtype = torch.get_autocast_dtype(device.type)
    share = model.config.dropout if model.training else 0.0
    shape = shape_of(B, T, D, H, N, tuning)
    seed = int(torch.randint(2**31 - 1, ())) if share > 0 else 0
    mask = Mask(share, seed, model.first_stream * shape.T)
    layers = model.config.n_layer
    return Plan(shape, T, layers, dtype, carried, mask, model.measure_l1, _kernels(device), tuning)


def _kernels(device: torch.device) -> bool:
    """Whether Triton computes: on a GPU, or on a CPU in its interpreter."""
    return device.type == "cuda" or os.environ.get("TRITON_INTERPRET") == "1"


def _autocast_bfloat16(device: torch.device) -> bool:
    return torch.is_autocast_enabled(device.type) and torch.get_autocast_dtype(device.type) == torch.bfloat16


@functools.cache
def _say(message: str) -> None:
    _log.info(message)
