"""One GPU kernel for the whole scan of a `neuro` reservoir: a program per stream, the synapses in registers.

Equal to `bdh.reservoir.scan.feedback_scan` without gradients. A step of the eager scan starts about fifty
kernels; here a step is a few thousand instructions of one program and nothing but the drive, the embedding, the spikes
and what is asked for passes through memory. Ranks are counted instead of sorted: neuron i stays when fewer than k
others are larger (and, for the k-WTA on y, when ties with higher indices are counted as larger), which is the tie rule
`last`. `available` says for what the kernel is used: CUDA, no gradient, ties `last`, sizes that fit into registers.

Shape letters: B batch (independent streams), T tokens, D embedding, N neurons, K synaptic kernels; P: padded to 2^i.
"""

from __future__ import annotations

import functools
import importlib.util
import math
import os
from typing import Any

import torch
from torch import Tensor

from bdh.reservoir.step import Rules, Stream, Weights

LARGEST_N, LARGEST_STATE = 128, 16384


@torch.compiler.disable
def available(rules: Rules, stream: Stream) -> bool:
    """Whether the kernel can run this scan.

    Left to the eager scan although the kernel has them: one rho per kernel and relu branches. Their cores come so close
    to ties that another order of summation picks other winners (seen on an H200: y differs by a tenth after 19 tokens).
    """
    if rules.separate_kernels or (rules.branches and rules.branch_nl == "relu"):
        return False
    _, K, D, N = stream.rho_BKDN.shape
    state = _padded(K) * _padded(D) * _padded(N)
    fits = N <= LARGEST_N and state <= LARGEST_STATE and rules.ties == "last" and stream.x_BN.dtype == torch.float32
    there = stream.x_BN.is_cuda or os.environ.get("TRITON_INTERPRET") == "1"
    return fits and there and not torch.is_grad_enabled() and importlib.util.find_spec("triton") is not None


@torch.compiler.disable
def kernel_scan(
    weights: Weights, rules: Rules, stream: Stream, e_BTD: Tensor, drive_BTN: Tensor, spikes_BTN: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """x (B,T,N) as stored, y (B,T,N), v (B,T,D), gain (B,T) and the last rho (B,K,D,N), as `feedback_scan`."""
    B, T, D = e_BTD.shape
    N, K = drive_BTN.shape[-1], len(rules.decays)
    x_BTN, y_BTN = torch.empty_like(drive_BTN), torch.empty_like(drive_BTN)
    v_BTD, gain_BT = e_BTD.new_empty(B, T, D), e_BTD.new_empty(B, T)
    rho_BKDN = stream.rho_BKDN.contiguous().clone()
    spikes = drive_BTN if spikes_BTN is None else spikes_BTN.expand(B, T, N).to(torch.int8)
    decays_K, reads_K = e_BTD.new_tensor(rules.decays), e_BTD.new_tensor(rules.read_weights)
    inputs = (drive_BTN.contiguous(), e_BTD.contiguous(), spikes.contiguous(), stream.x_BN.contiguous())
    matrices = (weights.E.contiguous(), weights.Dy.contiguous(), decays_K, reads_K)
    _kernel()[(B,)](
        *inputs, *matrices, rho_BKDN, x_BTN, y_BTN, v_BTD, gain_BT, T,
        rules.x_decay, rules.threshold_ratio or 0.0, rules.homeostasis_tau, rules.mod_gamma_max,
        math.log(D + 1e-6), rules.local_forget_eta,
        N=N, D=D, K=K, NP=_padded(N), DP=_padded(D), KP=_padded(K),
        NORMALIZED=rules.x_normalized, SIGNED=not rules.x_positive, THRESHOLD=rules.threshold_ratio is not None,
        BEFORE=rules.ln_before_Dy, BRANCH=(rules.branch_nl if rules.branches else "none"), K_WTA=rules.k_wta or N,
        DEGREES_D=D - rules.unbiased_std, DEGREES_N=N - rules.unbiased_std,
        SPIKES=spikes_BTN is not None, X_KWTA=rules.x_kwta, HOMEOSTASIS=rules.homeostasis_tau > 0,
        MODULATED=rules.mod_gamma_max > 0, num_warps=8,
    )  # fmt: skip
    return x_BTN, y_BTN, v_BTD, gain_BT, rho_BKDN


def _padded(size: int) -> int:
    return 1 << (size - 1).bit_length()


@functools.cache
def _kernel() -> Any:
    from bdh.reservoir.program import neuro_kernel

    return neuro_kernel
