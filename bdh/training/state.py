"""One training: what it has, what it knows, and how it is written down and taken up again.

Everything that decides the next step is either an argument, a function of the step number (data, learning rate) or part
of `snapshot`; that is why a resumed training continues bit for bit on a CPU.
"""

from __future__ import annotations

import math
import time
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from bdh.corpora.tokens import TokenCorpus, consecutive_windows, random_windows
from bdh.models.base import LanguageModel
from bdh.params import Train
from bdh.project.device import fix_seed
from bdh.project.errors import TrainingError
from bdh.training.checkpoints import are_finite, copy_of, put_into, tensors_of
from bdh.training.distributed.group import ALONE, ProcessGroup, check_batch
from bdh.training.optimizer import Average, check_objective, learning_rate, optimizer_tensors, restore_optimizer
from bdh.training.resume import Checkpoint
from bdh.training.update import Update
from bdh.training.usage import Usage
from bdh.training.validation import ValidationSet

ADVICE = "lower train.learning_rate or train.gradient_clip, lengthen train.warmup_steps, or set precision: float32"
LOOK_EVERY = 16
LOOK_S = 1.0
FEWEST_STALE = 3
Row = dict[str, float | int | None]


class DivergedError(TrainingError):
    """A loss, a gradient or a weight is not finite at `step`, for a `reason` that all ranks see alike."""

    def __init__(self, step: int, reason: str) -> None:
        super().__init__(f"diverged at step {step}: {reason}; {ADVICE}")
        self.step, self.reason = step, reason


