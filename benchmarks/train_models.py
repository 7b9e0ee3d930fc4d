"""What `benchmarks.train` compares: the works, the two models of each with equal weights, and one training step."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bdh.kernels.training.shape import Tuning
from bdh.models.base import LanguageModel, build
from bdh.training.update import TrainingPass
from benchmarks.train_step import loss_of, official

OFFICIAL = {"n_layer": 6, "n_embd": 256, "n_head": 4, "mlp_internal_dim_multiplier": 128}
TWO_STAGE = OFFICIAL | {"n_layer": 4, "n_embd": 128}
LAPTOP = {"n_layer": 3, "n_embd": 64, "n_head": 4, "mlp_internal_dim_multiplier": 16}
TINY = {"n_layer": 2, "n_embd": 16, "n_head": 2, "mlp_internal_dim_multiplier": 8}


@dataclass(frozen=True)
class Work:
    """A training step: shape of the model, vocabulary V, batch B, window T, share of dropped neurons."""

    shape: dict[str, int]
    V: int
    B: int
    T: int
    dropout: float = 0.1
    metrics: tuple[str, ...] = field(default=("tokens_per_s", "peak_memory"))

    @property
    def tokens(self) -> int:
        """Tokens of one step."""
        return self.B * self.T


WORKS = {
    "train_official_b32_t512": Work(OFFICIAL, 256, 32, 512),
    "train_official_b4_t512": Work(OFFICIAL, 256, 4, 512),
    "train_official_b4_t4096": Work(OFFICIAL, 256, 4, 4096),
    "train_two_stage_b32_t512": Work(TWO_STAGE, 50257, 32, 512),
    "train_laptop_b8_t128": Work(LAPTOP, 256, 8, 128),
    "train_tiny_b3_t33": Work(TINY, 61, 3, 33),
}


def models(work: Work, options: argparse.Namespace, dropout: float, seed: int = 0) -> tuple[LanguageModel, nn.Module]:
    """Ours and the peer with the same weights, on the device, training."""
    torch.manual_seed(seed)
    peer = official(options.reference, work.shape | {"dropout": dropout}, work.V)
    ours = build("bdh", vocab_size=work.V, seed=0, **work.shape, dropout=dropout)
    ours.load_state_dict(peer.state_dict())
    ours.kernel, ours.tuning = options.kernel, Tuning(**options.tuning)
    return ours.to(options.device).train(), peer.to(options.device).train()


def runner(model: nn.Module, options: argparse.Namespace) -> Any:
    """What a step calls: of ours the training pass (under torch.compile with --compile-ours), of the peer its forward,
    as it is meant to run: under torch.compile on a GPU."""
    if isinstance(model, LanguageModel):
        return torch.compile(TrainingPass(model)) if options.compile_ours else TrainingPass(model)
    return torch.compile(model) if options.device == "cuda" else model


def batches(work: Work, options: argparse.Namespace, steps: int, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    """Windows of the text of --text (its bytes), or of a text that repeats itself with noise; (B,T) inputs, targets."""
    random = np.random.default_rng(seed)
    if options.text and work.V >= 256:
        text = np.frombuffer(options.text.read_bytes(), dtype=np.uint8).astype(np.int64)
        text = text[: int(0.9 * len(text))]
    else:
        text = (np.arange(200_000) * 7 // 3 + random.integers(0, 5, 200_000)) % work.V
    starts = random.integers(0, len(text) - work.T - 1, (steps, work.B))
    found = []
    for row in starts:
        windows = torch.from_numpy(np.stack([text[s : s + work.T + 1] for s in row])).to(options.device)
        found.append((windows[:, :-1].contiguous(), windows[:, 1:].contiguous()))
    return found


def autocast(options: argparse.Namespace) -> torch.autocast:
    """bfloat16 unless --float32."""
    return torch.autocast(options.device, torch.bfloat16, enabled=not options.float32)


def stepper(model: nn.Module, options: argparse.Namespace) -> Callable[[Tensor, Tensor], Tensor]:
    """A function that takes one optimizer step (AdamW, the same for both) and returns the loss."""
    run = runner(model, options)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1, fused=options.device == "cuda")

    def step(tokens: Tensor, targets: Tensor) -> Tensor:
        with autocast(options):
            loss = loss_of(run(tokens, targets))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    return step
