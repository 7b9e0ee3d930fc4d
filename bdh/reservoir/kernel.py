"""GPU kernels for what a reservoir scans token by token: the whole state of `neuro`, and x alone of `stabilized`.

`neuro_kernel`: a program per stream, the synapses in registers.

Equal to `bdh.reservoir.scan.feedback_scan` without gradients. A step of the eager scan starts about fifty
kernels; here a step is a few thousand instructions of one program and nothing but the drive, the embedding, the spikes
and what is asked for passes through memory. Ranks are counted instead of sorted: neuron i stays when fewer than k
others are larger (and, for the k-WTA on y, when ties with higher indices are counted as larger), which is the tie rule
`last`. `available` says for what the kernel is used: CUDA, no gradient, ties `last`, sizes that fit into registers.

`activity_kernel`: equal to `bdh.reservoir.scan.activity_scan` without gradients, which starts six kernels per token.

Operands of the program, all row-major: drive, spikes (int8), x_out, y_out (B,T,N); e, v_out (B,T,D); gain_out (B,T); x
before the first token (B,N); E (D,N); Dy (N,D); rho (B,K,D,N), read and written; decays and reads (K). All but spikes
are float32. Without triton installed the module can be imported and `available` says no.

Shape letters: B batch (independent streams), T tokens, D embedding, N neurons, K synaptic kernels; KP, DP, NP: padded
to powers of two.
"""

# The arguments of a Triton program are pointers and numbers of the device, which Python's types do not describe.
# ruff: noqa: ANN001, ANN201, ANN202
# mypy: disallow-untyped-defs=False

from __future__ import annotations

import importlib.util
import math
import os
from typing import Any

import torch
from torch import Tensor

from bdh.reservoir.step import ReservoirWeights, Rules, Stream, constants

TRITON = importlib.util.find_spec("triton") is not None
if TRITON:
    import triton
    import triton.language as tl

    _jit = triton.jit
else:

    def _jit(program: Any) -> Any:
        """Stands in for `triton.jit` where nothing can run the program."""
        return program


LARGEST_N, LARGEST_STATE = 128, 16384
LARGEST_ACTIVITY = 4096


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
    return fits and there and not torch.is_grad_enabled() and TRITON


