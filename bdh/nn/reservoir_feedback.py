"""The scan of a reservoir whose writes depend on its reads (`neuro`): every stream at once, one token after the other.

Shape letters: B batch (independent streams), T tokens, D embedding, N neurons, K synaptic kernels.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from bdh.nn.reservoir import (
    BASE_SHARE,
    GAIN_SHARE,
    NORM_EPSILON,
    QUIET,
    Rules,
    Stream,
    Weights,
    largest,
    layer_norm,
)


@torch.compiler.disable
def feedback_scan(
    weights: Weights, rules: Rules, stream: Stream, e_BTD: Tensor, drive_BTN: Tensor, spikes_BTN: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """x (B,T,N) as stored, y (B,T,N), v (B,T,D), gain (B,T) and the last rho (B,K,D,N).

    drive: relu(Dx e), or Dx e. When no gradient is asked for, one copy of rho is updated in place.
    """
    B, T, D = e_BTD.shape
    K = len(rules.decays)
    u_K = e_BTD.new_tensor(rules.decays)
    write_TBJ1 = (e_BTD[:, :, None, :] * u_K[:, None]).transpose(0, 1).reshape(T, B, K * D, 1)
    drive_TBN = drive_BTN.transpose(0, 1).contiguous()
    spikes_TBN = None if spikes_BTN is None else spikes_BTN.transpose(0, 1).to(e_BTD.dtype)
    x_BN, rho_BJN = stream.x_BN, stream.rho_BKDN.flatten(1, 2)
    if not torch.is_grad_enabled():
        rho_BJN = rho_BJN.clone()
    steps = []
    for t in range(T):
        x_BN = _activity(x_BN, drive_TBN[t], rules)
        a_BD = _read(rho_BJN, x_BN, rules)
        y_BN = _response(a_BD, x_BN, None if spikes_TBN is None else spikes_TBN[t], weights, rules)
        v_BD = layer_norm(y_BN @ weights.E.T, rules.unbiased_std)
        gain_B1 = _gain(v_BD, rules)
        if rules.x_kwta:
            x_BN = _keep_active(x_BN, gain_B1, rules)
        rho_BJN = _written(rho_BJN, write_TBJ1[t], x_BN, gain_B1, u_K, rules)
        steps.append((x_BN, y_BN, v_BD, gain_B1))
    x_BTN, y_BTN, v_BTD, gain_BT1 = (torch.stack(tensors, 1) for tensors in zip(*steps, strict=True))
    return x_BTN, y_BTN, v_BTD, gain_BT1[..., 0], rho_BJN.view(B, K, D, -1)


def _activity(x_BN: Tensor, drive_BN: Tensor, rules: Rules) -> Tensor:
    x_BN = torch.add(drive_BN, x_BN, alpha=rules.x_decay)
    if rules.x_normalized:
        size_BN = x_BN if rules.use_relu_lowrank else x_BN.abs()
        x_BN = x_BN / (size_BN.sum(-1, keepdim=True) + NORM_EPSILON)
    if rules.threshold_ratio is not None:
        x_BN = x_BN * (x_BN.detach() > rules.threshold_ratio * x_BN.detach().amax(-1, keepdim=True))
    return x_BN


def _read(rho_BJN: Tensor, x_BN: Tensor, rules: Rules) -> Tensor:
    a_BJ = torch.bmm(rho_BJN, x_BN[..., None])[..., 0]
    if len(rules.decays) == 1:
        return a_BJ
    a_BKD = a_BJ.unflatten(1, (len(rules.decays), -1))
    return (a_BKD * a_BKD.new_tensor(rules.read_weights)[:, None]).sum(1)


def _response(a_BD: Tensor, x_BN: Tensor, spikes_BN: Tensor | None, weights: Weights, rules: Rules) -> Tensor:
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
    y_BN = F.relu(core_BN) * (x_BN if rules.use_relu_lowrank else F.relu(x_BN))
    if rules.homeostasis_tau <= 0:
        return y_BN
    total_B1 = y_BN.sum(-1, keepdim=True)
    scale_B1 = (rules.homeostasis_tau / (total_B1 + QUIET)).clamp(max=1.0)
    return y_BN * torch.where(total_B1 > QUIET, scale_B1, 1.0)


def _winners(core_BN: Tensor, rules: Rules) -> Tensor:
    """Mask of the k largest of the core; the stable sort is needed only where positive values tie at the border."""
    if core_BN.device.type == "cpu" and rules.ties == "last":
        top_BJ = core_BN.topk(rules.k_wta + 1, dim=-1).values
        last_B1, next_B1 = top_BJ[:, -2:-1], top_BJ[:, -1:]
        if not ((last_B1 == next_B1) & (last_B1 > 0)).any():
            return core_BN >= last_B1
    return largest(core_BN, rules.k_wta, rules.ties)


def _gain(v_BD: Tensor, rules: Rules) -> Tensor:
    g = rules.mod_gamma_max
    if g <= 0:
        return v_BD.new_ones(v_BD.shape[0], 1)
    entropy_B1 = torch.special.entr(v_BD.softmax(-1)).sum(-1, keepdim=True)
    return (entropy_B1 * (g / math.log(v_BD.shape[-1] + 1e-6))).clamp(max=g)


def _keep_active(x_BN: Tensor, gain_B1: Tensor, rules: Rules) -> Tensor:
    N = x_BN.shape[-1]
    most = min(N, max(1, int(N * (BASE_SHARE + GAIN_SHARE * (rules.mod_gamma_max or 1.0))) + 1))
    k_B1 = (N * (BASE_SHARE + GAIN_SHARE * gain_B1.detach())).long().clamp(1, N)
    ranked_BJ = x_BN.detach().topk(most, dim=-1).values
    return x_BN * (x_BN.detach() >= ranked_BJ.gather(-1, k_B1 - 1))


def _written(
    rho_BJN: Tensor, write_BJ1: Tensor, x_BN: Tensor, gain_B1: Tensor, u_K: Tensor, rules: Rules
) -> Tensor:
    """u_k (fade(rho_k) + gain e x^T); `write` holds u_k e."""
    silent_BN = (x_BN.detach() <= 0).to(x_BN.dtype)
    keep_B1N = torch.add(torch.ones_like(silent_BN), silent_BN, alpha=-rules.local_forget_eta)[:, None, :]
    if len(u_K) == 1:
        keep_BJN = keep_B1N * u_K
    else:
        keep_BJN = keep_B1N * u_K.repeat_interleave(rho_BJN.shape[1] // len(u_K))[:, None]
    input_B1N = (x_BN * gain_B1)[:, None, :]
    if torch.is_grad_enabled():
        return torch.baddbmm(rho_BJN * keep_BJN, write_BJ1, input_B1N)
    return rho_BJN.mul_(keep_BJN).baddbmm_(write_BJ1, input_B1N)
