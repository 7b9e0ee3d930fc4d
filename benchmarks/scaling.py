"""Weak scaling of data-parallel training: tokens/s on W devices against W times one device, same machine, one run.

python -m benchmarks.scaling --devices 1,2,4 --variants bdh,recurrent_trained,neuro_trained --out FILE
python -m benchmarks.scaling --device cpu --devices 1,2 --batch 4 --window 32 --model '{"n_layer": 1, "n_embd": 16}'

Streams per device, window, shape and compiler are those of the variant at the scale `gpu` of params.yaml; `--batch`,
`--window`, `--model` and `--compile` replace them. One process per device, started by the launcher that the training
uses. Every step is a step of the project's own training (data, forward, backward, exchange of gradients, optimizer,
average of the weights); ranks that a smaller group does not need wait. Blocks of steps alternate between the sizes, so
a drift of the machine meets all alike. `communication` is the share of a step by which steps without the exchange of
gradients are shorter.

Rows: `ddp_<W>` is bdh, `ddp_<W>_<variant>` any other; `ours` is tokens/s on W devices, `peer` W times that of one,
`ratio` the efficiency, `n` the blocks whose median it is.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torch.distributed

from bdh.corpora.tokens import TokenCorpus
from bdh.models.base import build
from bdh.params import WINDOW_SETTINGS, Params, Train, load
from bdh.project.device import choose_device, choose_precision
from bdh.project.errors import DeviceError, HatcheryError, reported
from bdh.project.processes import stoppable
from bdh.training.display import SilentDisplay
from bdh.training.distributed.group import ProcessGroup
from bdh.training.distributed.launch import launch
from bdh.training.distributed.worker import is_worker, joined
from bdh.training.loop import start_compiler
from bdh.training.state import Training
from benchmarks.machine import describe, recorded

VOCABULARY, CORPUS = 256, "shakespeare"
NO_MULTICAST = {"NCCL_NVLS_ENABLE": "0", "TORCH_SYMM_MEM_DISABLE_MULTICAST": "1", "NVSHMEM_DISABLE_NVLS": "1"}
"""NVLink multicast can put GPUs out of service that others on the host share."""


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", default="1,2", help="sizes of the group; 1 is always measured")
    parser.add_argument("--variants", default="bdh")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--precision", default="auto", choices=["auto", "float32", "bfloat16"])
    parser.add_argument("--batch", type=int, help="streams per device")
    parser.add_argument("--window", type=int)
    parser.add_argument("--model", default="{}", help="settings as JSON")
    parser.add_argument("--compile", choices=["auto", "on", "off"])
    parser.add_argument("--steps", type=int, default=10, help="steps per block")
    parser.add_argument("--blocks", type=int, default=9)
    parser.add_argument("--warmup", type=int, default=2, help="blocks before the measured ones")
    parser.add_argument("--reference", default="none", choices=["none"], help="our own single device is the peer")
    parser.add_argument("--commit", default=None, help="what to note as the commit, where git cannot tell")
    parser.add_argument("--out", default=None)
    return parser.parse_args()


def sizes_of(options: argparse.Namespace) -> list[int]:
    return sorted({1, *(int(part) for part in options.devices.split(","))})


@reported
def main() -> None:
    """Start the processes, or be one of them."""
    options = parse()
    largest = sizes_of(options)[-1]
    if largest > 1 and not is_worker():
        gpus = torch.cuda.device_count() if options.device != "cpu" else 0
        if (gpus or options.device == "cuda") and largest > gpus:
            raise DeviceError(f"--devices: {largest} were asked for and this machine shows {gpus} GPUs")
        os.environ |= NO_MULTICAST
        launch(largest, ["-m", "benchmarks.scaling", *sys.argv[1:]], "scaling")
        return
    with stoppable() as stop, joined(stop, options.device) as world, tempfile.TemporaryDirectory() as folder:
        measure_all(options, world, write_noise(Path(folder)))


def measure_all(options: argparse.Namespace, world: ProcessGroup, corpus: TokenCorpus) -> None:
    device = choose_device(options.device)
    groups = {size: subgroup(world, size, device) for size in sizes_of(options)}
    rows, shares = [], {}
    for variant in options.variants.split(","):
        train = settings_on_one_device(variant, options)
        seconds, alone = measure(variant, train, options, world, groups, corpus, device)
        if world.first:
            rows += rows_of(variant, train.batch_size * train.window, seconds, options.commit, device)
            shares |= {
                name_of(variant, size): max(0.0, 1 - alone[size] / statistics.median(seconds[size])) for size in alone
            }
    if world.first:
        report(rows, shares, options, device)


def at_gpu_scale() -> Params:
    return load().model_copy(update={"scale": "gpu"})


def settings_on_one_device(variant: str, options: argparse.Namespace) -> Train:
    given = {"batch_size": options.batch, "window": options.window, "compile": options.compile}
    update = {name: value for name, value in given.items() if value is not None}
    return at_gpu_scale().train_of(variant, CORPUS).model_copy(update=update | {"steps": 10**9})


def subgroup(world: ProcessGroup, size: int, device: torch.device) -> ProcessGroup | None:
    """The first `size` ranks as a group of their own; None on the others."""
    handles = [None, None]
    if size > 1:
        backends = ("nccl" if device.type == "cuda" else "gloo", "gloo")
        handles = [torch.distributed.new_group(list(range(size)), backend=backend) for backend in backends]
    return ProcessGroup(world.rank, size, None, *handles) if world.rank < size else None


def measure(
    variant: str,
    train: Train,
    options: argparse.Namespace,
    world: ProcessGroup,
    groups: dict[int, ProcessGroup | None],
    corpus: TokenCorpus,
    device: torch.device,
) -> tuple[dict[int, list[float]], dict[int, float]]:
    """Seconds per step by size, one per block, and the median without the exchange of gradients."""
    trainings = {
        size: make_training(variant, train, options, group, corpus, device) if group is not None else None
        for size, group in groups.items()
    }
    full: dict[int, list[float]] = {size: [] for size in groups}
    alone: dict[int, list[float]] = {size: [] for size in groups if size > 1}
    for block in range(options.warmup + options.blocks):
        for size, training in trainings.items():
            for kept, exchanges in ((full, True), (alone, False)):
                if size not in kept:
                    continue
                taken = seconds_of_block(training, options.steps, exchanges, world, device)
                if block >= options.warmup:
                    kept[size].append(taken)
    return full, {size: statistics.median(times) for size, times in alone.items()}


def make_training(
    variant: str,
    train: Train,
    options: argparse.Namespace,
    group: ProcessGroup,
    corpus: TokenCorpus,
    device: torch.device,
) -> Training:
    params = at_gpu_scale()
    shape = params.model_of(variant, CORPUS)
    given = json.loads(options.model) | dict.fromkeys(WINDOW_SETTINGS, train.window)
    shape |= {name: value for name, value in given.items() if name in shape}
    model = build(params.architecture_of(variant), vocab_size=VOCABULARY, seed=0, **shape)
    precision = choose_precision(options.precision, device)
    settings = train.model_copy(update={"batch_size": train.batch_size * group.size})
    training = Training(model, corpus, settings, seed=0, device=device, precision=precision, group=group)
    start_compiler(training, SilentDisplay("scaling", settings.steps))
    return training


def seconds_of_block(
    training: Training | None, steps: int, exchanges: bool, world: ProcessGroup, device: torch.device
) -> float:
    """Seconds per step of the slowest rank; ranks without a training only wait."""
    world.mean([0.0])
    started = time.perf_counter()
    if training is not None:
        training.update.exchanges = exchanges
        for _ in range(steps):
            training.advance()
        training.pause()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    taken = (time.perf_counter() - started) / steps if training is not None else 0.0
    return float(world.gather(torch.tensor([taken], dtype=torch.float64)).max())


def rows_of(
    variant: str, tokens: int, seconds: dict[int, list[float]], revision: str | None, device: torch.device
) -> list[dict]:
    """One row per size above 1; `tokens` of one device in one step."""
    speed = {size: size * tokens / statistics.median(times) for size, times in seconds.items()}
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    return [
        {
            "work": name_of(variant, size),
            "metric": "efficiency",
            "ours": speed[size],
            "peer": size * speed[1],
            "ratio": speed[size] / (size * speed[1]),
            "n": len(seconds[size]),
            "tokens_per_device": tokens,
            "device": name,
            "commit": revision or commit(),
        }
        for size in speed
        if size > 1
    ]


def name_of(variant: str, size: int) -> str:
    return f"ddp_{size}" if variant == "bdh" else f"ddp_{size}_{variant}"


def commit() -> str:
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    except OSError:
        return "unknown"
    return done.stdout.strip() or "unknown"


def report(rows: list[dict], shares: dict[str, float], options: argparse.Namespace, device: torch.device) -> None:
    print(f"{'work':32} {'tokens/s':>14} {'W x one':>14} {'efficiency':>10} {'communication':>14}")
    for row in rows:
        numbers = f"{row['ours']:14,.0f} {row['peer']:14,.0f} {row['ratio']:10.3f} {shares[row['work']]:13.1%}"
        print(f"{row['work']:32} {numbers}")
    if options.out:
        settings = recorded(options)
        result = {"machine": describe(str(device)), "settings": settings, "communication": shares, "rows": rows}
        Path(options.out).parent.mkdir(parents=True, exist_ok=True)
        Path(options.out).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def write_noise(folder: Path) -> TokenCorpus:
    """A corpus of random bytes: the speed of a step does not depend on the text."""
    splits = {"train": 2**22, "validation": 2**14, "test": 2**14}
    draw = np.random.default_rng(0)
    for split, length in splits.items():
        (folder / f"{split}.bin").write_bytes(draw.integers(1, VOCABULARY, length, dtype=np.uint8).tobytes())
    stats = {
        "name": "noise",
        "tokenizer": {"name": "bytes", "vocab_size": VOCABULARY, "end_of_text": None},
        "digest": "0" * 64,
        "splits": {split: {"tokens": length} for split, length in splits.items()},
    }
    (folder / "stats.json").write_text(json.dumps(stats), encoding="utf-8")
    try:
        return TokenCorpus.open(folder)
    except HatcheryError as error:
        raise SystemExit(f"the benchmark's own corpus cannot be read: {error}") from error


if __name__ == "__main__":
    main()
