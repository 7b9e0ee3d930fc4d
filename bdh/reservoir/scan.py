"""The reservoir over many tokens of many streams: equal to `bdh.reservoir.step.step`, without its slowness.

What has to wait for the token before it decides the form:

- `recurrent`: x is a cumulative sum and the readout is linear attention with decay, so nothing is scanned;
- `stabilized`, and `neuro` without gain, k-WTA on x and forgetting: x alone is scanned (on a GPU without gradients by
  one kernel), the rest is parallel over T;
- `neuro`: the gain and the k-WTA on x feed back into rho, so the whole state is scanned, all streams at once; on a GPU
  without gradients by one kernel (`bdh.reservoir.kernel`), else by `feedback_scan`, one token after the other.

In `feedback_scan` the state costs 3 N D numbers of traffic per token and stream; at B about 32 on a CPU the rest is the
cost of starting some forty small operations, so the body is written for few of them (masks are written as numbers,
decay and fading are one factor, the exact tie rule runs only when there is a tie).

Shape letters: B batch (independent streams), T tokens, D embedding, N neurons, K synaptic kernels, J = K*D.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bdh.nn.attention import decayed_attention
from bdh.reservoir.kernel import available, kernel_activity, kernel_scan, scans_activity
from bdh.reservoir.step import (
    BASE_SHARE,
    GAIN_SHARE,
    NORM_EPSILON,
    QUIET,
    ReservoirWeights,
    Rules,
    Stream,
    constants,
    largest,
    layer_norm,
    respond,
)

BLOCK, LONGEST_BLOCK, ENTRIES = 64, 1024, 1 << 26


class Trace(NamedTuple):
    """What happened at every token: `v_BTD`, `gain_BT` of the write and, on demand, `x_BTN` as stored and `y_BTN`."""

    v_BTD: Tensor
    gain_BT: Tensor
    x_BTN: Tensor | None
    y_BTN: Tensor | None


def scan(
    weights: ReservoirWeights,
    rules: Rules,
    stream: Stream,
    e_BTD: Tensor,
    spikes_BTN: Tensor | None = None,
    activity: bool = True,
) -> tuple[Trace, Stream]:
    """Read T embeddings from `stream`: the trace (x and y only with `activity`) and the new state.

    Text is read in blocks, of 64 tokens on a CPU (they stay in the cache) and of up to 1024 on a GPU, which bounds
    memory; gradients flow from block to block (`bdh.reservoir.truncation` cuts them).
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
    weights: ReservoirWeights, rules: Rules, stream: Stream, e_BTD: Tensor, spikes_BTN: Tensor | None
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


def drive(weights: ReservoirWeights, rules: Rules, e_BTD: Tensor) -> Tensor:
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
    """x (B,T,N; in memory B,T,N or T,B,N) under leak, L1 normalisation and threshold, one token after the other."""
    if scans_activity(x_BN):
        return kernel_activity(rules, x_BN, drive_BTN)
    steps = []
    for drive_BN in drive_BTN.transpose(0, 1).contiguous().unbind(0):
        x_BN = next_activity(x_BN, drive_BN, rules)
        steps.append(x_BN)
    return torch.stack(steps).transpose(0, 1)


