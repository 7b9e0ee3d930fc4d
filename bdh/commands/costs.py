"""What a run will cost, in seconds and GPU memory: as an earlier run of its variant and corpus did, or a guess."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bdh.project.errors import RunError
from bdh.project.files import REPORTS, RESULTS, TOKENS, read_json, run_key

if TYPE_CHECKING:
    from bdh.params import Params

BROUGHT = Path("data/timing")
"""Timings of runs elsewhere, named as those of data/results/timing; `bdh study run` puts those of the study here."""

MIB = 2**20
GUESSED_MIB = 20 * 1024
BESIDE_TORCH_MIB = 1024
SLACK = 1.15
GUESSED_TOKENS_PER_S = {True: 100_000.0, False: 8_000.0}
EVALUATION_S = 90.0
STATES_MIB = 6 * 1024
LARGEST_LOGITS = 2**32
TOKENS_AT_ONCE = 2**17
COPIES = 4
"""What stage B holds on a GPU beside the model: states of its streams, and its logits that often."""


@dataclass(frozen=True)
class Cost:
    """Seconds of the training, those of both evaluations, MiB of GPU memory, and whether a run was measured."""

    training: float
    evaluation: float
    memory: float
    measured: bool


def cost_of(params: Params, variant: str, corpus: str, seed: int, gpu: bool) -> Cost:
    """The cost of one run on a machine with or without a GPU."""
    train = params.train_of(variant, corpus)
    tokens = train.steps * train.batch_size * train.window
    evaluation, needed = EVALUATION_S, _evaluation_mib(corpus)
    rows = [row for row in _timings(variant, corpus, seed) if (row.get("device", "cpu") != "cpu") == gpu]
    speeds = [row["tokens_per_s"] for row in rows if row.get("tokens_per_s")]
    peaks = [row["peak_memory_mib"] for row in rows if row.get("peak_memory_mib")]
    speed = min(speeds) if speeds else GUESSED_TOKENS_PER_S[gpu]
    memory = SLACK * max(peaks) + BESIDE_TORCH_MIB if peaks else GUESSED_MIB
    seconds = 0.0 if train.regime == "none" else tokens / speed
    return Cost(seconds, evaluation, max(memory, needed), bool(speeds))


def _timings(variant: str, corpus: str, seed: int) -> list[dict[str, Any]]:
    """Timings of the run, or of the runs of other seeds; damaged files count as none."""
    own = run_key(variant, corpus, seed)
    for pattern in (own, f"{variant}-{corpus}-*"):
        found = []
        for folder in (RESULTS / "timing", REPORTS / "timing", BROUGHT):
            for path in sorted(folder.glob(f"{pattern}.json")):
                try:
                    row = read_json(path)
                except RunError:
                    continue
                if isinstance(row, dict):
                    found.append(row)
        if found:
            return found
    return []


def _evaluation_mib(corpus: str) -> float:
    path = TOKENS / corpus / "stats.json"
    vocabulary = read_json(path).get("tokenizer", {}).get("vocab_size", 256) if path.exists() else 256
    return STATES_MIB + COPIES * min(LARGEST_LOGITS, 4 * vocabulary * TOKENS_AT_ONCE) / MIB


def visible_gpus() -> dict[str, float | None]:
    """Indices or ids of the GPUs that this process may use, with their free memory in MiB where it can be read.

    Torch is not imported.
    """
    import pynvml

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = None if named is None else [part.strip() for part in named.split(",") if part.strip()]
    if names == []:
        return {}
    try:
        pynvml.nvmlInit()
        names = [str(index) for index in range(pynvml.nvmlDeviceGetCount())] if names is None else names
        return {name: _free_mib(pynvml, name) for name in names}
    except pynvml.NVMLError:
        return dict.fromkeys(names or ())


def _free_mib(pynvml: Any, name: str) -> float | None:
    try:
        by_index = pynvml.nvmlDeviceGetHandleByIndex
        handle = by_index(int(name)) if name.isdigit() else pynvml.nvmlDeviceGetHandleByUUID(name)
        return float(pynvml.nvmlDeviceGetMemoryInfo(handle).free) / MIB
    except pynvml.NVMLError:
        return None
