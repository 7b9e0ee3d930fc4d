"""A tiny model, a tiny corpus and tiny settings for tests of training."""

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from bdh.corpora.tokens import TokenCorpus
from bdh.models.base import LanguageModel, Output, State, cross_entropy
from bdh.nn.probe import tap
from bdh.params import Train

TEXT = "the cat sat on the mat. the dog ran to the log. "


def settings(**overrides: object) -> Train:
    """Settings of a training of a dozen steps."""
    values = {
        "steps": 12,
        "batch_size": 4,
        "window": 16,
        "learning_rate": 0.02,
        "final_learning_rate": 0.1,
        "warmup_steps": 3,
        "weight_decay": 0.1,
        "beta1": 0.9,
        "beta2": 0.95,
        "gradient_clip": 1.0,
        "l1": 0.0,
        "l21": 0.0,
        "average_decay": 0.9,
        "validate_every": 4,
        "validation_windows": 6,
        "patience": 1.0,
        "checkpoint_every": 3,
        "learning_rule": "backprop",
        "regime": "full",
        "compile": "off",
    }
    return Train(**{**values, **overrides})


def write_corpus(folder: Path, name: str = "toy", several: bool = False, validation: str = TEXT * 6) -> Path:
    """A tokenized corpus of bytes in `folder`; with `several`, byte 0 stands after every sentence."""
    folder.mkdir(parents=True, exist_ok=True)
    splits = {"train": TEXT * 40, "validation": validation, "test": TEXT * 6}
    stats = {
        "name": name,
        "tokenizer": {"name": "bytes", "vocab_size": 256, "end_of_text": 0 if several else None},
        "digest": "0" * 64,
        "splits": {},
    }
    for split, text in splits.items():
        data = text.replace(". ", ".\0").encode() if several else text.encode()
        (folder / f"{split}.bin").write_bytes(np.frombuffer(data, dtype=np.uint8).tobytes())
        stats["splits"][split] = {"tokens": len(data)}
    (folder / "stats.json").write_text(json.dumps(stats))
    return folder


def corpus(folder: Path, **options: object) -> TokenCorpus:
    """`write_corpus` opened."""
    return TokenCorpus.open(write_corpus(folder, **options))


class Toy(LanguageModel):
    """One layer of linear attention with dropout, a local rule for its readout, and both penalties."""

    learning_rules = ("backprop", "hebbian", "hybrid")

    def __init__(self, dim: int = 8, neurons: int = 12, seed: int = 0, dropout: float = 0.2) -> None:
        super().__init__()
        self.vocab_size = 256
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.embed = nn.Embedding(256, dim)
            self.encoder = nn.Parameter(torch.randn(dim, neurons) * 0.3)
            self.gain = nn.Parameter(torch.ones(dim))
            self.lm_head = nn.Linear(dim, 256, bias=False)
        self.dropout = nn.Dropout(dropout)
        self.steps_seen: list[int] = []

    def forward(self, tokens_BT: Tensor, targets_BT: Tensor | None = None, state: State | None = None) -> Output:
        h_BTD = self.embed(tokens_BT)
        x_BTN = tap("x_sparse", 0, torch.relu(h_BTD @ self.encoder))
        a_BTD = torch.tril(x_BTN @ x_BTN.mT, -1) @ h_BTD
        new_state = None
        if state is not None:
            a_BTD = a_BTD + x_BTN @ state["rho"]
            new_state = {
                "rho": state["rho"] + x_BTN.mT @ h_BTD,
                "position": state["position"] + tokens_BT.shape[1],
            }
        tap("gain", 0, a_BTD.mean(-1))
        self.features = h_BTD + self.gain * self.dropout(torch.tanh(a_BTD))
        logits = self.lm_head(self.features)
        l1 = x_BTN.abs().mean() if self.measure_l1 else None
        return Output(logits, cross_entropy(logits, targets_BT), new_state, l1)

    def initial_state(self, batch_size: int) -> State:
        return {
            "rho": torch.zeros(batch_size, self.encoder.shape[1], self.encoder.shape[0], device=self.encoder.device),
            "position": torch.zeros(batch_size, dtype=torch.int64, device=self.encoder.device),
        }

    def flops_per_token(self, window: int) -> float:
        return 2.0 * self.parameter_count() + window

    def l21_penalty(self) -> Tensor:
        return self.encoder.norm(dim=0).mean()

    def local_update(self, tokens_BT: Tensor, targets_BT: Tensor) -> Output:
        assert not torch.is_grad_enabled()
        output = self(tokens_BT, targets_BT)
        error = nn.functional.one_hot(targets_BT, 256) - output.logits.softmax(-1)
        self.lm_head.weight += 0.5 * (error.flatten(0, 1).mT @ self.features.flatten(0, 1)) / targets_BT.numel()
        return output

    def after_step(self, step: int) -> None:
        self.steps_seen.append(step)
