"""The recurrent reservoir: one layer, one head, fixed or trained matrices, one token at a time.

This is the slow, obvious form that `bdh.reservoir.scan` must equal. Every mechanism is a field of `Rules` and can
be switched off alone; with all of them off the dynamics are those of the `recurrent` variant. `stream_diagnostics` is
what the published code prints after every token, for B streams at once. Spikes are drawn while training
(`drawn_spikes`) and a fixed function of the position otherwise (`fixed_spikes`).

Shape letters: B batch (independent streams), T tokens, D embedding, N neurons, K synaptic kernels, R row blocks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from bdh.project.errors import ParamsError

NORM_EPSILON = 1e-6
QUIET = 1e-8
BASE_SHARE, GAIN_SHARE = 0.05, 0.25


class ReservoirWeights(NamedTuple):
    """The matrices of a reservoir: `E` (D,N), `Dx` (N,D), `Dy` (N,D)."""

    E: Tensor
    Dx: Tensor
    Dy: Tensor


class Stream(NamedTuple):
    """State of B streams: `x_BN`, `y_BN`, `v_BD` and the synapses `rho_BKDN` (one matrix per separate kernel)."""

    x_BN: Tensor
    y_BN: Tensor
    v_BD: Tensor
    rho_BKDN: Tensor

    def detach(self) -> Stream:
        """The same numbers without their history: where back-propagation through time is cut."""
        return Stream(*(tensor.detach() for tensor in self))


@dataclass(frozen=True)
class Rules:
    """Dynamics of a reservoir in absolute numbers; the defaults are the plain `recurrent` variant.

    kernels, kernel_weights: decays u_k of rho and their weights (normalised here); they act as the one decay
    sum_k w_k u_k unless `separate_kernels` keeps one rho per kernel. x_decay: leak of x. x_normalized: divide x by
    its L1 norm. threshold_ratio: zero every x at or below this share of the largest (None: off). x_kwta: keep only the
    int(N (0.05 + 0.25 gain)) largest x. branches: row blocks of Dy with their own non-linearity `branch_nl` (0: none).
    k_wta: how many of the core stay (0: all); `ties` says which of equal ones: `last`, the higher index, on any
    device, or `topk`, whatever torch.topk picks. homeostasis_tau: largest sum of y (0: off). mod_gamma_max: largest
    gain of the write (0: the gain is 1). local_forget_eta: extra decay of the synapses of silent neurons. spike_rate:
    probability of a spike per neuron and token. unbiased_std: divide by size - 1 in the LayerNorm.
    Raises ParamsError for contradictory settings.
    """

    kernels: tuple[float, ...] = (0.97,)
    kernel_weights: tuple[float, ...] = (1.0,)
    separate_kernels: bool = False
    use_relu_lowrank: bool = True
    ln_before_Dy: bool = True
    unbiased_std: bool = True
    x_decay: float = 1.0
    x_normalized: bool = False
    threshold_ratio: float | None = None
    x_kwta: bool = False
    branches: int = 0
    branch_nl: str = "softplus"
    k_wta: int = 0
    ties: str = "last"
    homeostasis_tau: float = 0.0
    mod_gamma_max: float = 0.0
    local_forget_eta: float = 0.0
    spike_rate: float = 0.0

    def __post_init__(self) -> None:
        """Refuse settings that no reservoir can follow."""
        if not self.kernels or len(self.kernels) != len(self.kernel_weights) or sum(self.kernel_weights) <= 0:
            raise ParamsError(
                f"U_kernels has {len(self.kernels)} decays and U_weights {len(self.kernel_weights)} weights; "
                "give as many weights as decays, with a positive sum"
            )
        if self.branch_nl not in ("softplus", "relu"):
            raise ParamsError(f"branch_nl is {self.branch_nl!r}; allowed: softplus, relu")
        if self.ties not in ("last", "topk"):
            raise ParamsError(f"ties is {self.ties!r}; allowed: last, topk")
        if not 0.0 <= self.local_forget_eta <= 1.0 or not 0.0 <= self.spike_rate <= 1.0:
            raise ParamsError("local_forget_eta and spike_rate are shares; give numbers from 0 to 1")

    @property
    def decays(self) -> tuple[float, ...]:
        """Decay of every rho that is kept: the kernels when separate, else their weighted mean alone."""
        if self.separate_kernels:
            return self.kernels
        total = sum(self.kernel_weights)
        return (sum(w / total * u for w, u in zip(self.kernel_weights, self.kernels, strict=True)),)

    @property
    def read_weights(self) -> tuple[float, ...]:
        """Weight of every rho in the readout; they sum to 1."""
        total = sum(self.kernel_weights)
        return tuple(w / total for w in self.kernel_weights) if self.separate_kernels else (1.0,)

    @property
    def feeds_back(self) -> bool:
        """Whether writes depend on reads (or decay neuron by neuron), so that time must be scanned."""
        return self.mod_gamma_max > 0 or self.x_kwta or self.local_forget_eta > 0

    @property
    def x_accumulates(self) -> bool:
        """Whether x is the plain sum of all drives."""
        return self.x_decay == 1.0 and not self.x_normalized and self.threshold_ratio is None

    @property
    def x_positive(self) -> bool:
        """Whether x can never be negative, so that its gate relu(x) is x."""
        return self.use_relu_lowrank or (self.threshold_ratio or 0.0) > 0


def constants(values: Sequence[float], like: Tensor) -> Tensor:
    """`values` (K) in the type of `like`, written on its device: a CUDA graph can hold no copy from the host."""
    return torch.stack([like.new_full((), value) for value in values])


def fresh_stream(batch_size: int, weights: ReservoirWeights, rules: Rules) -> Stream:
    """State of B streams that have read nothing: zeros."""
    D, N = weights.E.shape
    zeros = weights.E.new_zeros
    rho_BKDN = zeros(batch_size, len(rules.decays), D, N)
    return Stream(zeros(batch_size, N), zeros(batch_size, N), zeros(batch_size, D), rho_BKDN)


def layer_norm(z: Tensor, unbiased: bool) -> Tensor:
    """(z - mean) / (std + 1e-6) over the last dimension; the gradient at a constant row is that of std = 0."""
    centred = z - z.mean(-1, keepdim=True)
    degrees = z.shape[-1] - 1 if unbiased else z.shape[-1]
    std = torch.linalg.vector_norm(centred, dim=-1, keepdim=True) / math.sqrt(degrees)
    return centred / (std + NORM_EPSILON)


def largest(z_BN: Tensor, k: int, ties: str) -> Tensor:
    """Mask of the k largest of every row; among equal ones the higher index first (`last`) or torch's own choice."""
    if ties == "topk":
        index = z_BN.topk(k, dim=-1).indices
    else:
        order = z_BN.flip(-1).sort(dim=-1, descending=True, stable=True).indices
        index = z_BN.shape[-1] - 1 - order[..., :k]
    return torch.zeros_like(z_BN, dtype=torch.bool).scatter_(-1, index, True)


