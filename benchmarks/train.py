"""Training steps of ours beside a peer file, in one process, alternating; checked first, medians, rows and roofline.

    python -m benchmarks.train --reference PATH/bdh.py --work train_official_b32_t512,train_official_b4_t4096 \
        --out benchmarks/results/h200_train.json
    python -m benchmarks.train --reference PATH/bdh.py --work train_official_b32_t512 --curve 500 --text FILE
    python -m benchmarks.train --device cpu --float32 --reference PATH/bdh.py --work train_laptop_b8_t128

The peer is the official `bdh.py`, given by path; on a GPU it runs under torch.compile. Ratios above 1 mean that ours
is better. `FLOP`: matrix products of forward and backward, the causal half of the scores, nothing recomputed. `bytes`:
what our path moves over its activations at least. `of peak`: FLOP per second against a square bfloat16 product measured
here. --tuning takes a JSON object with fields of `bdh.kernels.training.shape.Tuning`. Works: see
`benchmarks.train_models`.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from bdh.nn.counts import bdh_neurons, bdh_operations
from bdh.project.files import write_json
from benchmarks.machine import describe, recorded, seconds_each
from benchmarks.train_correctness import check
from benchmarks.train_curve import curve
from benchmarks.train_models import WORKS, Work, batches, models, stepper

PASSES = 21


def matrix_rate(device: str) -> float:
    """FLOP/s of a square product in bfloat16, 8192^3 on a GPU and 512^3 (float32) on a CPU; best of five."""
    size, dtype = (8192, torch.bfloat16) if device == "cuda" else (512, torch.float32)
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    times = seconds_each(lambda: a @ b, repeats=10, warmup=5, device=device)
    return 2.0 * size**3 / statistics.median(times)


def operations(work: Work) -> float:
    """Matrix operations of one training step, nothing recomputed: three times the forward pass.

    Of the quadratic and the state form the one with fewer operations counts; they are equal at T = 4 D.
    """
    s = work.shape
    N = bdh_neurons(s["n_embd"], s["n_head"], s["mlp_internal_dim_multiplier"])
    return (
        3.0
        * work.tokens
        * bdh_operations(s["n_layer"], s["n_embd"], s["n_head"], N, work.V, min(work.T, 4 * s["n_embd"]))
    )


def activation_bytes(work: Work) -> float:
    """Bytes that the fused path reads and writes of tokens-by-neurons tensors at least: 21 passes per layer."""
    neurons = work.shape["mlp_internal_dim_multiplier"] * work.shape["n_embd"]
    return 2.0 * PASSES * work.shape["n_layer"] * work.tokens * neurons


def steps_of(work: Work, options: argparse.Namespace) -> dict[str, Callable[[], Any]]:
    """One callable per side that takes a step on the same batch."""
    ours, peer = models(work, options, work.dropout)
    batch = batches(work, options, 1)[0]
    sides = {"ours": stepper(ours, options), "peer": stepper(peer, options)}
    return {side: lambda step=step: step(*batch) for side, step in sides.items()}


def clean(device: str) -> None:
    """Free what is no longer used."""
    gc.collect()
    torch.compiler.reset()
    if device == "cuda":
        torch.cuda.empty_cache()


def speed(work: Work, options: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds per step of both sides, one entry per round; rounds alternate."""
    steps = steps_of(work, options)
    for step in steps.values():
        seconds_each(step, repeats=1, warmup=options.warmup, device=options.device)
    times: dict[str, list[float]] = {side: [] for side in steps}
    for _ in range(options.rounds):
        for side, step in steps.items():
            taken = seconds_each(
                lambda s=step: [s() for _ in range(options.steps)], repeats=1, warmup=0, device=options.device
            )
            times[side].append(taken[0] / options.steps)
    return times


def memory(work: Work, options: argparse.Namespace) -> dict[str, float]:
    """Peak bytes of three steps of each side alone: weights, optimizer and batch included. Empty without a GPU."""
    peaks: dict[str, float] = {}
    if options.device != "cuda":
        return peaks
    for side in ("ours", "peer"):
        clean("cuda")
        pair = models(work, options, work.dropout)
        model = pair[0] if side == "ours" else pair[1]
        del pair
        clean("cuda")
        step, batch = stepper(model, options), batches(work, options, 1)[0]
        for turn in range(4):
            if turn == 1:
                torch.cuda.reset_peak_memory_stats()
            step(*batch)
        torch.cuda.synchronize()
        peaks[side] = float(torch.cuda.max_memory_allocated())
        del model, step
    clean("cuda")
    return peaks


