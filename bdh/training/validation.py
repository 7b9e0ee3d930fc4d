"""The fixed validation set: loss, bits per byte, activations and the synaptic state after one window."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bdh.corpora.tokens import TokenCorpus, fixed_windows
from bdh.models.base import LanguageModel
from bdh.nn import probe
from bdh.params import Train
from bdh.project.device import autocast
from bdh.project.errors import CorpusError
from bdh.training.distributed.group import ALONE, Group

WATCHED_WINDOWS = 8
RANKED_MATRICES = 8
RANK_EPS = 1e-12


@dataclass(frozen=True)
class Score:
    """Loss over the fixed set: nats per target; bits per UTF-8 byte with end-of-text targets left out of both sides."""

    nats_per_token: float
    bits_per_byte: float


class ValidationSet:
    """The same windows at every validation, on `device`, read in eval mode with a random generator of their own."""

    def __init__(
        self,
        corpus: TokenCorpus,
        settings: Train,
        device: torch.device,
        precision: torch.dtype,
        group: Group = ALONE,
    ) -> None:
        check_splits(corpus, settings.window)
        tokens, segments = corpus.tokens("validation"), corpus.segments("validation")
        inputs, targets = fixed_windows(tokens, settings.validation_windows, settings.window, segments)
        self.inputs_ST = torch.from_numpy(inputs).to(device)
        self.targets_ST = torch.from_numpy(targets).to(device)
        self.bytes_V = torch.from_numpy(np.asarray(corpus.token_bytes, dtype=np.int64)).to(device)
        self.end_of_text = corpus.end_of_text
        self.group = group
        self.batch_size = settings.batch_size
        self.streams = settings.batch_size // (group.size * settings.accumulate)
        self.device, self.precision = device, precision

    def score(self, model: nn.Module) -> Score:
        """Loss of `model` (compiled or not) on the whole set; the ranks share the work and all get the same sums."""
        nats = counted_nats = counted_bytes = 0.0
        rank, size = self.group.rank, self.group.size
        with self._quiet(model), self._autocast():
            for inputs_BT, targets_BT in zip(
                self.inputs_ST.split(self.streams)[rank::size],
                self.targets_ST.split(self.streams)[rank::size],
                strict=True,
            ):
                logits = model(inputs_BT).logits.flatten(0, 1)
                targets = targets_BT.flatten()
                with torch.autocast(self.device.type, enabled=False):
                    losses = F.cross_entropy(
                        logits if logits.dtype == torch.float64 else logits.float(), targets, reduction="none"
                    )
                scored = torch.ones_like(targets, dtype=torch.bool)
                if self.end_of_text is not None:
                    scored = targets != self.end_of_text
                nats += losses.double().sum().item()
                counted_nats += losses.double()[scored].sum().item()
                counted_bytes += int(self.bytes_V[targets[scored]].sum())
        nats, counted_nats, counted_bytes = self.group.sum([nats, counted_nats, counted_bytes])
        return Score(nats / self.targets_ST.numel(), counted_nats / math.log(2) / max(1.0, counted_bytes))

    def activations(self, model: LanguageModel) -> dict[tuple[str, int], float]:
        """Per tap and layer, on the first windows: share of non-zeros for names ending in `_sparse`, else the mean."""
        totals: dict[tuple[str, int], tuple[float, int]] = {}

        def listen(name: str, layer: int, tensor: Tensor) -> None:
            values = (tensor != 0) if name.endswith("_sparse") else tensor
            amount, count = totals.get((name, layer), (0.0, 0))
            totals[name, layer] = amount + values.detach().sum(dtype=torch.float64).item(), count + tensor.numel()

        with self._quiet(model), self._autocast(), probe.listening(listen):
            model(self.inputs_ST[: min(WATCHED_WINDOWS, self.batch_size)])
        return {key: amount / count for key, (amount, count) in sorted(totals.items())}

    def states(self, model: LanguageModel) -> dict[str, float]:
        """`state_norm_<name>` and `state_rank_<name>` of the synaptic tensors after one stream has read one window."""
        with self._quiet(model):
            state = model(self.inputs_ST[:1], state=model.initial_state(1)).state or {}
        found: dict[str, float] = {}
        for name, tensor in sorted(state.items()):
            if name.startswith(("rho", "sigma")) and tensor.ndim >= 3:
                found[f"state_norm_{name}"], found[f"state_rank_{name}"] = norm_and_rank(tensor[0])
        return found

    def _autocast(self) -> AbstractContextManager:
        return autocast(self.device, self.precision)

    @contextmanager
    def _quiet(self, model: nn.Module) -> Iterator[None]:
        """Eval mode, no gradient, and a fixed random stream that leaves the training's own one untouched."""
        training = model.training
        model.eval()
        try:
            with torch.no_grad(), torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
                torch.manual_seed(0)
                yield
        finally:
            model.train(training)


def norm_and_rank(matrices: Tensor) -> tuple[float, float]:
    """Mean Frobenius norm and mean effective rank of the matrices in the last two dimensions.

    Effective rank is exp(entropy) of the normalised squared singular values (Roy & Vetterli 2007, on squares), taken
    over at most RANKED_MATRICES evenly spaced matrices. A zero matrix has norm 0 and rank 1.
    """
    flat = matrices.flatten(0, -3) if matrices.ndim > 2 else matrices.unsqueeze(0)
    norm = torch.linalg.matrix_norm(flat.double()).mean().item()
    chosen = flat[np.linspace(0, len(flat) - 1, min(RANKED_MATRICES, len(flat))).round().astype(int)].double().cpu()
    gram = chosen @ chosen.mT if chosen.shape[-2] <= chosen.shape[-1] else chosen.mT @ chosen
    squares = torch.linalg.eigvalsh(gram).clamp_min(0)
    shares = squares / (squares.sum(-1, keepdim=True) + RANK_EPS)
    entropy = -(shares * (shares + RANK_EPS).log()).sum(-1)
    return norm, entropy.exp().mean().item()


def check_splits(corpus: TokenCorpus, window: int) -> None:
    """Raise CorpusError when the training or the validation split has no room for one window and its last target."""
    for split in ("train", "validation"):
        length = corpus.stats["splits"][split]["tokens"]
        if length == 0:
            raise CorpusError(
                f"{corpus.name}: the {split} split is empty; give it a larger share in corpus.{corpus.name}.text.split"
            )
        if length <= window:
            raise CorpusError(
                f"{corpus.name}: train.window: a window of {window} tokens and its last target do not fit into the "
                f"{split} split of {length} tokens; use a smaller window or a larger split"
            )
