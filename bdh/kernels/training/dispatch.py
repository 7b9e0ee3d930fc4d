"""Whether a model trains through the fused layers, and its step through them.

`kernel` says what is wanted: `auto` (the fused path where it can run: on a GPU, in training, in bfloat16), `plain`
(never), `fused` (always, or an error that says why not; on a CPU the plain-torch forms of the kernels run). One line of
the log tells which path was taken and, if not the fused one, why.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import os
import weakref
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from bdh.kernels.training.layers import Plan
from bdh.kernels.training.reference import Mask
from bdh.kernels.training.shape import SMALLEST, Tuning, shape_of
from bdh.kernels.training.step import FusedTraining, Runner
from bdh.nn.probe import watched
from bdh.project.errors import ParamsError

LARGEST_WIDTH = 512
GENERATIONS = (9, 10)
"""Compute capabilities whose multiprocessors have the shared memory that the tiles want."""

_log = logging.getLogger(__name__)
_RUNNERS: weakref.WeakKeyDictionary[torch.nn.Module, Runner] = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class LayerStack:
    """What a model of the family hands over for a pass: parameters, and the numbers that decide how they act.

    encoder, encoder_v: H,D,N. decoder: H*N,D. lm_head: D,V. layers: L. carried: as in `layers.Plan`. dropout: share of
    gated neurons to drop, 0 outside training. measure_l1, l1_weight: whether the mean activity is measured, its weight
    in the total. tuning: see `shape.Tuning`.
    """

    encoder: Tensor
    encoder_v: Tensor
    decoder: Tensor
    lm_head: Tensor
    layers: int
    carried: bool
    dropout: float
    measure_l1: bool
    l1_weight: float
    tuning: Tuning


class TrainingLoss(NamedTuple):
    """total: loss + l1_weight * l1, to be differentiated; loss: nats per token; l1: mean activity if it is measured."""

    total: Tensor
    loss: Tensor
    l1: Tensor | None


def chooses_fused(kernel: str, training: bool, encoder: Tensor) -> bool:
    """Whether a pass over a model with this encoder (H,D,N) takes the fused path, in the present autocast.

    Raises ParamsError if `kernel` is `fused` and the sizes do not allow it.
    """
    if kernel == "plain" or not torch.is_grad_enabled() or watched() or (kernel == "auto" and not training):
        return False
    reason = reason_against(kernel, encoder)
    if reason is None:
        on_gpu = _kernels(encoder.device)
        _say(f"training on the fused path ({'Triton kernels' if on_gpu else 'plain-torch forms'})")
        return True
    if kernel == "fused":
        raise ParamsError(f"train.kernel: fused cannot run here: {reason}; set train.kernel: auto")
    _say(f"training on the plain path: {reason}")
    return False


@torch.compiler.disable
def refuse_fused(kernel: str) -> None:
    """Say that a pass with a carried state takes the plain path; ParamsError if `kernel` is `fused`."""
    if kernel == "fused":
        raise ParamsError("train.kernel: fused cannot run here: it takes no carried state; set train.kernel: auto")
    _say("training on the plain path: the kernels take no carried state")


def fused_loss(owner: torch.nn.Module, stack: LayerStack, x_BTD: Tensor, targets_BT: Tensor) -> TrainingLoss:
    """Loss and all gradients of the rows x (B,T,D) before the first layer, together; logits are never whole.

    `owner` is the module whose passes share buffers and the CUDA graph from step to step.
    """
    plan = plan_of(stack, *targets_BT.shape)
    padded = F.pad(x_BTD, (0, 0, 0, plan.shape.T - plan.tokens))
    runner = _RUNNERS.setdefault(owner, Runner())
    matrices = (stack.encoder, stack.encoder_v, stack.decoder, stack.lm_head)
    total, loss, l1 = FusedTraining.apply(padded, *matrices, targets_BT, stack.l1_weight, plan, runner)
    return TrainingLoss(total, total if loss is None else loss, l1)


def reason_against(kernel: str, encoder: Tensor) -> str | None:
    """Why the fused path cannot serve this encoder (H,D,N) on its device in the present autocast, or None."""
    device, (_, D, N) = encoder.device, encoder.shape
    if kernel == "auto":
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


def plan_of(stack: LayerStack, streams: int, tokens: int) -> Plan:
    """The plan of one pass over B streams of T tokens, with a fresh seed for dropout from the CPU's generator."""
    (H, D, N), device = stack.encoder.shape, stack.encoder.device
    dtype = torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else stack.encoder.dtype
    shape = shape_of(streams, tokens, D, H, N, stack.tuning)
    mask = Mask(stack.dropout, int(torch.randint(2**31 - 1, ())) if stack.dropout > 0 else 0)
    kernels = _kernels(device)
    return Plan(shape, tokens, stack.layers, dtype, stack.carried, mask, stack.measure_l1, kernels, stack.tuning)


def _kernels(device: torch.device) -> bool:
    """Whether Triton computes: on a GPU, or on a CPU in its interpreter."""
    return device.type == "cuda" or os.environ.get("TRITON_INTERPRET") == "1"


def _autocast_bfloat16(device: torch.device) -> bool:
    return torch.is_autocast_enabled(device.type) and torch.get_autocast_dtype(device.type) == torch.bfloat16


@functools.cache
def _say(message: str) -> None:
    _log.info(message)
