"""Tokens per second of the reservoirs, ours against the published step loop (or our own step form), side by side.

    python -m benchmarks.recurrent --reference FOLDER   # with bdh_gpu_neuro_torch.py and bdh_gpu_ref_stabilized.py
    python -m benchmarks.recurrent --device cuda --streams 32 1024 8192

Without --reference the baseline is `bdh.reservoir.step.step`, one stream, one token at a time, with the diagnostics
that the published code computes at every step. Rounds of baseline and ours alternate, so that a busy machine slows
both; the result is the median over rounds, the ratio is the median of the ratios within rounds. Forward pass with
logits, n 128, d 32, vocabulary 256, evaluation mode. Writes <device>_recurrent.json below --out.
"""

from __future__ import annotations

import argparse
import importlib
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from bdh.models.base import LanguageModel, build
from bdh.project.files import write_json
from bdh.reservoir import scan
from bdh.reservoir.step import fresh_stream, step, stream_diagnostics

NEURONS, WIDTH, VOCABULARY = 128, 32, 256
VARIANTS = ("recurrent", "stabilized", "neuro")


def published_step(variant: str, folder: str, device: str) -> Callable[[int], Any]:
    """The step method of the published class behind `variant`, found in `folder`."""
    if folder not in sys.path:
        sys.path.insert(0, folder)
    shape = {"n": NEURONS, "d": WIDTH, "V": VOCABULARY, "device": device}
    if variant == "stabilized":
        return importlib.import_module("bdh_gpu_ref_stabilized").BDHGPURefStabilized(**shape).to(device).step
    module = importlib.import_module("bdh_gpu_neuro_torch")
    if variant == "recurrent":
        return module.BDHGPURefTorch(**shape).to(device).step
    mechanisms = {
        "U_kernels": [0.99, 0.97, 0.94],
        "U_weights": [0.5, 0.3, 0.2],
        "local_forget_eta": 0.02,
        "homeostasis_tau": 0.15 * NEURONS,
        "k_wta": NEURONS // 8,
        "branches": 2,
        "mod_gamma_max": 0.8,
        "spike_rate": 0.01,
    }
    return module.BDHNeuroRefTorch(**shape, **mechanisms).to(device).step


def own_step(model: LanguageModel) -> Callable[[int], Any]:
    """Our step form on one stream, with the diagnostics as Python numbers after every token."""
    weights, rules, embedding = model.weights(), model.rules, model.token_emb
    stream = fresh_stream(1, weights, rules)

    def advance(token: int) -> dict[str, float]:
        nonlocal stream
        spikes = torch.rand_like(stream.x_BN) < rules.spike_rate if rules.spike_rate else None
        stream, _ = step(weights, rules, stream, embedding[token][None], spikes)
        return {name: float(value) for name, value in stream_diagnostics(stream, rules).items()}

    return advance


def seconds(work: Callable[[], Any], device: str) -> float:
    """Wall time of `work`, the device idle before and after."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


@torch.no_grad()
def compare(variant: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """One row per number of streams: median tokens/s of both sides and the median ratio."""
    model = build(variant, vocab_size=VOCABULARY, seed=0).to(options.device).eval()
    advance = published_step(variant, options.reference, options.device) if options.reference else own_step(model)
    text = [(37 * i) % VOCABULARY for i in range(options.baseline_tokens)]
    batches = {B: torch.randint(VOCABULARY, (B, options.window), device=options.device) for B in options.streams}
    rates: dict[int, list[float]] = {B: [] for B in options.streams}
    baseline: list[float] = []
    for round_number in range(options.rounds + 1):
        base = len(text) / seconds(lambda: [advance(token) for token in text], options.device)
        fast = {B: tokens.numel() / seconds(lambda t=tokens: model(t), options.device) for B, tokens in batches.items()}
        if round_number:
            baseline.append(base)
            for B, rate in fast.items():
                rates[B].append(rate)
    return [
        {
            "variant": variant,
            "streams": B,
            "window": options.window,
            "baseline_tokens_per_s": round(statistics.median(baseline), 1),
            "tokens_per_s": round(statistics.median(rates[B]), 1),
            "ratio": round(statistics.median(r / b for r, b in zip(rates[B], baseline, strict=True)), 1),
            "rounds": options.rounds,
        }
        for B in options.streams
    ]


def main() -> None:
    """Measure, print a table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", help="folder with the published step loops (default: our own step form)")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--window", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--baseline-tokens", type=int, default=100)
    parser.add_argument("--eager", action="store_true", help="on a GPU: without the kernel of the feedback scan")
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=VARIANTS)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    if options.eager:
        scan.available = lambda rules, stream: False
    rows = []
    for variant in options.variants:
        for row in compare(variant, options):
            rows.append(row)
            line = "{variant:10} B={streams:<5} {baseline_tokens_per_s:>9} -> {tokens_per_s:>12} tok/s x{ratio}"
            print(line.format(**row))
    machine = torch.cuda.get_device_name() if options.device == "cuda" else platform.processor() or platform.machine()
    about = {
        "baseline": "published step loop" if options.reference else "own step form with diagnostics",
        "device": machine,
        "kernel": options.device == "cuda" and not options.eager,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "shape": {"n": NEURONS, "d": WIDTH, "vocabulary": VOCABULARY},
    }
    write_json(
        options.out / f"{options.device}_recurrent{'_eager' if options.eager else ''}.json", about | {"rows": rows}
    )


if __name__ == "__main__":
    main()