def core_drive(a_BD: Tensor, weights: ReservoirWeights, rules: Rules) -> Tensor:
    """What the readout a asks of every neuron: Dy ln(a), or ln(Dy a), through the non-linearity of the branches."""
    hat_BD = layer_norm(a_BD, rules.unbiased_std) if rules.ln_before_Dy else a_BD
    bend = F.softplus if rules.branch_nl == "softplus" else F.relu
    if rules.branches > 0:
        blocks_R = torch.tensor_split(weights.Dy, rules.branches, dim=0)
        core_BN = torch.cat([bend(hat_BD @ block.T) for block in blocks_R], dim=-1)
    else:
        core_BN = hat_BD @ weights.Dy.T
    return core_BN if rules.ln_before_Dy else layer_norm(core_BN, rules.unbiased_std)


def respond(
    a_BD: Tensor, x_BN: Tensor, spikes_BN: Tensor | None, weights: ReservoirWeights, rules: Rules
) -> tuple[Tensor, Tensor]:
    """y (..,N) and v (..,D) of streams that read a (..,D) at activity x (..,N); spikes (0 or 1) add to the core.

    y = relu(core) * relu(x), the core k-WTA, y scaled down to the homeostatic target; v = ln(E y).
    """
    core_BN = core_drive(a_BD, weights, rules)
    if spikes_BN is not None:
        core_BN = core_BN + spikes_BN.to(core_BN.dtype)
    if 0 < rules.k_wta < core_BN.shape[-1]:
        core_BN = core_BN * largest(core_BN.detach(), rules.k_wta, rules.ties)
    y_BN = F.relu(core_BN) * (x_BN if rules.x_positive else F.relu(x_BN))
    if rules.homeostasis_tau > 0:
        total_B1 = y_BN.sum(-1, keepdim=True)
        scale_B1 = (rules.homeostasis_tau / (total_B1 + QUIET)).clamp(max=1.0)
        y_BN = torch.where(total_B1 > QUIET, y_BN * scale_B1, y_BN)
    return y_BN, layer_norm(y_BN @ weights.E.T, rules.unbiased_std)


def write_gain(v_BD: Tensor, rules: Rules) -> Tensor:
    """Gain (..) of the write: min(g, g H(softmax v) / ln D), g = mod_gamma_max; 1 when that is not positive.

    The entropy is that of the hidden vector v, not of the prediction, as in the published code.
    """
    if rules.mod_gamma_max <= 0:
        return v_BD.new_ones(v_BD.shape[:-1])
    p_BD = v_BD.softmax(-1)
    entropy_B = -(p_BD * (p_BD + 1e-12).log()).sum(-1)
    share_B = entropy_B / math.log(v_BD.shape[-1] + 1e-6)
    return (share_B * rules.mod_gamma_max).clamp(max=rules.mod_gamma_max)