@torch.compiler.disable
def kernel_scan(
    weights: ReservoirWeights, rules: Rules, stream: Stream, e_BTD: Tensor, drive_BTN: Tensor, spikes_BTN: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """x (B,T,N) as stored, y (B,T,N), v (B,T,D), gain (B,T) and the last rho (B,K,D,N), as `feedback_scan`."""
    B, T, D = e_BTD.shape
    N, K = drive_BTN.shape[-1], len(rules.decays)
    x_BTN, y_BTN = torch.empty_like(drive_BTN), torch.empty_like(drive_BTN)
    v_BTD, gain_BT = e_BTD.new_empty(B, T, D), e_BTD.new_empty(B, T)
    rho_BKDN = stream.rho_BKDN.contiguous().clone()
    spikes = drive_BTN if spikes_BTN is None else spikes_BTN.expand(B, T, N).to(torch.int8)
    decays_K, reads_K = constants(rules.decays, e_BTD), constants(rules.read_weights, e_BTD)
    inputs = (drive_BTN.contiguous(), e_BTD.contiguous(), spikes.contiguous(), stream.x_BN.contiguous())
    matrices = (weights.E.contiguous(), weights.Dy.contiguous(), decays_K, reads_K)
    neuro_kernel[(B,)](
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


@torch.compiler.disable
def scans_activity(x_BN: Tensor) -> bool:
    """Whether `kernel_activity` can run from this x."""
    there = x_BN.is_cuda or os.environ.get("TRITON_INTERPRET") == "1"
    fits = x_BN.dtype == torch.float32 and x_BN.shape[-1] <= LARGEST_ACTIVITY
    return fits and there and not torch.is_grad_enabled() and TRITON


@torch.compiler.disable
def kernel_activity(rules: Rules, x_BN: Tensor, drive_BTN: Tensor) -> Tensor:
    """x (B,T,N) under leak, L1 normalisation and threshold, as `activity_scan`."""
    B, T, N = drive_BTN.shape
    x_BTN = torch.empty(B, T, N, dtype=drive_BTN.dtype, device=drive_BTN.device)
    activity_kernel[(B,)](
        drive_BTN.contiguous(), x_BN.contiguous(), x_BTN, T, rules.x_decay, rules.threshold_ratio or 0.0,
        N=N, NP=_padded(N), NORMALIZED=rules.x_normalized, THRESHOLD=rules.threshold_ratio is not None,
        num_warps=1 if N <= 256 else 4,
    )  # fmt: skip
    return x_BTN


def _padded(size: int) -> int:
    return 1 << (size - 1).bit_length()


@_jit
def _normalize(z, inside, size: tl.constexpr, degrees: tl.constexpr):
    """(z - mean) / (std + 1e-6) of the entries that are inside, 0 outside."""
    centred = tl.where(inside, z - tl.sum(tl.where(inside, z, 0.0), 0) / size, 0.0)
    return centred / (tl.sqrt(tl.sum(centred * centred, 0) / degrees) + 1e-6)


@_jit
def neuro_kernel(
    drive_ptr, e_ptr, spikes_ptr, x_ptr, E_ptr, Dy_ptr, decays_ptr, reads_ptr, rho_ptr,
    x_out, y_out, v_out, gain_out, T,
    x_decay, threshold, tau, gamma, log_d, eta,
    N: tl.constexpr, D: tl.constexpr, K: tl.constexpr, NP: tl.constexpr, DP: tl.constexpr, KP: tl.constexpr,
    NORMALIZED: tl.constexpr, SIGNED: tl.constexpr, THRESHOLD: tl.constexpr, BEFORE: tl.constexpr,
    BRANCH: tl.constexpr, K_WTA: tl.constexpr, DEGREES_D: tl.constexpr, DEGREES_N: tl.constexpr,
    SPIKES: tl.constexpr, X_KWTA: tl.constexpr, HOMEOSTASIS: tl.constexpr, MODULATED: tl.constexpr,
):  # fmt: skip
    """Read T tokens of one stream (program b); `bdh.reservoir.step.step` says what a token does."""
    b = tl.program_id(0).to(tl.int64)
    n, d, k = tl.arange(0, NP), tl.arange(0, DP), tl.arange(0, KP)
    in_n, in_d = n < N, d < D
    in_dn = in_d[:, None] & in_n[None, :]
    # What stays in registers for the whole text: the matrices, the synapses, decays and weights of their kernels, x.
    E_DN = tl.load(E_ptr + d[:, None] * N + n[None, :], mask=in_dn, other=0.0)
    Dy_DN = tl.load(Dy_ptr + n[None, :] * D + d[:, None], mask=in_dn, other=0.0)
    rho_at = ((b * K + k[:, None, None]) * D + d[None, :, None]) * N + n[None, None, :]
    in_kdn = (k < K)[:, None, None] & in_dn[None, :, :]
    rho_KDN = tl.load(rho_ptr + rho_at, mask=in_kdn, other=0.0)
    u_K = tl.load(decays_ptr + k, mask=k < K, other=0.0)
    w_K = tl.load(reads_ptr + k, mask=k < K, other=0.0)
    x = tl.load(x_ptr + b * N + n, mask=in_n, other=0.0)
    for t in range(T):
        row = b * T + t
        # x: leak, drive, L1 norm, threshold.
        x = x_decay * x + tl.load(drive_ptr + row * N + n, mask=in_n, other=0.0)
        if NORMALIZED:
            x = x / (tl.sum(tl.abs(x), 0) + 1e-6)
        if THRESHOLD:
            x = tl.where(x > threshold * tl.max(tl.where(in_n, x, float("-inf")), 0), x, 0.0)
        # What x reads of the synapses, and what that asks of every neuron.
        a_D = tl.sum(tl.sum(rho_KDN * x[None, None, :], 2) * w_K[:, None], 0)
        if BEFORE:
            a_D = _normalize(a_D, in_d, D, DEGREES_D)
        core = tl.sum(Dy_DN * a_D[:, None], 0)
        if BRANCH == "softplus":
            core = tl.where(core > 20.0, core, tl.log(1.0 + tl.exp(core)))
        if BRANCH == "relu":
            core = tl.maximum(core, 0.0)
        if not BEFORE:
            core = _normalize(core, in_n, N, DEGREES_N)
        if SPIKES:
            core = core + tl.load(spikes_ptr + row * N + n, mask=in_n, other=0).to(tl.float32)
        # k-WTA on the core by counting ranks; the gate by x; homeostasis.
        core = tl.where(in_n, core, float("-inf"))
        if K_WTA < N:
            larger = core[None, :] > core[:, None]
            tied = (core[None, :] == core[:, None]) & (n[None, :] > n[:, None])
            core = tl.where(tl.sum((larger | tied).to(tl.int32), 1) < K_WTA, core, 0.0)
        y = tl.maximum(core, 0.0) * (tl.maximum(x, 0.0) if SIGNED else x)
        if HOMEOSTASIS:
            total = tl.sum(y, 0)
            y = tl.where(total > 1e-8, y * tl.minimum(tau / (total + 1e-8), 1.0), y)
        # The hidden vector, and the gain of the write from the entropy of its softmax.
        v_D = _normalize(tl.sum(E_DN * y[None, :], 1), in_d, D, DEGREES_D)
        if MODULATED:
            shifted = tl.where(in_d, v_D - tl.max(tl.where(in_d, v_D, float("-inf")), 0), float("-inf"))
            size_D = tl.exp(shifted)
            mass = tl.sum(size_D, 0)
            entropy = tl.log(mass) - tl.sum(tl.where(in_d, size_D * shifted, 0.0), 0) / mass
            gain = tl.minimum(entropy * (gamma / log_d), gamma)
        else:
            gain = tl.sum(v_D, 0) * 0.0 + 1.0
        # k-WTA on x, whose size follows the gain.
        if X_KWTA:
            keep = tl.minimum(tl.maximum((N * (0.05 + 0.25 * gain)).to(tl.int32), 1), N)
            masked = tl.where(in_n, x, float("-inf"))
            x = tl.where(tl.sum((masked[None, :] > masked[:, None]).to(tl.int32), 1) < keep, x, 0.0)
        # Write: synapses of silent neurons fade, all decay.
        e_D = tl.load(e_ptr + row * D + d, mask=in_d, other=0.0)
        stays_N = tl.where(x > 0.0, 1.0, 1.0 - eta)
        written_DN = e_D[:, None] * (gain * x)[None, :]
        rho_KDN = u_K[:, None, None] * (rho_KDN * stays_N[None, None, :] + written_DN[None, :, :])
        tl.store(x_out + row * N + n, x, mask=in_n)
        tl.store(y_out + row * N + n, y, mask=in_n)
        tl.store(v_out + row * D + d, v_D, mask=in_d)
        tl.store(gain_out + row, gain)
    tl.store(rho_ptr + rho_at, rho_KDN, mask=in_kdn)


@_jit
def activity_kernel(
    drive_ptr, x_ptr, x_out, T, x_decay, threshold,
    N: tl.constexpr, NP: tl.constexpr, NORMALIZED: tl.constexpr, THRESHOLD: tl.constexpr,
):  # fmt: skip
    """x of T tokens of one stream (program b); `bdh.reservoir.scan.next_activity` says what a token does."""
    b = tl.program_id(0).to(tl.int64)
    n = tl.arange(0, NP)
    in_n = n < N
    x = tl.load(x_ptr + b * N + n, mask=in_n, other=0.0)
    for t in range(T):
        row = b * T + t
        x = x_decay * x + tl.load(drive_ptr + row * N + n, mask=in_n, other=0.0)
        if NORMALIZED:
            x = x / (tl.sum(tl.abs(x), 0) + 1e-6)
        if THRESHOLD:
            x = tl.where(x > threshold * tl.max(tl.where(in_n, x, float("-inf")), 0), x, 0.0)
        tl.store(x_out + row * N + n, x, mask=in_n)
