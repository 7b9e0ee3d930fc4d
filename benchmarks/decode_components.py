"""Where the time of a decoding step goes, how dense its activations are and how many bytes it has to move."""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch
from torch import Tensor

from bdh.kernels.decoding.decoder import Decoder
from bdh.models.base import LanguageModel
from bdh.nn.probe import listening
from benchmarks.machine import seconds_each

REPEATS = 20


@torch.no_grad()
def density(model: LanguageModel, tokens_BT: Tensor) -> dict[str, float]:
    """Shares of non-zeros: x, pairs of x, y where x is active, gated; means over layers, heads, tokens, neurons."""
    shares: dict[str, list[float]] = {}

    def keep(name: str, layer: int, tensor: Tensor) -> None:
        active = tensor != 0
        shares.setdefault(name, []).append(float(active.double().mean()))
        if name == "x_sparse":
            shares.setdefault("x_pairs", []).append(float(active.unflatten(-1, (-1, 2)).any(-1).double().mean()))
            ever = (
                active.unflatten(2, (-1, min(64, active.shape[2]))) if active.shape[2] % 64 == 0 else active[:, :, None]
            )
            shares.setdefault("x_in_window", []).append(float(ever.any(3).double().mean()))

    with listening(keep):
        model(tokens_BT)
    return {name: statistics.mean(values) for name, values in shares.items()}


def components(decoder: Decoder) -> dict[str, float]:
    """Microseconds of every program, alone and back to back in a graph; of one layer, but fold of all layers.

    `all_but_choose` is a step up to its logits, with gaps between programs and caches as they are in use.

    Empty where the step runs in torch operations. Programs run out of turn, so the text of the streams is spoilt.
    """
    step = decoder.fused
    if step is None or not torch.cuda.is_available():
        return {}
    works = step.programs() | {"all_but_choose": step.logits_of_tokens}
    found = {name: graph_seconds(work) * 1e6 for name, work in works.items()}
    times = []
    for _ in range(3):
        decoder.fold()
        decoder.run(decoder.memory.window)
        times += seconds_each(decoder.fold, repeats=1, warmup=0, device="cuda")
    found["fold"] = statistics.median(times) * 1e6
    return {name: round(value, 2) for name, value in found.items()}


def graph_seconds(work: Callable[[], object]) -> float:
    """Seconds of one call, from a graph of REPEATS calls."""
    work()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(REPEATS):
            work()
    return statistics.median(seconds_each(graph.replay, repeats=5, warmup=1, device="cuda")) / REPEATS


def bandwidth(device: torch.device) -> float:
    """Bytes per second that a copy reads and writes."""
    size = 2**30 if device.type == "cuda" else 2**25
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    times = seconds_each(lambda: target.copy_(source), repeats=7, warmup=2, device=device.type)
    return 2 * size / statistics.median(times)


def roofline(decoder: Decoder, shares: dict[str, float], seconds: float) -> dict[str, float]:
    """Megabytes that one step of all streams moves, by cause, and the share of the measured bandwidth that it reaches.

    Reads of the state: rows of active pairs. Window: half of its places on average. Folding: rows that fired within a
    window, read and written, once per window. Weights: once per layer, as if nothing stayed in the cache.
    """
    memory, weights = decoder.memory, decoder.weights
    B, L, (H, D, N) = len(memory.tokens), weights.layers, weights.sizes
    rows = B * L * H * N
    number, narrow = memory.high.element_size(), memory.window_q.element_size()
    read = rows * shares["x_pairs"] * D * number
    window = rows * shares["x_pairs"] * memory.window / 2 * narrow
    written = number + (memory.low.element_size() if memory.planes else 0)
    folded = rows * (shares["x_in_window"] * 2 * D * written / memory.window + narrow)
    fixed = L * 3 * H * D * N * narrow
    total = read + window + folded + fixed
    rate = bandwidth(memory.high.device)
    return {
        "step_us": seconds * 1e6,
        "state_read_mb": read / 1e6,
        "window_read_mb": window / 1e6,
        "fold_mb": folded / 1e6,
        "weights_mb": fixed / 1e6,
        "bandwidth_gb_per_s": rate / 1e9,
        "least_us": total / rate * 1e6,
        "share_of_bandwidth": total / rate / seconds,
    }