class Training:
    """A model, its optimizer, average, best weights and history after `step` optimizer steps.

    `diverged`: why it ended early and has no result, None otherwise.
    """

    def __init__(
        self,
        model: LanguageModel,
        corpus: TokenCorpus,
        settings: Train,
        *,
        seed: int,
        device: torch.device,
        precision: torch.dtype,
        group: ProcessGroup = ALONE,
    ) -> None:
        check_batch(settings, group.size)
        fix_seed(seed, device)
        group.seed(seed, 0)
        self.group = group
        self.model = model.to(device).train()
        self.settings, self.seed, self.device = settings, seed, device
        self.validation = ValidationSet(corpus, settings, device, precision, group)
        self.text, self.segments = corpus.tokens("train"), corpus.segments("train")
        model.begin_training(kernel=settings.kernel, l1_weight=settings.l1)
        check_objective(model, settings, device)
        decay = settings.average_decay if settings.regime != "none" else 0.0
        self.average = Average(model, decay, model.prunes) if decay > 0 else None
        self.update = Update(model, settings, device, precision, group, self.average)
        self.steps = settings.steps if settings.regime != "none" else 0
        self.look_every = self.most_unseen = LOOK_EVERY if device.type == "cuda" else 1
        self.step = self.stale = 0
        self.history: list[Row] = []
        self.best: dict[str, Any] = {}
        self.best_weights: dict[str, Tensor] = {}
        self.usage = Usage(device)
        self.last_loss: float | None = None
        self.diverged: DivergedError | None = None
        self._sums = {"loss": 0.0, "norm": 0.0, "steps": 0}
        self._pending: list[tuple[int, Tensor, Tensor | None]] = []
        self._pending_since = 0.0

    @property
    def tokens_seen(self) -> int:
        """Training tokens read so far, by all ranks."""
        return self.step * self.settings.batch_size * self.settings.window

    @property
    def tokens_per_s(self) -> float | None:
        """Training tokens per second of all ranks, without validations and checkpoints; None before the first step."""
        return self.tokens_seen / self.usage.train_s if self.usage.train_s > 0 else None

    def finished(self) -> bool:
        """All steps are done, or there has been no new best for so long that none is expected.

        That is `patience` of the planned steps, counted from the best step and not before the end of warm-up, and at
        least FEWEST_STALE validations: a share of a short training is one or two of them, which noise can fill.
        """
        if self.step >= self.steps:
            return True
        if self.stale < FEWEST_STALE:
            return False
        since = self.step - max(self.best["step"], self.settings.warmup_steps)
        return since >= self.settings.patience * self.settings.steps

    def validation_due(self) -> bool:
        """The weights of this step belong into the history and are not there yet."""
        due = self.step % self.settings.validate_every == 0 or self.step >= self.steps
        return due and (not self.history or self.history[-1]["step"] != self.step)

    def batch(self, step: int) -> tuple[Tensor, ...]:
        """Inputs and targets (B/W,T) of optimizer step 1, 2, ...: this rank's streams of the batch of seed and step.

        With `train.carry` also which streams start anew (B/W, bool); the others read on.
        """
        settings, own = self.settings, self.group.rows(self.settings.batch_size)
        which = (self.text, settings.batch_size, settings.window, self.seed, step)
        if settings.carry:
            found = consecutive_windows(*which, settings.carry_windows, own, self.segments)
            return tuple(self._to_device(part) for part in found)
        return tuple(self._to_device(part) for part in random_windows(*which, own, self.segments))

    def _to_device(self, part: np.ndarray) -> Tensor:
        """A copy on the device; a GPU takes it from pinned memory, so that the CPU can run ahead."""
        tensor = torch.from_numpy(part)
        return tensor.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else tensor

    def advance(self) -> None:
        """One optimizer step; DivergedError when a loss or gradient is not finite (on a GPU seen a few steps later)."""
        self.usage.step_begins()
        if not self._pending:
            self._pending_since = time.monotonic()
        step = self.step + 1
        loss, norm = self.update.apply(step, *self.batch(step))
        self.step = step
        self._pending.append((step, loss, norm))
        if len(self._pending) >= self.look_every:
            self._look()

    def pause(self) -> None:
        """Look at every loss so far and stop the clock of the throughput."""
        self._look()
        self.usage.steps_end()

    def _look(self) -> None:
        """Check the losses of the last steps; ranks exchange them here, and whether one was asked to stop."""
        pending, self._pending = self._pending, []
        found = [float(loss) for _, loss, _ in pending]
        *losses, seconds = self.group.mean([*found, time.monotonic() - self._pending_since])
        if self.group.size > 1 and pending:
            self.look_every = min(self.most_unseen, max(1, int(LOOK_S * len(pending) / max(seconds, 1e-9))))
        for (step, _, norm), self.last_loss in zip(pending, losses, strict=True):
            gradient = 0.0 if norm is None else float(norm)
            if not math.isfinite(self.last_loss):
                self._diverge(f"the loss is {self.last_loss}", step)
            if not math.isfinite(gradient):
                self._diverge(f"the gradient norm is {gradient}", step)
            self._sums["loss"] += self.last_loss
            self._sums["norm"] += gradient
            self._sums["steps"] += 1

    def _diverge(self, what: str, step: int) -> NoReturn:
        reason = f"{what} (learning rate {learning_rate(max(1, step), self.settings):.3g})"
        raise DivergedError(step, reason)

    def validate(self) -> Row:
        """Score raw and averaged weights, keep the better if it is the best so far, and add a row to the history."""
        self.pause()
        raw = self.validation.score(self.update.forward)
        if not math.isfinite(raw.nats_per_token):
            self._diverge(f"the validation loss is {raw.nats_per_token}", self.step)
        self.stale += 1
        self._consider(raw.nats_per_token, raw.bits_per_byte, "raw")
        average_nats = None
        if self.average is not None and self.step > 0:
            with self.average.applied(self.model):
                average = self.validation.score(self.update.forward)
                average_nats = average.nats_per_token
                self._consider(average.nats_per_token, average.bits_per_byte, "average")
        steps = self._sums["steps"]
        trained = self.update.optimizer is not None and steps > 0
        row: Row = {
            "step": self.step,
            "train_nats": self._sums["loss"] / steps if steps else None,
            "validation_nats": raw.nats_per_token,
            "validation_nats_average": average_nats,
            "learning_rate": learning_rate(self.step, self.settings) if trained else None,
            "gradient_norm": self._sums["norm"] / steps if trained else None,
        }
        for (tap, layer), value in self.validation.activations(self.model).items():
            row[f"density_{tap}_{layer}" if tap.endswith("_sparse") else f"{tap}_{layer}"] = value
        row |= self.validation.states(self.model)
        self.history.append({k: v if v is None or math.isfinite(v) else None for k, v in row.items()})
        self._sums = {"loss": 0.0, "norm": 0.0, "steps": 0}
        return self.history[-1]

    def _consider(self, nats_per_token: float, bits_per_byte: float, judged: str) -> None:
        if self.best and not nats_per_token < self.best["nats_per_token"]:
            return
        self.stale = 0
        self.best = {
            "step": self.step,
            "judged": judged,
            "nats_per_token": nats_per_token,
            "bits_per_byte": bits_per_byte,
        }
        self.best_weights = copy_of(self.model)

    def snapshot(self) -> Checkpoint:
        """All that the next step depends on; DivergedError when a weight is not finite, so no bad one is ever kept.

        Every rank has to ask for it; the result is the same on all and fits any number of them.
        """
        self.pause()
        if not are_finite(self.model):
            self._diverge("a weight is not finite", self.step)
        groups = {"model": tensors_of(self.model), "best": self.best_weights, "rng": _rng(self.device, self.group)}
        if self.average is not None:
            groups["average"] = dict(zip(self.average.names, self.average.tensors, strict=True))
        if self.update.optimizer is not None:
            groups["optimizer"] = optimizer_tensors(self.update.optimizer, self.update.named)
        if self.update.carried is not None:
            own = self.update.carried.tensors
            groups["state"] = {name: self.group.gather(tensor.cpu()).flatten(0, 1) for name, tensor in own.items()}
        tensors = {f"{group}/{n}": t.contiguous() for group, named in groups.items() for n, t in named.items()}
        rest = {
            "history": self.history,
            "best": self.best,
            "stale": self.stale,
            "sums": self._sums,
            "usage": self.usage.report(),
        }
        return Checkpoint(self.step, tensors, rest)

    def finish(self) -> None:
        """Put the best weights into the model."""
        put_into(self.model, self.best_weights, "the best weights")

    def restore(self, checkpoint: Checkpoint) -> None:
        """Take up a training where `snapshot` was made."""
        groups: dict[str, dict[str, Tensor]] = {}
        for key, tensor in checkpoint.tensors.items():
            group, _, name = key.partition("/")
            groups.setdefault(group, {})[name] = tensor
        put_into(self.model, groups.get("model", {}), "the checkpoint")
        self.best_weights = groups.get("best", {})
        if self.average is not None:
            for name, tensor in zip(self.average.names, self.average.tensors, strict=True):
                tensor.copy_(groups["average"][name])
        if self.update.optimizer is not None:
            restore_optimizer(self.update.optimizer, self.update.named, groups.get("optimizer", {}))
        if self.update.carried is not None:
            rows = self.group.rows(self.settings.batch_size)
            for name, tensor in self.update.carried.tensors.items():
                tensor.copy_(groups["state"][name][rows])
        self.step = checkpoint.step
        self.history, self.best = checkpoint.rest["history"], checkpoint.rest["best"]
        self.stale, self._sums = checkpoint.rest["stale"], checkpoint.rest["sums"]
        self.usage.restore(checkpoint.rest["usage"])
        self._restore_rng(groups["rng"])

    def _restore_rng(self, states: dict[str, Tensor]) -> None:
        """Go on with this rank's random numbers, or with new ones when the checkpoint knows fewer ranks."""
        suffix = _suffix(self.group.rank)
        if f"cpu{suffix}" not in states:
            self.group.seed(self.seed, self.step)
            return
        torch.set_rng_state(states[f"cpu{suffix}"])
        if f"cuda{suffix}" in states:
            torch.cuda.set_rng_state(states[f"cuda{suffix}"], self.device)


