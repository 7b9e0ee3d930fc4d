"""The reservoir over many tokens of many streams: equal to `bdh.nn.reservoir.step`, without its slowness.

What has to wait for the token before it decides the form:

- `recurrent`: x is a cumulative sum and the readout is linear attention with decay, so nothing is scanned;
- `stabilized`, and `neuro` without gain, k-WTA on x and forgetting: x alone is scanned, the rest is parallel over T;
- `neuro`: the gain and the k-WTA on x feed back into rho, so the whole state is scanned, all streams at once.

Shape letters: B batch (independent streams), T tokens, D embedding, N neurons, K synaptic kernels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from bdh.nn.decayed_attention import decayed_attention
from bdh.nn.reservoir import NORM_EPSILON, Rules, Stream, Weights, respond
from bdh.nn.reservoir_feedback import feedback_scan


class Trace(NamedTuple):
    """What happened at every token: `x_BTN` as stored, `y_BTN`, `v_BTD`, `gain_BT` of the write."""

    x_BTN: Tensor
    y_BTN: Tensor
    v_BTD: Tensor
    gain_BT: Tensor


def scan(
    weights: Weights,
    rules: Rules,
    stream: Stream,
    e_BTD: Tensor,
    spikes_BTN: Tensor | None = None,
    truncation: int | None = None,
) -> tuple[Trace, Stream]:
    """Read T embeddings from `stream`: the trace and the new state.

    Gradients do not flow over the borders between runs of `truncation` tokens (None: they flow over all T).
    """
    length = min(truncation or e_BTD.shape[1], e_BTD.shape[1])
    traces = []
    for start in range(0, e_BTD.shape[1], length):
        if start:
            stream = stream.detach()
        part = slice(start, start + length)
        spikes_part = None if spikes_BTN is None else spikes_BTN[:, part]
        trace, stream = _run(weights, rules, stream, e_BTD[:, part], spikes_part)
        traces.append(trace)
    if len(traces) == 1:
        return traces[0], stream
    return Trace(*(torch.cat(parts, 1) for parts in zip(*traces, strict=True))), stream


def _run(
    weights: Weights, rules: Rules, stream: Stream, e_BTD: Tensor, spikes_BTN: Tensor | None
) -> tuple[Trace, Stream]:
    drive_BTN = e_BTD @ weights.Dx.T
    if rules.use_relu_lowrank:
        drive_BTN = F.relu(drive_BTN)
    if rules.feeds_back:
        x_BTN, y_BTN, v_BTD, gain_BT, rho_BKDN = feedback_scan(weights, rules, stream, e_BTD, drive_BTN, spikes_BTN)
        return Trace(x_BTN, y_BTN, v_BTD, gain_BT), Stream(x_BTN[:, -1], y_BTN[:, -1], v_BTD[:, -1], rho_BKDN)
    if rules.x_decay == 1.0 and not rules.x_normalized and rules.threshold_ratio is None:
        x_BTN = stream.x_BN[:, None] + drive_BTN.cumsum(1)
    else:
        x_BTN = activity_scan(rules, stream.x_BN, drive_BTN)
    a_BTD, rho = None, []
    for decay, weight, rho_BDN in zip(rules.decays, rules.read_weights, stream.rho_BKDN.unbind(1), strict=True):
        read_BTD, new_BDN = decayed_attention(x_BTN, e_BTD, decay, rho_BDN)
        a_BTD = weight * read_BTD if a_BTD is None else a_BTD + weight * read_BTD
        rho.append(new_BDN)
    assert a_BTD is not None
    y_BTN, v_BTD = respond(a_BTD, x_BTN, spikes_BTN, weights, rules)
    gain_BT = v_BTD.new_ones(v_BTD.shape[:2])
    return Trace(x_BTN, y_BTN, v_BTD, gain_BT), Stream(x_BTN[:, -1], y_BTN[:, -1], v_BTD[:, -1], torch.stack(rho, 1))


@torch.compiler.disable
def activity_scan(rules: Rules, x_BN: Tensor, drive_BTN: Tensor) -> Tensor:
    """x (B,T,N) under leak, L1 normalisation and threshold, one token after the other."""
    drive_TBN = drive_BTN.transpose(0, 1).contiguous()
    steps = []
    for drive_BN in drive_TBN.unbind(0):
        x_BN = torch.add(drive_BN, x_BN, alpha=rules.x_decay)
        if rules.x_normalized:
            x_BN = x_BN / (x_BN.abs().sum(-1, keepdim=True) + NORM_EPSILON)
        if rules.threshold_ratio is not None:
            x_BN = x_BN * (x_BN.detach() > rules.threshold_ratio * x_BN.detach().amax(-1, keepdim=True))
        steps.append(x_BN)
    return torch.stack(steps, 1)
