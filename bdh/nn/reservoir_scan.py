"""The reservoir over many tokens of many streams: equal to `bdh.nn.reservoir.step`, without its slowness.

What has to wait for the token before it decides the form:

- `recurrent`: x is a cumulative sum and the readout is linear attention with decay, so nothing is scanned;
- `stabilized`, and `neuro` without gain, k-WTA on x and forgetting: x alone is scanned, the rest is parallel over T;
- `neuro`: the gain and the k-WTA on x feed back into rho, so the whole state is scanned, all streams at once; on a GPU
  without gradients by one kernel (`bdh.nn.reservoir_kernel`).

Shape letters: B batch (independent streams), T tokens, D embedding, N neurons, K synaptic kernels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from bdh.nn.decayed_attention import decayed_attention
from bdh.nn.reservoir import Rules, Stream, Weights, respond
from bdh.nn.reservoir_feedback import feedback_scan, next_activity
from bdh.nn.reservoir_kernel import available, kernel_scan

BLOCK, LONGEST_BLOCK, ENTRIES = 64, 1024, 1 << 26


class Trace(NamedTuple):
    """What happened at every token: `v_BTD`, `gain_BT` of the write and, on demand, `x_BTN` as stored and `y_BTN`."""

    v_BTD: Tensor
    gain_BT: Tensor
    x_BTN: Tensor | None
    y_BTN: Tensor | None


def scan(
    weights: Weights,
    rules: Rules,
    stream: Stream,
    e_BTD: Tensor,
    spikes_BTN: Tensor | None = None,
    activity: bool = True,
) -> tuple[Trace, Stream]:
    """Read T embeddings from `stream`: the trace (x and y only with `activity`) and the new state.

    Text is read in blocks, of 64 tokens on a CPU (they stay in the cache) and of up to 1024 on a GPU, which bounds
    memory; gradients flow from block to block (`bdh.nn.reservoir_truncation` cuts them).
    """
    T = e_BTD.shape[1]
    block = BLOCK
    if e_BTD.is_cuda:
        block = max(BLOCK, min(LONGEST_BLOCK, ENTRIES // (e_BTD.shape[0] * weights.Dx.shape[0])))
    traces = []
    for start in range(0, T, block):
        part = slice(start, start + block)
        spikes = None if spikes_BTN is None else spikes_BTN[:, part]
        (v_BTD, gain_BT, x_BTN, y_BTN), stream = _run(weights, rules, stream, e_BTD[:, part], spikes)
        traces.append((v_BTD, gain_BT, x_BTN, y_BTN) if activity else (v_BTD, gain_BT))
    whole = traces[0] if len(traces) == 1 else tuple(torch.cat(parts, 1) for parts in zip(*traces, strict=True))
    return Trace(*whole, *(() if activity else (None, None))), stream


def _run(
    weights: Weights, rules: Rules, stream: Stream, e_BTD: Tensor, spikes_BTN: Tensor | None
) -> tuple[tuple[Tensor, Tensor, Tensor, Tensor], Stream]:
    """v, gain, x and y of one block, and the state after it."""
    drive_BTN = drive(weights, rules, e_BTD)
    if rules.feeds_back:
        scanned = kernel_scan if available(rules, stream) else feedback_scan
        x_BTN, y_BTN, v_BTD, gain_BT, rho_BKDN = scanned(weights, rules, stream, e_BTD, drive_BTN, spikes_BTN)
    else:
        x_BTN = activity_without_feedback(rules, stream.x_BN, drive_BTN)
        a_BTD, rho_BKDN = _read(rules, x_BTN, e_BTD, stream.rho_BKDN)
        y_BTN, v_BTD = respond(a_BTD, x_BTN, spikes_BTN, weights, rules)
        gain_BT = v_BTD.new_ones(v_BTD.shape[:2])
    return (v_BTD, gain_BT, x_BTN, y_BTN), Stream(x_BTN[:, -1], y_BTN[:, -1], v_BTD[:, -1], rho_BKDN)


def drive(weights: Weights, rules: Rules, e_BTD: Tensor) -> Tensor:
    """What the tokens add to x (B,T,N): relu(Dx e), or Dx e."""
    drive_BTN = e_BTD @ weights.Dx.T
    return F.relu(drive_BTN) if rules.use_relu_lowrank else drive_BTN


def activity_without_feedback(rules: Rules, x_BN: Tensor, drive_BTN: Tensor) -> Tensor:
    """x (B,T,N) from x before the first token, where it waits for no read."""
    return x_BN[:, None] + drive_BTN.cumsum(1) if rules.x_accumulates else activity_scan(rules, x_BN, drive_BTN)


def _read(rules: Rules, x_BTN: Tensor, e_BTD: Tensor, rho_BKDN: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted readouts (B,T,D) of all kernels, and the new rho (B,K,D,N)."""
    reads, rho = [], []
    for decay, weight, rho_BDN in zip(rules.decays, rules.read_weights, rho_BKDN.unbind(1), strict=True):
        read_BTD, new_BDN = decayed_attention(x_BTN, e_BTD, decay, rho_BDN)
        reads.append(weight * read_BTD if len(rules.decays) > 1 else read_BTD)
        rho.append(new_BDN)
    return torch.stack(reads).sum(0) if len(reads) > 1 else reads[0], torch.stack(rho, 1)


@torch.compiler.disable
def activity_scan(rules: Rules, x_BN: Tensor, drive_BTN: Tensor) -> Tensor:
    """x (B,T,N; a view of T,B,N) under leak, L1 normalisation and threshold, one token after the other."""
    steps = []
    for drive_BN in drive_BTN.transpose(0, 1).contiguous().unbind(0):
        x_BN = next_activity(x_BN, drive_BN, rules)
        steps.append(x_BN)
    return torch.stack(steps).transpose(0, 1)
