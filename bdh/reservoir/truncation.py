"""The reservoir with truncated back-propagation through time: gradients are cut at every multiple of C tokens.

Nothing that is differentiated waits for another run of C tokens: once the states at the cuts are known, found by a pass
without gradients, all runs can be read at once, as if they were streams of their own. That is C steps in turn with
gradients instead of T, at the price of the first pass. Only where a reservoir without feedback would leave the cache of
a CPU (by measurement, `python -m benchmarks.truncation`) runs are read in turn.

Shape letters: B batch (independent streams), T tokens, R runs of C tokens, D embedding, N neurons, K synaptic kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from bdh.nn.attention import decayed_write
from bdh.reservoir.scan import Trace, activity_without_feedback, drive, scan
from bdh.reservoir.step import ReservoirWeights, Rules, Stream, constants

CACHED = 1 << 20


def truncated_scan(
    weights: ReservoirWeights,
    rules: Rules,
    stream: Stream,
    e_BTD: Tensor,
    spikes_BTN: Tensor | None,
    C: int,
    activity: bool = True,
) -> tuple[Trace, Stream]:
    """`bdh.reservoir.scan.scan`, whose gradients do not flow over the borders between runs of C tokens."""
    if e_BTD.shape[1] <= C or not torch.is_grad_enabled():
        return scan(weights, rules, stream, e_BTD, spikes_BTN, activity)
    cached = e_BTD.is_cuda or e_BTD.shape[:2].numel() * weights.Dx.shape[0] <= CACHED
    read = side_by_side if rules.feeds_back or cached else one_by_one
    return read(weights, rules, stream, e_BTD, spikes_BTN, C, activity)


def one_by_one(
    weights: ReservoirWeights,
    rules: Rules,
    stream: Stream,
    e_BTD: Tensor,
    spikes_BTN: Tensor | None,
    C: int,
    activity: bool = True,
) -> tuple[Trace, Stream]:
    """`truncated_scan`, a run after the other."""
    traces = []
    for start in range(0, e_BTD.shape[1], C):
        run = slice(start, start + C)
        spikes = None if spikes_BTN is None else spikes_BTN[:, run]
        stream = stream.detach() if start else stream
        trace, stream = scan(weights, rules, stream, e_BTD[:, run], spikes, activity)
        traces.append(trace)
    return _each(traces, lambda parts: torch.cat(parts, 1)), stream


def side_by_side(
    weights: ReservoirWeights,
    rules: Rules,
    stream: Stream,
    e_BTD: Tensor,
    spikes_BTN: Tensor | None,
    C: int,
    activity: bool = True,
) -> tuple[Trace, Stream]:
    """`truncated_scan`, all whole runs at once, then what is left of T."""
    B, T = e_BTD.shape[:2]
    R, rest = divmod(T, C)
    whole = R * C
    if spikes_BTN is not None:
        spikes_BTN = spikes_BTN.expand(B, -1, -1)
    with torch.no_grad():
        cut = whole if rest else whole - C
        spikes = None if spikes_BTN is None else spikes_BTN[:, :cut]
        borders = _borders(weights, rules, stream, e_BTD[:, :cut], spikes, C)
    starts = zip(stream, *borders[: R - 1], strict=True)
    streams = Stream(*(torch.stack(tensors, 1).flatten(0, 1) for tensors in starts))
    spikes = None if spikes_BTN is None else _runs(spikes_BTN[:, :whole], C)
    trace, ends = scan(weights, rules, streams, _runs(e_BTD[:, :whole], C), spikes, activity)
    trace = _each((trace,), lambda parts: parts[0].unflatten(0, (B, R)).flatten(1, 2))
    if not rest:
        return trace, Stream(*(tensor.unflatten(0, (B, R))[:, -1] for tensor in ends))
    spikes = None if spikes_BTN is None else spikes_BTN[:, whole:]
    last, end = scan(weights, rules, borders[-1], e_BTD[:, whole:], spikes, activity)
    return _each((trace, last), lambda parts: torch.cat(parts, 1)), end


def _borders(
    weights: ReservoirWeights, rules: Rules, stream: Stream, e_BTD: Tensor, spikes_BTN: Tensor | None, C: int
) -> list[Stream]:
    """The state after every run; y and v stay those of `stream` where nothing depends on them."""
    R = e_BTD.shape[1] // C
    borders: list[Stream] = []
    if R == 0:
        return borders
    if rules.feeds_back:
        for start in range(0, R * C, C):
            run = slice(start, start + C)
            spikes = None if spikes_BTN is None else spikes_BTN[:, run]
            stream = scan(weights, rules, stream, e_BTD[:, run], spikes, activity=False)[1]
            borders.append(stream)
        return borders
    x_BTN = activity_without_feedback(rules, stream.x_BN, drive(weights, rules, e_BTD))
    written = [decayed_write(_runs(x_BTN, C), _runs(e_BTD, C), decay) for decay in rules.decays]
    written_BRKDN = torch.stack(written, 1).unflatten(0, (-1, R))
    decay_K11 = constants([decay**C for decay in rules.decays], written_BRKDN)[:, None, None]
    rho_BKDN = stream.rho_BKDN
    for r in range(R):
        rho_BKDN = rho_BKDN * decay_K11 + written_BRKDN[:, r]
        borders.append(stream._replace(x_BN=x_BTN[:, (r + 1) * C - 1], rho_BKDN=rho_BKDN))
    return borders


def _runs(part_BTX: Tensor, C: int) -> Tensor:
    """B*R,C,X of B,R*C,X."""
    return part_BTX.unflatten(1, (-1, C)).flatten(0, 1)


def _each(traces: Sequence[Trace], combine: Callable[[list[Tensor]], Tensor]) -> Trace:
    """A trace whose parts are combined from the same parts of others."""
    v, gain, x, y = (None if parts[0] is None else combine(list(parts)) for parts in zip(*traces, strict=True))
    assert v is not None
    assert gain is not None
    return Trace(v, gain, x, y)
