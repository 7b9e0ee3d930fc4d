"""One update of the weights: by back-propagation, by the model's local rule, or by both in that order."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from bdh.models.base import LanguageModel, Output, State
from bdh.params import Train
from bdh.project.device import autocast
from bdh.project.errors import ParamsError
from bdh.training.carry import CarriedState
from bdh.training.distributed.group import ALONE, ProcessGroup
from bdh.training.graphs import Recorder, StepGraphs, record
from bdh.training.optimizer import (
    Average,
    Named,
    learning_rate,
    make_optimizer,
    objective,
    read_rates_from_tensors,
    set_learning_rate,
)


class TrainingPass(nn.Module):
    """`model.training_pass` as a module of its own, which torch.compile and DistributedDataParallel can wrap.

    It shares the model's parameters. Names and checkpoints are always those of the model itself.
    """

    def __init__(self, model: LanguageModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens_BT: Tensor, targets_BT: Tensor, state: State | None = None) -> Output:
        """See `LanguageModel.training_pass`."""
        return self.model.training_pass(tokens_BT, targets_BT, state)


class Update:
    """Applies `settings.learning_rule` to the parameters of `settings.regime`.

    Everything that is not trained by gradient has `requires_grad` off: a purely Hebbian training never builds a graph.
    Raises ParamsError when the variant has nothing to train under these settings.
    """

    def __init__(
        self,
        model: LanguageModel,
        settings: Train,
        device: torch.device,
        precision: torch.dtype,
        group: ProcessGroup = ALONE,
        average: Average | None = None,
    ) -> None:
        self.group = group
        self.average = average
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
        self.training_pass: nn.Module = TrainingPass(model)
        self.carried: CarriedState | None = None
        if settings.carry and self.named:
            self.carried = CarriedState(model, settings, settings.batch_size // group.size)
        self.graphs: StepGraphs | None = None
        self.share: Tensor | None = None
        self.exchanges = True
        self._replica: DistributedDataParallel | None = None
        if group.size > 1:  # layers share their weights, so no gradient is complete before the whole backward pass
            torch._dynamo.config.optimize_ddp = False

    def compile(self, tokens_BT: Tensor, targets_BT: Tensor) -> str | None:
        """Use torch.compile as `settings.compile` asks (auto: on a GPU), tried on a batch without taking a step.

        What trains and what validates (`forward`) are compiled apart. Returns None, or the reason why this machine
        cannot compile; the model then runs as it is, on all ranks.
        """
        reason, wanted = self._try_to_compile(tokens_BT, targets_BT)
        if wanted and sum(self.group.mean([float(reason is not None)])) > 0:
            self.forward, self.training_pass = self.model, TrainingPass(self.model)
            reason = reason or "another rank cannot"
        return reason

    def _try_to_compile(self, tokens_BT: Tensor, targets_BT: Tensor) -> tuple[str | None, bool]:
        """Why not, and whether it was asked for."""
        wanted = self.settings.compile == "on" or (self.settings.compile == "auto" and self.device.type == "cuda")
        if not wanted or self.optimizer is None:
            return None, False
        own = len(tokens_BT) // self.settings.accumulate
        state = None if self.carried is None else self.carried.parts(self.settings.accumulate)[0]
        try:
            compiled = cast(nn.Module, torch.compile(TrainingPass(self.model)))
            with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
                with autocast(self.device, self.precision):
                    total = objective(self.model, compiled(tokens_BT[:own], targets_BT[:own], state), self.settings)
                total.backward()
        except Exception as error:  # the compiler's back ends raise whatever they like
            torch.compiler.reset()
            return (str(error).strip().splitlines() or [type(error).__name__])[0], True
        finally:
            self.optimizer.zero_grad(set_to_none=True)
        self.training_pass, self.forward = compiled, cast(nn.Module, torch.compile(self.model))
        return None, True

    def start_graphs(self, say: Callable[[str], None], recorder: Recorder = record) -> None:
        """Replay steps from CUDA graphs as `settings.graphs` asks (auto: on a GPU) and the training allows.

        `say` is told what is not possible. To be called before the first step, after a checkpoint was taken up.
        """
        obstacle = self._obstacle() if recorder is record else None
        if obstacle is not None and self.settings.graphs == "on":
            say(f"training goes on without CUDA graphs: {obstacle}")
        if obstacle is not None or self.settings.graphs == "off":
            return
        if self.optimizer is not None:
            read_rates_from_tensors(self.optimizer, self.device)
        self.share = torch.zeros((), device=self.device)
        self.graphs = StepGraphs(say, recorder)

    def _obstacle(self) -> str | None:
        """Why steps cannot be CUDA graphs, None when nothing is known against it."""
        if self.device.type != "cuda":
            return f"they are for GPUs and this is {self.device.type}"
        if self.group.size > 1:
            return "the processes of a group exchange gradients within a step"
        with autocast(self.device, self.precision):
            recordable = self.carried is not None or self.model.is_recordable()
        return None if recordable else "the fused layers have graphs of their own"

    def apply(
        self, step: int, tokens_BT: Tensor, targets_BT: Tensor, starts_B: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Optimizer step 1, 2, ...: cross-entropy before it (nats per token) and the gradient norm before clipping.

        `tokens_BT` and the cross-entropy are this rank's own; gradients and local changes are means over all ranks.
        Of a training with a carried state `starts_B` says which streams start anew. The weight average follows.
        """
        if self.optimizer is not None:
            set_learning_rate(self.optimizer, learning_rate(step, self.settings))
        share: float | Tensor | None = None if self.average is None else self.average.share(step)
        if self.share is not None and share is not None:
            share = self.share.fill_(share)
        inputs = (tokens_BT, targets_BT) if starts_B is None else (tokens_BT, targets_BT, starts_B)
        if self.graphs is None:
            return self._step(step, share, *inputs)
        return self.graphs.run(self.model.step_kind(step), partial(self._step, step, share), inputs)

    def _step(
        self,
        step: int,
        share: float | Tensor | None,
        tokens_BT: Tensor,
        targets_BT: Tensor,
        starts_B: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """All of an optimizer step but what its number decides; in a graph it is recorded once for a kind of step."""
        loss = norm = None
        if self.carried is not None and starts_B is not None:
            self.carried.start_anew(starts_B)
        self.model.latest_tokens_BT = tokens_BT
        if self.optimizer is not None:
            loss, norm = self._descend(self.optimizer, tokens_BT, targets_BT)
        if self.settings.learning_rule != "backprop":
            with torch.no_grad():
                output = self.model.local_update(tokens_BT, targets_BT)
            loss = output.loss if loss is None else loss
        self.model.after_step(step)
        if self.average is not None and share is not None:
            self.average.update(self.model, share)
        assert loss is not None
        return loss, norm

    def _descend(
        self, optimizer: torch.optim.Optimizer, tokens_BT: Tensor, targets_BT: Tensor
    ) -> tuple[Tensor, Tensor]:
        optimizer.zero_grad(set_to_none=True)
        loss = self._backward(tokens_BT, targets_BT)
        norm = nn.utils.clip_grad_norm_([parameter for _, parameter in self.named], self.settings.gradient_clip)
        optimizer.step()
        return loss, norm.detach()

    def _backward(self, tokens_BT: Tensor, targets_BT: Tensor) -> Tensor:
        """Leave the mean gradient over micro-batches and ranks in the parameters; this rank's mean cross-entropy.

        Gradients travel once per step, behind the last micro-batch.
        """
        parts = self.settings.accumulate
        module = self._replicated()
        losses = []
        states: list[State | None] = [None] * parts
        if self.carried is not None:
            states = [*self.carried.parts(parts)]
        for part, (inputs, targets) in enumerate(zip(tokens_BT.chunk(parts), targets_BT.chunk(parts), strict=True)):
            waits = self._replica is not None and not (self.exchanges and part == parts - 1)
            with self._replica.no_sync() if self._replica is not None and waits else nullcontext():
                with autocast(self.device, self.precision):
                    output = module(inputs, targets, states[part])
                    total = objective(self.model, output, self.settings)
                (total / parts if parts > 1 else total).backward()
            state = states[part]
            if self.carried is not None and state is not None:
                assert output.state is not None
                self.carried.keep(state, output.state)
            assert output.loss is not None
            losses.append(output.loss.detach())
        return losses[0] if parts == 1 else torch.stack(losses).mean()

    def _replicated(self) -> nn.Module:
        """What training calls: the training pass, in a group wrapped so that its backward pass averages gradients."""
        if self.group.size == 1:
            return self.training_pass
        if self._replica is None:
            known = inspect.signature(DistributedDataParallel.__init__).parameters
            name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"  # torch < 2.13
            no_buffers: dict[str, Any] = {name: False}
            self._replica = DistributedDataParallel(
                self.training_pass, process_group=self.group.handle, gradient_as_bucket_view=True, **no_buffers
            )
        return self._replica
