"""A training pass group by group: forward, readout and loss, and back, before the next group comes.

On a GPU the pass of a group is some hundred short programs. The second pass of the same sizes is recorded in a CUDA
graph and replayed from then on, so that the host is not what one waits for; everything that changes between groups
and steps (rows, targets, weights, what decides dropout) stands in buffers that the graph reads.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bdh.nn.fused_layers import Gradients, Group
from bdh.nn.fused_plan import Plan
from bdh.nn.fused_readout import Readout
from bdh.nn.fused_shape import heads_of

_log = logging.getLogger(__name__)


@dataclass
class Found:
    """Of one step: mean loss, mean activity or None; gradients of u, encoder, encoder_v, decoder, lm_head."""

    loss: Tensor
    activity: Tensor | None
    gradients: list[Tensor]


class Pass:
    """One group's pass, again and again: buffers for what comes in, sums of what comes out.

    u, du: B,T,D of the group, padded. targets: B,t. draws: L,2. `matrices` and `lm_head` are copied by `begin`.
    """

    def __init__(self, plan: Plan, u: Tensor, lm_head: Tensor, targets: Tensor, tokens: int, l1: float) -> None:
        self.plan = plan
        self.u, self.du = torch.empty_like(u), torch.empty_like(u)
        self.targets = torch.empty_like(targets)
        self.draws = torch.zeros(plan.layers, 2, dtype=torch.int32, device=u.device)
        self.readout = Readout(lm_head, plan.dtype, plan.tuning.loss_rows, tokens, plan.forms)
        self.gradients = Gradients.zeros(plan, u)
        self.loss, self.activity = u.new_zeros(()), u.new_zeros(())
        self.l1 = u.new_full((1,), l1) if plan.measure_l1 else None
        self.turns = plan.turns(u.device)
        self.weights = plan.weights_like(u)

    def begin(self, matrices: tuple[Tensor, Tensor, Tensor], lm_head: Tensor) -> None:
        """Take the weights of this step and forget all sums."""
        for own, new in zip(self.weights, self.plan.in_order(matrices), strict=True):
            own.copy_(new)
        self.readout.begin(lm_head)
        for total in (self.gradients.E, self.gradients.V, self.gradients.W, self.loss, self.activity):
            total.zero_()

    def take(self, u: Tensor, targets: Tensor, draws: Tensor) -> None:
        """Take the rows of a group."""
        self.u.copy_(u)
        self.targets.copy_(targets)
        self.draws.copy_(draws)

    def run(self) -> None:
        """Forward, loss, and back."""
        T, D = self.targets.shape[1], self.u.shape[-1]
        group = Group(self.weights, self.plan, self.draws, self.u)
        rows, activity = group.forward(self.u.flatten(0, 1))
        rows_BTD = rows.view_as(self.u)[:, :T]
        loss, d_rows = self.readout.add(rows_BTD.reshape(-1, D), self.targets.flatten())
        self.loss += loss
        if activity is not None:
            self.activity += activity
        d_rows = F.pad(d_rows.view_as(rows_BTD), (0, 0, 0, self.u.shape[1] - T)).flatten(0, 1)
        self.du.copy_(group.backward(d_rows, self.l1, self.gradients).view_as(self.u))


class Runner:
    """Runs the passes of one model and keeps what can be used again in its next step."""

    def __init__(self) -> None:
        self.key: tuple[Any, ...] | None = None
        self.steps = 0
        self.one: Pass | None = None
        self.graph: torch.cuda.CUDAGraph | None = None
        self.records = True

    def run(
        self, u: Tensor, matrices: tuple[Tensor, Tensor, Tensor], lm_head: Tensor, targets: Tensor, l1_weight: float,
        plan: Plan,
    ) -> Found:  # fmt: skip
        """Loss and gradients of a batch; u B,T,D padded, targets B,t; see `fused_stack.FusedTraining`."""
        part, groups = plan.groups()
        one = self._pass(u[groups[0]], lm_head, targets[groups[0]], targets.numel(), l1_weight, plan, part)
        draws, du = plan.draws(groups, u.device), torch.empty_like(u)
        one.begin(matrices, lm_head)
        for number, streams in enumerate(groups):
            one.take(u[streams], targets[streams], draws[number])
            self._step(one)
            du[streams] = one.du
        gradients = one.gradients
        E = heads_of(gradients.E, plan.shape.H)
        activity = one.activity / plan.activities if plan.measure_l1 else None
        self.steps += 1
        return Found(one.loss.clone(), activity, [du, E, gradients.V, gradients.W, one.readout.gradient])

    def _pass(
        self, u: Tensor, lm_head: Tensor, targets: Tensor, tokens: int, l1_weight: float, plan: Plan, part: Plan
    ) -> Pass:
        key: tuple[Any, ...] = (
            part.shape,
            part.tokens,
            part.dtype,
            part.measure_l1,
            part.mask.share,
            part.tuning,
            u.device,
        )
        key += (u.dtype, lm_head.shape, lm_head.dtype, tokens, l1_weight)
        if self.one is None or key != self.key:
            self.key, self.steps, self.graph, self.one, self.records = key, 0, None, None, True
            self.one = Pass(part, u, lm_head, targets, tokens, l1_weight / plan.activities)
        return self.one

    def may_record(self, one: Pass) -> bool:
        """Whether the next pass can become a graph: on a GPU, after a step that compiled every program."""
        return self.records and self.steps > 0 and one.plan.tuning.graph and one.u.is_cuda

    def _step(self, one: Pass) -> None:
        if self.graph is None and self.may_record(one):
            try:
                self.graph = _recorded(one)
            except RuntimeError as problem:
                self.records = False
                reason = (str(problem).splitlines() or ["no reason given"])[0]
                _log.warning("passes are started one program at a time, since no CUDA graph could be made: %s", reason)
        if self.graph is None:
            one.run()
        else:
            self.graph.replay()


def _recorded(one: Pass) -> torch.cuda.CUDAGraph:
    """The pass as a graph; nothing runs yet."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        one.run()
    _log.debug("a pass of %d streams is replayed from a CUDA graph from now on", len(one.u))
    return graph
