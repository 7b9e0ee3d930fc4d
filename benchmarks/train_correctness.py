"""Is the fast path right? Its gradients beside the peer's own, both against the plain model in float64."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

import torch
from torch import nn

from bdh.models.base import LanguageModel
from bdh.training.update import TrainingPass
from benchmarks.train_models import Work, autocast, batches, models, stepper
from benchmarks.train_step import loss_of

SLACK = 1.1
SMALL = ((3, 45), (2, 129), (1, 512))


def gradients(model: nn.Module, batch: tuple, options: argparse.Namespace, exact: bool) -> dict[str, torch.Tensor]:
    """Gradients by name on the CPU in float64."""
    model.zero_grad(set_to_none=True)
    run = TrainingPass(model) if isinstance(model, LanguageModel) else model
    if exact:
        loss = loss_of(run(*batch))
    else:
        with autocast(options):
            loss = loss_of(run(*batch))
    loss.backward()
    return {name: p.grad.detach().double().cpu() for name, p in model.named_parameters()}


def errors(ours: LanguageModel, peer: nn.Module, batch: tuple, options: argparse.Namespace) -> dict[str, Any]:
    """Per parameter the relative error (Frobenius norm) of ours and of the peer against float64."""
    kernel, ours.kernel = ours.kernel, "plain"
    weights = {name: tensor.clone() for name, tensor in ours.state_dict().items()}
    expected = gradients(ours.double(), batch, options, exact=True)
    ours.float().load_state_dict(weights)
    ours.kernel = kernel
    found = {}
    for name, model in (("ours", ours), ("peer", peer)):
        rough = gradients(model, batch, options, exact=False)
        found[name] = {key: float((rough[key] - right).norm() / right.norm()) for key, right in expected.items()}
    return found


def check(name: str, work: Work, options: argparse.Namespace) -> list[dict[str, Any]]:
    """One record per small batch and kind of weights (random; after --trained quick steps), also printed."""
    ours, peer = models(work, options, dropout=0.0)
    records = []
    for weights in ("random", "trained"):
        if weights == "trained":
            quick = dataclasses.replace(work, B=min(work.B, 8), T=min(work.T, 256))
            step = stepper(ours, options)
            for batch in batches(quick, options, options.trained, seed=1):
                step(*batch)
            peer.load_state_dict(ours.state_dict(), strict=False)
        sizes = [*SMALL, (2, 1601)] if work.T > 2048 else SMALL
        for B, T in sizes if work.T >= 512 else SMALL[:1]:
            batch = batches(dataclasses.replace(work, B=B, T=T), options, 1, seed=2)[0]
            found = errors(ours, peer, batch, options)
            worst = max(found["ours"][key] / max(found["peer"][key], 1e-12) for key in found["ours"])
            right = worst <= SLACK or max(found["ours"].values()) < 1e-5
            records.append({"work": name, "weights": weights, "B": B, "T": T, "right": right} | found)
            line = " ".join(f"{k} {v:.1e}/{found['peer'][k]:.1e}" for k, v in found["ours"].items())
            print(
                f"  {weights:8} B={B} T={T}: error ours/peer {line}{'' if right else '  WORSE THAN THE PEER'}",
                flush=True,
            )
    return records
