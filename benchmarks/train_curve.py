"""Do both train alike? Loss curves of ours and of the peer from the same weights over the same batches."""

from __future__ import annotations

import argparse
import statistics
from typing import Any

import torch

from benchmarks.train_models import Work, batches, compiled, models, stepper

WINDOW = 50


def curve(name: str, work: Work, options: argparse.Namespace) -> dict[str, Any]:
    """Mean training loss of every 50 steps per seed and side, and how the sides differ beside how seeds differ."""
    runs: dict[str, list[list[float]]] = {"ours": [], "peer": []}
    for seed in range(options.seeds):
        ours, peer = models(work, options, work.dropout, seed)
        data = batches(work, options, options.curve, seed=100 + seed)
        for side, model, run in (("ours", ours, ours), ("peer", peer, compiled(peer, options))):
            torch.manual_seed(seed)
            step = stepper(model, run, options)
            losses = torch.stack([step(*batch) for batch in data]).tolist()
            means = [statistics.mean(losses[at : at + WINDOW]) for at in range(0, len(losses), WINDOW)]
            runs[side].append(means)
            print(f"  curve seed {seed} {side}: " + " ".join(f"{value:.3f}" for value in means), flush=True)
        del ours, peer, step, model, run
        torch.compiler.reset()
    last = {side: [means[-1] for means in found] for side, found in runs.items()}
    difference = statistics.mean(last["ours"]) - statistics.mean(last["peer"])
    noise = statistics.stdev(last["peer"]) if options.seeds > 1 else None
    print(f"  last {WINDOW} steps: ours - peer {difference:+.4f} nats, deviation between seeds {noise}", flush=True)
    return {"work": name, "steps": options.curve, "mean_of": WINDOW, "difference": difference, "seed_sd": noise} | runs
