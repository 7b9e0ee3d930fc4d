"""What a finished training writes down: numbers that repeat, the history, what it cost, a picture of the curves.

And texts that the trained model writes, so that one can see what it has learned.
"""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from bdh.corpora.tokens import TokenCorpus, spaced_starts
from bdh.generation import generate
from bdh.models.base import LanguageModel
from bdh.project.files import write_csv
from bdh.training.state import Row, Training

SAMPLES = 3
PROMPT_TOKENS = 48
NEW_TOKENS = 160
TEMPERATURE = 0.8
TOP_K = 50
READOUT = "lm_head"
LENGTHS = (0.0, 0.125, 0.5, 1.0)


def write_samples(model: LanguageModel, corpus: TokenCorpus, seed: int) -> list[dict[str, str]]:
    """`{"prompt", "text"}` of SAMPLES continuations of evenly spaced places of the validation split.

    No prompt crosses a cut of a split by blocks. A function of weights, corpus and seed: the same run writes the same
    texts.
    """
    tokens = corpus.tokens("validation")
    segments = corpus.segments("validation")
    length = min(PROMPT_TOKENS, int(np.diff(segments).max()))
    samples = []
    for number, start in enumerate(spaced_starts(tokens, SAMPLES, length, segments)):
        prompt = [int(token) for token in tokens[start : start + length]]
        written = generate(model, prompt, NEW_TOKENS, temperature=TEMPERATURE, top_k=TOP_K, seed=seed + number)
        samples.append({"prompt": corpus.decode(prompt), "text": corpus.decode(list(islice(written, NEW_TOKENS)))})
    return samples


def train_report(training: Training, variant: str, corpus: str, seed: int) -> dict[str, Any]:
    """The report of a finished training: numbers that are the same on every clone of one machine, and no times.

    With `refit` the weights are those of a second training on training and validation text for `best_step` steps; all
    numbers but the densities are the first one's. Of a training that diverged: what the model is, and under `diverged`
    the step and the reason.
    """
    model, best = training.model, training.best
    report: dict[str, Any] = {
        "variant": variant,
        "corpus": corpus,
        "seed": seed,
        "parameters": model.parameter_count(),
        "parameters_without_embeddings": parameters_without_embeddings(model),
        "flops_per_token_forward": model.flops_per_token(training.settings.window),
        "state_bytes": model.state_bytes(),
        "state_bytes_after": state_bytes_after(model, training.settings.window),
    }
    if training.diverged is not None:
        return report | {"diverged": {"step": training.diverged.step, "reason": training.diverged.reason}}
    report |= {
        "steps_done": training.step,
        "tokens_seen": training.tokens_seen,
        "best_step": best["step"],
        "judged": best["judged"],
        "validation/nats_per_token": best["nats_per_token"],
        "validation/bits_per_byte": best["bits_per_byte"],
    }
    if training.settings.refit:
        report["refit"] = True
    return report | density_report(training)


@torch.no_grad()
def state_bytes_after(model: LanguageModel, window: int) -> dict[str, int]:
    """Bytes of the state of one stream after texts of a few lengths up to `window` tokens, measured by reading them."""
    device = next(model.parameters()).device
    training, state, read, found = model.training, model.initial_state(1), 0, {}
    model.eval()
    state = {name: tensor.to(device) for name, tensor in state.items()}
    for length in sorted({max(1, round(window * share)) for share in LENGTHS}):
        output = model(torch.zeros(1, length - read, dtype=torch.int64, device=device), state=state)
        assert output.state is not None
        state, read = output.state, length
        found[str(length)] = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    model.train(training)
    return found


def density_report(training: Training) -> dict[str, float]:
    """`density/<tap>` (mean over layers) and `density/<tap>/layer<l>` of the saved weights."""
    layers: dict[str, dict[int, float]] = {}
    for (tap, layer), value in training.validation.activations(training.model).items():
        if tap.endswith("_sparse"):
            layers.setdefault(tap, {})[layer] = value
    report: dict[str, float] = {}
    for tap, values in layers.items():
        report[f"density/{tap}"] = sum(values.values()) / len(values)
        report |= {f"density/{tap}/layer{layer}": value for layer, value in values.items()}
    return report


def timing_report(training: Training) -> dict[str, Any]:
    """What the training cost, on which devices; these numbers do not repeat.

    `tokens_per_s` counts all ranks, `peak_memory_mib` is that of the first.
    """
    usage = training.usage.report()
    on_gpu = training.device.type == "cuda"
    return {
        "seconds": usage["seconds"],
        "tokens_per_s": training.tokens_per_s,
        "peak_memory_mib": usage["peak_memory_mib"],
        "device": torch.cuda.get_device_name(training.device) if on_gpu else "cpu",
        "devices": training.group.size,
        "precision": str(training.update.precision).removeprefix("torch."),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }


def parameters_without_embeddings(model: LanguageModel) -> int:
    """Parameters that are neither an embedding table nor the readout to the vocabulary."""
    outside = {id(p) for module in model.modules() if isinstance(module, nn.Embedding) for p in module.parameters()}
    outside |= {id(p) for name, p in model.named_parameters() if name.startswith(READOUT)}
    return sum(parameter.numel() for parameter in model.parameters() if id(parameter) not in outside)


def write_history(path: Path, rows: list[Row]) -> None:
    """One line per validation, none when training diverged before the first; a column that a row lacks is empty."""
    columns = list(dict.fromkeys(name for row in rows for name in row)) or ["step", "validation_nats"]
    write_csv(path, columns, rows)


def draw_history(path: Path, key: str, rows: list[Row]) -> None:
    """A picture of the losses (left) and of the activation densities (right) over the steps."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    losses, densities = figure.subplots(1, 2)
    for column in ("train_nats", "validation_nats", "validation_nats_average"):
        _line(losses, rows, column, column.removesuffix("_nats").replace("_nats_", ", ").replace("_", " "))
    for column in sorted({name for row in rows for name in row if name.startswith("density_")}):
        _line(densities, rows, column, column.removeprefix("density_").replace("_", " "))
    for axes, label in ((losses, "nats per token"), (densities, "share of non-zero activations")):
        axes.set(xlabel="training step", ylabel=label)
        if axes.lines:
            axes.legend(fontsize=7)
    figure.suptitle(key, fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def _line(axes: Any, rows: list[Row], column: str, label: str) -> None:
    points = [(row["step"], row[column]) for row in rows if row.get(column) is not None]
    if points:
        axes.plot(*zip(*points, strict=True), label=label, marker="." if len(points) < 20 else "")
