"""A training step of the layers of `bdh` or `eq8`: forward, readout and loss, and back, group after group of streams.

- `Readout`: cross-entropy in chunks of tokens, with its gradients: no tensor of tokens times vocabulary is kept. Per
  chunk, where the logits are at hand: z = x W (rounded to the operands' dtype, as autocast does), loss =
  mean(logsumexp(z) - z_target) in float32, dz = (softmax(z) - onehot) / tokens, dx = dz W^T, dW += x^T dz. The columns
  of W are padded to a multiple of 64, which products on a GPU want; padding has no probability.
- `GroupPass`: one group of streams through all of that and back at once, so memory is that of one group and nothing is
  computed twice.
- `Runner`: group after group. On a GPU the pass of a group is some hundred short programs. The second pass of the same
  sizes is recorded in a CUDA graph and replayed from then on, so that the host is not what one waits for; everything
  that changes between groups and steps (rows, targets, weights, what decides dropout) stands in buffers that the graph
  reads.
- `FusedTraining`: the step as one differentiable number for autograd.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from bdh.kernels.training.layers import Gradients, Plan, StreamGroup
from bdh.kernels.training.reference import add_product, product
from bdh.kernels.training.shape import heads_of

PAD = 64
SPENT = "the fused layers keep nothing after their backward pass: run the forward pass again"
APART = (
    "the fused layers know the gradient of loss + l1_weight * activity alone: differentiate that total "
    "(LanguageModel.objective), not the loss or the activity beside it"
)

_log = logging.getLogger(__name__)


class Readout:
    """The mean loss over `tokens` tokens in all, which come in any number of parts, `rows` at a time.

    lm_head: D,V. dtype: of the products' operands. forms: as in `Plan.forms`.
    """

    def __init__(self, lm_head: Tensor, dtype: torch.dtype, rows: int, tokens: int, forms: ModuleType) -> None:
        self.vocabulary = lm_head.shape[1]
        self.W = F.pad(lm_head.detach().to(dtype), (0, -self.vocabulary % PAD))
        self.total = torch.zeros(self.W.shape, dtype=lm_head.dtype, device=lm_head.device)
        self.dtype, self.rows, self.tokens, self.forms = dtype, rows, tokens, forms

    def begin(self, lm_head: Tensor) -> None:
        """Take other weights of the same sizes and forget the gradient."""
        self.W[:, : self.vocabulary].copy_(lm_head)
        self.total.zero_()

    def add(self, x: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """What these tokens (x R,D; targets R, all of them ids) add to the mean loss, and their gradient by x."""
        losses, dx = [], torch.empty_like(x)
        for start in range(0, len(x), self.rows):
            part = slice(start, start + self.rows)
            some = x[part].to(self.dtype)
            logits = some @ self.W
            losses.append(self.forms.loss(logits, targets[part], self.vocabulary, 1.0 / self.tokens).sum())
            dx[part] = product(logits, self.W.mT)
            add_product(self.total, some.mT, logits)
        return torch.stack(losses).sum() / self.tokens, dx

    @property
    def gradient(self) -> Tensor:
        """Of lm_head, D,V."""
        return self.total[:, : self.vocabulary]


@dataclass
class Found:
    """Of one step: mean loss, mean activity or None; gradients of u, encoder, encoder_v, decoder, lm_head."""

    loss: Tensor
    activity: Tensor | None
    gradients: list[Tensor]


class GroupPass:
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
        group = StreamGroup(self.weights, self.plan, self.draws, self.u)
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
        self.one: GroupPass | None = None
        self.graph: torch.cuda.CUDAGraph | None = None
        self.records = True

    def run(
        self, u: Tensor, matrices: tuple[Tensor, Tensor, Tensor], lm_head: Tensor, targets: Tensor, l1_weight: float,
        plan: Plan,
    ) -> Found:  # fmt: skip
        """Loss and gradients of a batch; u B,T,D padded, targets B,t; see `FusedTraining`."""
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
    ) -> GroupPass:
        key: tuple[Any, ...] = (part.shape, part.tokens, part.dtype, part.measure_l1, part.mask.share, part.tuning)
        key += (u.device, u.dtype, lm_head.shape, lm_head.dtype, tokens, l1_weight)
        if self.one is None or key != self.key:
            self.key, self.steps, self.graph, self.one, self.records = key, 0, None, None, True
            self.one = GroupPass(part, u, lm_head, targets, tokens, l1_weight / plan.activities)
        return self.one

    def may_record(self, one: GroupPass) -> bool:
        """Whether the next pass can become a graph: on a GPU, after a step that compiled every program."""
        return self.records and self.steps > 0 and one.plan.tuning.graph and one.u.is_cuda

    def _step(self, one: GroupPass) -> None:
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


def _recorded(one: GroupPass) -> torch.cuda.CUDAGraph:
    """The pass as a graph; nothing runs yet."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        one.run()
    _log.debug("a pass of %d streams is replayed from a CUDA graph from now on", len(one.u))
    return graph


class FusedTraining(torch.autograd.Function):
    """(streams B,T,D, padded; encoder, encoder_v H,D,N; decoder H*N,D; readout D,V; targets B,t; weight of the L1
    term; plan; runner) -> total, loss, activity.

    total: mean cross-entropy in nats + weight * mean activity, the one number whose gradients are computed here, in the
    forward pass; it can be scaled, and differentiated once. loss, activity: its two terms, for the eye; both None where
    the plan measures no activity, since the total is the loss then. A backward pass that reaches one of them raises
    RuntimeError: its gradients are not known. That is decided by which gradients arrive, never by their values, so the
    GPU is not asked.
    """

    @staticmethod
    def forward(
        ctx: Any, u: Tensor, encoder: Tensor, encoder_v: Tensor, decoder: Tensor, lm_head: Tensor, targets: Tensor,
        l1_weight: float, plan: Plan, runner: Runner,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:  # fmt: skip
        """Run every group forward and back."""
        ctx.set_materialize_grads(False)
        with torch.autocast(u.device.type, enabled=False):
            found = runner.run(u, (encoder, encoder_v, decoder), lm_head, targets, l1_weight, plan)
            ctx.gradients = found.gradients
            if found.activity is None:
                return found.loss, None, None
            return found.loss + l1_weight * found.activity, found.loss, found.activity

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, d_total: Tensor | None, d_loss: Tensor | None, d_activity: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        """The gradients that are there, times that of the total."""
        if d_loss is not None or d_activity is not None or d_total is None:
            raise RuntimeError(APART)
        if ctx.gradients is None:
            raise RuntimeError(SPENT)
        gradients, ctx.gradients = ctx.gradients, None
        return *torch._foreach_mul(gradients, d_total), None, None, None, None