class Refit(Training):
    """A training anew on training and validation text, from the same seed, up to the `best` step of a first one.

    Learning rates are those of the first training at the same steps: the schedule is cut, not shortened. Nothing is
    validated, for no text is left for it; the raw or the averaged weights are kept, as `best` says. Windows lie inside
    one of the two texts and cross no cut of them.
    """

    def __init__(
        self,
        model: LanguageModel,
        corpus: TokenCorpus,
        settings: Train,
        best: dict[str, Any],
        *,
        seed: int,
        device: torch.device,
        precision: torch.dtype,
        group: ProcessGroup = ALONE,
    ) -> None:
        super().__init__(model, corpus, settings, seed=seed, device=device, precision=precision, group=group)
        self.steps, self.best = best["step"], best
        first = self.text
        self.text = np.concatenate([first, corpus.tokens("validation")])
        self.segments = np.concatenate([self.segments, corpus.segments("validation") + len(first)])

    def validation_due(self) -> bool:
        """Never."""
        return False

    def finish(self) -> None:
        """Leave in the model the weights that `best` names, raw or averaged, of the last step."""
        self.pause()
        if self.average is not None and self.best["judged"] == "average":
            self.average.put_into(self.model)
        if not are_finite(self.model):
            self._diverge("a weight is not finite", self.step)


def _rng(device: torch.device, group: ProcessGroup) -> dict[str, Tensor]:
    """States of the random generators of all ranks: `cpu`, `cuda`, and with a number behind from the second rank on."""
    own = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        own["cuda"] = torch.cuda.get_rng_state(device)
    every = {name: group.gather(state) for name, state in own.items()}
    return {f"{name}{_suffix(rank)}": state.clone() for name, all_ in every.items() for rank, state in enumerate(all_)}


def _suffix(rank: int) -> str:
    return f"_{rank}" if rank else ""
