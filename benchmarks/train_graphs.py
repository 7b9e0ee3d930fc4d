"""Milliseconds of a training step and of a validation at the settings of params.yaml: eager, compiled, as a CUDA graph.

    python -m benchmarks.train_graphs --scale gpu --corpus shakespeare --out benchmarks/results/h100_train_graphs.json
    python -m benchmarks.train_graphs --device cpu --scale laptop --corpus sample_plays --variants slim_hybrid

The corpus must be tokenized. Every mode trains the same model from the same seed on the same batches; `loss` is that of
the last timed steps, so that a mode that does not train shows. `graph` is what `train.compile` and `train.graphs` of
the variant give by themselves, `graph_plain` the same without torch.compile. Times: the median over rounds of `--steps`
steps each, whose host and device are waited for together.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from bdh.params import load
from bdh.project.files import write_json
from bdh.training.run import describe
from bdh.training.state import Training
from benchmarks.machine import describe as machine
from benchmarks.machine import recorded

MODES = {
    "eager": {"compile": "off", "graphs": "off"},
    "compiled": {"compile": "auto", "graphs": "off"},
    "graph_plain": {"compile": "off", "graphs": "auto"},
    "graph": {"compile": "auto", "graphs": "auto"},
}
SMALL = (
    "stabilized", "slim_backprop", "slim_hebbian", "slim_hybrid", "slim_frozen", "hebbian_block", "recurrent_trained",
    "neuro", "neuro_trained",
)  # fmt: skip


def begin(variant: str, mode: str, options: argparse.Namespace) -> tuple[Training, list[str]]:
    """A training that has not taken a step, and what it said about compiling and recording."""
    params = load(values={"scale": options.scale, "device": options.device})
    run = describe(params, variant, options.corpus, 0)
    chosen = {name: value for name, value in MODES[mode].items() if name != "compile" or run.train.compile != "off"}
    settings = run.train.model_copy(update=chosen | ({"steps": options.stated} if options.stated else {}))
    torch.compiler.reset()
    training = Training(run.build(), run.corpus, settings, **run.means())
    said: list[str] = []
    refused = training.update.compile(*training.batch(1)[:2])
    training.update.start_graphs(said.append)
    return training, said + ([] if refused is None else [refused])


def wait(training: Training) -> None:
    """Let the device finish."""
    if training.device.type == "cuda":
        torch.cuda.synchronize()


def measure(variant: str, mode: str, options: argparse.Namespace) -> dict[str, Any]:
    """A row of the results."""
    began = time.perf_counter()
    training, said = begin(variant, mode, options)
    for _ in range(3):
        training.advance()
    wait(training)
    started = time.perf_counter() - began
    rounds, losses = [], []
    for _ in range(options.rounds):
        training.pause()
        wait(training)
        start = time.perf_counter()
        for _ in range(options.steps):
            training.advance()
        wait(training)
        rounds.append((time.perf_counter() - start) / options.steps)
        training.pause()
        losses.append(training.last_loss or 0.0)
    training.validation.score(training.update.forward)
    wait(training)
    start = time.perf_counter()
    training.validate()
    wait(training)
    row = {
        "work": f"train_{variant}",
        "mode": mode,
        "ms_per_step": round(1e3 * statistics.median(rounds), 3),
        "fastest_ms": round(1e3 * min(rounds), 3),
        "validation_ms": round(1e3 * (time.perf_counter() - start), 1),
        "seconds_to_start": round(started, 1),
        "loss": round(statistics.mean(losses[-3:]), 5),
        "parameters": training.model.parameter_count(),
        "n": options.rounds,
    }
    if training.device.type == "cuda":
        row["peak_memory_mib"] = round(torch.cuda.max_memory_allocated() / 2**20)
        torch.cuda.reset_peak_memory_stats()
    return row | ({"said": said} if said else {})


def main() -> None:
    """Measure, print and write a row per variant and mode, as far as the time goes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", nargs="+", default=list(SMALL))
    parser.add_argument("--modes", nargs="+", default=list(MODES), choices=list(MODES))
    parser.add_argument("--scale", default="gpu", choices=["laptop", "gpu"])
    parser.add_argument("--corpus", default="shakespeare")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--steps", type=int, default=8, help="of a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--stated", type=int, default=0, help="steps of the schedule (default: those of params.yaml)")
    parser.add_argument("--seconds", type=float, default=1e9, help="begin no row after so many seconds")
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    began, rows = time.perf_counter(), []
    for variant in options.variants:
        for mode in options.modes:
            if time.perf_counter() - began > options.seconds:
                break
            try:
                rows.append(measure(variant, mode, options))
            except (RuntimeError, torch.OutOfMemoryError) as error:
                rows.append({"work": f"train_{variant}", "mode": mode, "error": str(error).splitlines()[0]})
            print(rows[-1], flush=True)
            gc.collect()
            if options.out is not None:
                device = "cuda" if torch.cuda.is_available() and options.device != "cpu" else "cpu"
                write_json(options.out, {"machine": machine(device), "options": recorded(options), "rows": rows})


if __name__ == "__main__":
    main()