def kept_x(x_BN: Tensor, gain_B: Tensor) -> Tensor:
    """x with all but its int(N (0.05 + 0.25 gain)) largest entries (at least 1, per stream; ties stay) set to zero."""
    N = x_BN.shape[-1]
    k_B = (N * (BASE_SHARE + GAIN_SHARE * gain_B.detach())).long().clamp(1, N)
    ranked_BN = x_BN.detach().sort(dim=-1, descending=True).values
    return x_BN * (x_BN.detach() >= ranked_BN.gather(-1, k_B[..., None] - 1))


def step(
    weights: ReservoirWeights, rules: Rules, stream: Stream, e_BD: Tensor, spikes_BN: Tensor | None = None
) -> tuple[Stream, Tensor]:
    """Read one token's embedding e: the new state and the gain (B,) of the write.

    x = x_decay x + relu(Dx e), normalised and thresholded; a = sum_k w_k rho_k x; y and v by `respond`;
    then x is k-WTA, the synapses of silent neurons fade, and rho_k = u_k (rho_k + gain e x^T).
    """
    drive_BN = e_BD @ weights.Dx.T
    x_BN = rules.x_decay * stream.x_BN + (F.relu(drive_BN) if rules.use_relu_lowrank else drive_BN)
    if rules.x_normalized:
        x_BN = x_BN / (x_BN.abs().sum(-1, keepdim=True) + NORM_EPSILON)
    if rules.threshold_ratio is not None:
        x_BN = x_BN * (x_BN > rules.threshold_ratio * x_BN.amax(-1, keepdim=True)).detach()
    u_K11 = constants(rules.decays, x_BN)[:, None, None]
    a_BD = torch.einsum("bkdn,bn,k->bd", stream.rho_BKDN, x_BN, constants(rules.read_weights, x_BN))
    y_BN, v_BD = respond(a_BD, x_BN, spikes_BN, weights, rules)
    gain_B = write_gain(v_BD, rules)
    if rules.x_kwta:
        x_BN = kept_x(x_BN, gain_B)
    silent_BN = (x_BN.detach() <= 0).to(x_BN.dtype)
    faded_BKDN = stream.rho_BKDN * (1 - rules.local_forget_eta * silent_BN)[:, None, None, :]
    written_BDN = gain_B[:, None, None] * e_BD[:, :, None] * x_BN[:, None, :]
    return Stream(x_BN, y_BN, v_BD, u_K11 * (faded_BKDN + written_BDN[:, None])), gain_B


EPSILON = 1e-12


def effective_rank(matrix_BDN: Tensor) -> Tensor:
    """exp of the entropy of the normalised squared singular values of every matrix (B,)."""
    power_BR = torch.linalg.svdvals(matrix_BDN) ** 2
    share_BR = power_BR / (power_BR.sum(-1, keepdim=True) + EPSILON)
    return (-(share_BR * (share_BR + EPSILON).log()).sum(-1)).exp()


@torch.no_grad()
def stream_diagnostics(stream: Stream, rules: Rules) -> dict[str, Tensor]:
    """sparsity_x and sparsity_y (share of exact zeros), rho_F (Frobenius norm), rho_eff_rank and gain, each (B,).

    With separate kernels rho is their weighted sum, which is what the readout sees.
    """
    rho_BDN = torch.einsum("bkdn,k->bdn", stream.rho_BKDN, constants(rules.read_weights, stream.rho_BKDN))
    return {
        "sparsity_x": (stream.x_BN == 0).to(rho_BDN.dtype).mean(-1),
        "sparsity_y": (stream.y_BN == 0).to(rho_BDN.dtype).mean(-1),
        "rho_F": torch.linalg.matrix_norm(rho_BDN),
        "rho_eff_rank": effective_rank(rho_BDN),
        "gain": write_gain(stream.v_BD, rules),
    }


_ODD, _MIX = -7046029254386353131, -4658895280553007687
_BITS = 24


def drawn_spikes(batch_size: int, length: int, neurons: int, rate: float, device: torch.device) -> Tensor:
    """Bernoulli(rate) for every stream, token and neuron (B,T,N bool) from torch's own generator."""
    return torch.rand(batch_size, length, neurons, device=device) < rate


def fixed_spikes(position_B: Tensor, length: int, neurons: int, rate: float) -> Tensor:
    """Spikes (B,T,N bool) of the tokens at `position`, `position + 1`, ...: a hash of position and neuron below `rate`.

    The same position always spikes in the same way, so a text read in chunks, or twice, gives the same numbers on any
    device. The hash multiplies in 64-bit integers that wrap around and mixes high bits into low ones (as splitmix64).
    """
    position_BT = position_B[:, None] + torch.arange(length, device=position_B.device)
    key_BTN = position_BT[..., None] * neurons + torch.arange(1, neurons + 1, device=position_B.device)
    key_BTN = key_BTN * _ODD
    key_BTN = (key_BTN ^ (key_BTN >> 30)) * _MIX
    key_BTN = key_BTN ^ (key_BTN >> 27)
    return ((key_BTN * _ODD) >> 20 & ((1 << _BITS) - 1)) < int(rate * (1 << _BITS))