def profile(work: Work, options: argparse.Namespace) -> None:
    """Print the kernels of three steps of ours, by time."""
    step = steps_of(work, options)["ours"]
    for _ in range(3):
        step()
    on_gpu = options.device == "cuda"
    activities = [torch.profiler.ProfilerActivity.CUDA if on_gpu else torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities) as profiled:
        for _ in range(3):
            step()
        if on_gpu:
            torch.cuda.synchronize()
    key = "self_cuda_time_total" if on_gpu else "self_cpu_time_total"
    print(profiled.key_averages().table(sort_by=key, row_limit=40, max_name_column_width=60))


def measure(name: str, work: Work, rate: float, options: argparse.Namespace) -> tuple[list[dict], dict[str, Any]]:
    """Rows and details of one work, also printed."""
    times, peaks = speed(work, options), memory(work, options)
    middle = {side: statistics.median(found) for side, found in times.items()}
    about = {"n": options.rounds, "device": describe(options.device).get("gpu", options.device), "commit": commit()}
    ratio = statistics.median(p / o for o, p in zip(times["ours"], times["peer"], strict=True))
    fast = {side: work.tokens / seconds for side, seconds in middle.items()}
    rows = [{"work": name, "metric": "tokens_per_s", **fast, "ratio": ratio} | about]
    if peaks:
        rows.append({"work": name, "metric": "peak_memory", **peaks, "ratio": peaks["peer"] / peaks["ours"]} | about)
    details: dict[str, Any] = {
        "work": name,
        "seconds": times,
        "FLOP": operations(work),
        "bytes": activation_bytes(work),
    }
    details["of_peak"] = {side: operations(work) / seconds / rate for side, seconds in middle.items()}
    for side in ("ours", "peer"):
        share, flops = 100 * details["of_peak"][side], operations(work) / middle[side] / 1e12
        peak = f"{peaks[side] / 2**30:7.2f} GiB" if peaks else ""
        moved = f"{activation_bytes(work) / middle[side] / 1e12:5.2f} TB/s" if side == "ours" else ""
        line = f"{1e3 * middle[side]:9.2f} ms {fast[side]:11.0f} tok/s {flops:7.1f} TFLOP/s {share:5.1f} % of peak"
        print(f"{name:26} {side}: {line} {peak} {moved}", flush=True)
    print(
        f"{name:26} ratio {ratio:.2f}" + (f", memory {peaks['peer'] / peaks['ours']:.2f}" if peaks else ""), flush=True
    )
    return rows, details


def commit() -> str:
    """The commit of this checkout, or `unknown`."""
    found = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return found.stdout.strip() or "unknown"


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", required=True, help="the official bdh.py")
    parser.add_argument("--work", default="train_official_b32_t512", help=f"comma-separated: {', '.join(WORKS)}")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--kernel", default="auto", choices=["auto", "plain", "fused"], help="path of ours")
    parser.add_argument("--tuning", type=json.loads, default={}, help="e.g. '{\"rows\": 16384}'")
    parser.add_argument("--float32", action="store_true")
    parser.add_argument("--compile-ours", action="store_true")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=5, help="steps per round")
    parser.add_argument("--warmup", type=int, default=5)
    parser.add_argument("--trained", type=int, default=300, help="quick steps before gradients are compared again")
    parser.add_argument("--no-check", action="store_true")
    parser.add_argument("--no-speed", action="store_true")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--curve", type=int, default=0, help="steps of a training curve of both")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--peer-curves", type=Path, help="take the peer's curves from this earlier result")
    parser.add_argument("--text", type=Path, help="a file whose bytes are trained on")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def main() -> None:
    """Check, measure, print, write."""
    options = arguments()
    rate = matrix_rate(options.device)
    print(f"square product: {rate / 1e12:.1f} TFLOP/s", flush=True)
    result: dict[str, Any] = {"machine": describe(options.device), "matrix_flops": rate, "commit": commit()}
    result |= {"settings": recorded(options)}
    result |= {"rows": [], "details": [], "correctness": [], "curves": []}
    for name in options.work.split(","):
        work = WORKS[name]
        if not options.no_check:
            print(f"{name}: gradients against float64", flush=True)
            result["correctness"] += check(name, work, options)
            clean(options.device)
        if options.profile:
            profile(work, options)
            clean(options.device)
        if not options.no_speed:
            rows, details = measure(name, work, rate, options)
            result["rows"] += rows
            result["details"].append(details)
            clean(options.device)
        if options.curve:
            result["curves"].append(curve(name, work, options))
            clean(options.device)
        if options.out:
            write_json(options.out, result)


if __name__ == "__main__":
    main()
