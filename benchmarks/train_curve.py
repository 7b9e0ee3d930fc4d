"""Do both train alike? Loss curves of ours and of the peer from the same weights over the same batches."""

from __future__ import annotations

import argparse
import json
import statistics
from typing import Any

import torch

from benchmarks.train_models import Work, batches, models, stepper

WINDOW = 50


def curve(name: str, work: Work, options: argparse.Namespace) -> dict[str, Any]:
    """Mean training loss of every 50 steps per seed and side, and how the sides differ beside how seeds differ.

    With --peer-curves the peer's losses are those of an earlier file: same work, steps, seeds and text.
    """
    runs: dict[str, list[list[float]]] = {"ours": [], "peer": earlier(name, options)}
    for seed in range(options.seeds):
        ours, peer = models(work, options, work.dropout, seed)
        data = batches(work, options, options.curve, seed=100 + seed)
        sides = [("ours", ours)]
        if not options.peer_curves:
            sides.append(("peer", peer))
        for side, model in sides:
            torch.manual_seed(seed)
            step = stepper(model, options)
            losses = torch.stack([step(*batch) for batch in data]).tolist()
            means = [statistics.mean(losses[at : at + WINDOW]) for at in range(0, len(losses), WINDOW)]
            runs[side].append(means)
            print(f"  curve seed {seed} {side}: " + " ".join(f"{value:.3f}" for value in means), flush=True)
        del ours, peer, step, model, sides
        torch.compiler.reset()
    last = {side: [means[-1] for means in found] for side, found in runs.items()}
    difference = statistics.mean(last["ours"]) - statistics.mean(last["peer"])
    noise = statistics.stdev(last["peer"]) if options.seeds > 1 else None
    print(f"  last {WINDOW} steps: ours - peer {difference:+.4f} nats, deviation between seeds {noise}", flush=True)
    return {"work": name, "steps": options.curve, "mean_of": WINDOW, "difference": difference, "seed_sd": noise} | runs


def earlier(name: str, options: argparse.Namespace) -> list[list[float]]:
    """The peer's losses in the file of --peer-curves; none without one. Raises SystemExit if it is of other runs."""
    if not options.peer_curves:
        return []
    result = json.loads(options.peer_curves.read_text(encoding="utf-8"))
    for found in result["curves"]:
        if (found["work"], found["steps"], len(found["peer"])) == (name, options.curve, options.seeds):
            return found["peer"]
    raise SystemExit(f"{options.peer_curves}: no curve of {name} with {options.curve} steps and {options.seeds} seeds")