@torch.compiler.disable
def feedback_scan(
    weights: ReservoirWeights, rules: Rules, stream: Stream, e_BTD: Tensor, drive_BTN: Tensor, spikes_BTN: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """x (B,T,N) as stored, y (B,T,N), v (B,T,D), gain (B,T) and the last rho (B,K,D,N).

    drive: relu(Dx e), or Dx e. spikes: (B or 1,T,N). When no gradient is wanted, one copy of rho is updated in place.
    """
    B, T, D = e_BTD.shape
    N, K = drive_BTN.shape[-1], len(rules.decays)
    decay_J1 = constants(rules.decays, e_BTD).repeat_interleave(D)[:, None]
    faded_J1 = decay_J1 * (1 - rules.local_forget_eta)
    write_TBJ1 = (e_BTD.repeat(1, 1, K) * decay_J1[:, 0]).transpose(0, 1).contiguous()[..., None]
    drives = drive_BTN.transpose(0, 1).contiguous().unbind(0)
    spikes = [None] * T if spikes_BTN is None else spikes_BTN.transpose(0, 1).to(e_BTD.dtype).unbind(0)
    x_BN, rho_BJN = stream.x_BN, stream.rho_BKDN.flatten(1, 2)
    in_place = not torch.is_grad_enabled()
    if in_place:
        rho_BJN = rho_BJN.clone()
    steps = []
    for drive_BN, write_BJ1, spikes_BN in zip(drives, write_TBJ1.unbind(0), spikes, strict=True):
        x_BN = next_activity(x_BN, drive_BN, rules)
        y_BN = _response(_read_one(rho_BJN, x_BN, rules), x_BN, spikes_BN, weights, rules)
        v_BD = layer_norm(y_BN @ weights.E.T, rules.unbiased_std)
        gain_B1 = _gain(v_BD, rules)
        if rules.x_kwta:
            x_BN = _keep_active(x_BN, gain_B1)
        input_B1N = (x_BN * gain_B1)[:, None, :]
        keep_BJN = _kept_share(x_BN, decay_J1, faded_J1, rules)
        if in_place:
            rho_BJN.mul_(keep_BJN).baddbmm_(write_BJ1, input_B1N)
        else:
            rho_BJN = torch.baddbmm(rho_BJN * keep_BJN, write_BJ1, input_B1N)
        steps.append((x_BN, y_BN, v_BD, gain_B1))
    x_BTN, y_BTN, v_BTD, gain_BT1 = (torch.stack(tensors).transpose(0, 1) for tensors in zip(*steps, strict=True))
    return x_BTN, y_BTN, v_BTD, gain_BT1[..., 0], rho_BJN.view(B, K, D, N)


def next_activity(x_BN: Tensor, drive_BN: Tensor, rules: Rules) -> Tensor:
    """x of the next token: leak, drive, L1 norm, threshold."""
    x_BN = torch.add(drive_BN, x_BN, alpha=rules.x_decay)
    if rules.x_normalized:
        size_B1 = x_BN.sum(-1, keepdim=True) if rules.use_relu_lowrank else x_BN.abs().sum(-1, keepdim=True)
        x_BN = x_BN / (size_B1 + NORM_EPSILON)
    if rules.threshold_ratio is not None:
        x_BN = x_BN * _mask(torch.gt, x_BN, rules.threshold_ratio * x_BN.detach().amax(-1, keepdim=True))
    return x_BN


def _mask(compare: Callable[..., Tensor], z_BN: Tensor, bound_B1: Tensor) -> Tensor:
    """1.0 where z passes the comparison with the bound, else 0.0: written as numbers at once, never differentiated."""
    z_BN = z_BN.detach()
    return compare(z_BN, bound_B1, out=torch.empty_like(z_BN))


def _read_one(rho_BJN: Tensor, x_BN: Tensor, rules: Rules) -> Tensor:
    a_BJ = torch.bmm(x_BN[:, None, :], rho_BJN.mT)[:, 0]
    if len(rules.decays) == 1:
        return a_BJ
    a_BKD = a_BJ.unflatten(1, (len(rules.decays), -1))
    return (a_BKD * constants(rules.read_weights, a_BKD)[:, None]).sum(1)


def _response(a_BD: Tensor, x_BN: Tensor, spikes_BN: Tensor | None, weights: ReservoirWeights, rules: Rules) -> Tensor:
    hat_BD = layer_norm(a_BD, rules.unbiased_std) if rules.ln_before_Dy else a_BD
    core_BN = hat_BD @ weights.Dy.T
    if rules.branches > 0:
        core_BN = F.softplus(core_BN) if rules.branch_nl == "softplus" else F.relu(core_BN)
    if not rules.ln_before_Dy:
        core_BN = layer_norm(core_BN, rules.unbiased_std)
    if spikes_BN is not None:
        core_BN = core_BN + spikes_BN
    if 0 < rules.k_wta < core_BN.shape[-1]:
        core_BN = core_BN * _winners(core_BN.detach(), rules)
    y_BN = F.relu(core_BN) * (x_BN if rules.x_positive else F.relu(x_BN))
    if rules.homeostasis_tau <= 0:
        return y_BN
    total_B1 = y_BN.sum(-1, keepdim=True)
    scale_B1 = rules.homeostasis_tau / (total_B1 + QUIET).clamp(min=rules.homeostasis_tau)
    return y_BN * (scale_B1 if rules.homeostasis_tau > 2 * QUIET else torch.where(total_B1 > QUIET, scale_B1, 1.0))


def _ranked(z_BN: Tensor) -> Tensor:
    """Every row in ascending order, not differentiated; on a CPU by NumPy, whose sort of short rows is vectorised."""
    if z_BN.device.type == "cpu":
        return torch.from_numpy(np.sort(z_BN.detach().numpy(), axis=-1))
    return z_BN.detach().sort(dim=-1).values


def _winners(core_BN: Tensor, rules: Rules) -> Tensor:
    """Mask of the k largest of the core; the stable sort is needed only where positive values tie at the border."""
    if core_BN.device.type == "cpu" and rules.ties == "last":
        ranked_BN = np.sort(core_BN.numpy(), axis=-1)
        last_B, next_B = ranked_BN[:, -rules.k_wta], ranked_BN[:, -rules.k_wta - 1]
        if ((last_B > next_B) | (last_B <= 0)).all():
            return _mask(torch.ge, core_BN, torch.from_numpy(last_B)[:, None])
    return largest(core_BN, rules.k_wta, rules.ties)


def _gain(v_BD: Tensor, rules: Rules) -> Tensor:
    g = rules.mod_gamma_max
    if g <= 0:
        return v_BD.new_ones(v_BD.shape[0], 1)
    entropy_B1 = torch.special.entr(v_BD.softmax(-1)).sum(-1, keepdim=True)
    return (entropy_B1 * (g / math.log(v_BD.shape[-1] + 1e-6))).clamp(max=g)


def _keep_active(x_BN: Tensor, gain_B1: Tensor) -> Tensor:
    N = x_BN.shape[-1]
    k_B1 = (N * (BASE_SHARE + GAIN_SHARE * gain_B1.detach())).long().clamp(1, N)
    return x_BN * _mask(torch.ge, x_BN, _ranked(x_BN).gather(-1, N - k_B1))


def _kept_share(x_BN: Tensor, decay_J1: Tensor, faded_J1: Tensor, rules: Rules) -> Tensor:
    """What stays of every synapse before the write (B,1 or J,N): its decay, and less (`faded`) for a silent neuron."""
    if rules.local_forget_eta == 0:
        return decay_J1
    firing_BN = x_BN.detach().sign()
    if not rules.x_positive:
        firing_BN = firing_BN.clamp(min=0)
    if len(rules.decays) == 1:
        return torch.add(faded_J1[:1], firing_BN, alpha=rules.decays[0] * rules.local_forget_eta)[:, None, :]
    return torch.addcmul(faded_J1, decay_J1 - faded_J1, firing_BN[:, None, :])
