"""Attention without softmax: its memory is a matrix per head to which every token adds an outer product.

Three rules, each in a slow obvious form (stepwise) and in chunks: parallel inside a chunk, the state carried between
chunks, so that memory grows linearly in T. All forms of one rule have the same signature and return the readouts and
the state after the last token. Products with the state run in the dtype of the state with autocast off: a state in
bfloat16 forgets small updates.

Keys that are queries, strictly causal (`attend_*`, BDH): a_t = q_t rho_t, rho_t = sum_{s<t} q_s v_s^T.
`attend_parallel` is tril(q q^T, -1) v, quadratic in T; without a state nothing but that is computed. Leading
dimensions are any that broadcast (heads, streams).

One decay per token, strictly causal (`decayed_*`, the reservoirs):

    a_t = rho_{t-1} x_t          rho_t = u (rho_{t-1} + e_t x_t^T)

Inside a chunk of C tokens, counted from i = 0 and starting at rho,

    a_i = u^i rho x_i + sum_{j<i} u^{i-j} (x_j . x_i) e_j          rho' = u^C rho + sum_j u^{C-j} e_j x_j^T

so no power of u above the zeroth is ever divided by, and memory is C*C scores whatever T is.

A decay per token and key entry that depends on the data, a token reads its own write (`gated_*`; Yang et al. 2023,
"Gated Linear Attention", arXiv 2312.06635, section 4.2):

    rho_t = diag(exp(g_t)) rho_{t-1} + k_t v_t^T          a_t = rho_t^T q_t

Inside a chunk, with G_i = g_1 + .. + g_i counted from its start,

    a_i = (q_i e^{G_i}) rho + sum_{j<=i} ((q_i e^{G_i}) . (k_j e^{-G_j})) v_j
    rho' = e^{G_C} rho + sum_j (k_j e^{G_C - G_j}) v_j^T

The one exponent above 0 is -G_j, at most GATED_CHUNK * -LOWEST_GATE = 64: far from the e^88 at which float32 and
bfloat16 overflow, so nothing needs a second level of chunks. G starts at the chunk's own start rather than in its
middle, or the rounding of a token would depend on later ones. The states at the starts of all chunks come from one
pass over chunks that only scales and adds; all products are batched over chunks.

Letters: T tokens, C tokens of a chunk, n chunks, N neurons per head, K entries of a key, V entries of a value,
B batch, D embedding or width of the values.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK = 512
DECAYED_CHUNK = 64
GATED_CHUNK = 32
LOWEST_GATE = -2.0
NORM_EPSILON = 1e-6


def attend_stepwise(q_TN: Tensor, v_TD: Tensor, rho_ND: Tensor) -> tuple[Tensor, Tensor]:
    """The definition, token by token: read a_t = q_t rho, then write rho += q_t v_t^T. Shapes (...,T,D), (...,N,D)."""
    reads = []
    for t in range(q_TN.shape[-2]):
        q_N1 = q_TN[..., t, :].unsqueeze(-1).to(rho_ND.dtype)
        reads.append((q_N1 * rho_ND).sum(dim=-2))
        rho_ND = rho_ND + q_N1 * v_TD[..., t, :].unsqueeze(-2).to(rho_ND.dtype)
    return torch.stack(reads, dim=-2), rho_ND


def attend_parallel(q_TN: Tensor, v_TD: Tensor, rho_ND: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
    """All tokens at once: a (...,T,D) and the state after them, which is None when none came in."""
    scores_TT = (q_TN @ q_TN.mT).tril(diagonal=-1)
    a_TD = scores_TT @ v_TD
    if rho_ND is None:
        return a_TD, None
    with torch.autocast(q_TN.device.type, enabled=False):
        q_TN, v_TD = q_TN.to(rho_ND.dtype), v_TD.to(rho_ND.dtype)
        return a_TD + q_TN @ rho_ND, rho_ND + q_TN.mT @ v_TD


def attend_chunked(q_TN: Tensor, v_TD: Tensor, rho_ND: Tensor, chunk: int = CHUNK) -> tuple[Tensor, Tensor]:
    """At most `chunk` tokens at once, the state carried from one chunk to the next; a (...,T,D) and the last state."""
    reads = []
    carried: Tensor | None = rho_ND
    for q, v in zip(q_TN.split(chunk, dim=-2), v_TD.split(chunk, dim=-2), strict=True):
        a_TD, carried = attend_parallel(q, v, carried)
        reads.append(a_TD)
    assert carried is not None
    return (reads[0] if len(reads) == 1 else torch.cat(reads, dim=-2)), carried


def decayed_attention(
    x_BTN: Tensor, e_BTD: Tensor, decay: float, rho_BDN: Tensor, chunk: int = DECAYED_CHUNK
) -> tuple[Tensor, Tensor]:
    """Readouts a (B,T,D) of every token before its own write, and rho (B,D,N) after the last one."""
    longest = min(chunk, x_BTN.shape[1])
    power_C = decay ** torch.arange(longest + 1, device=x_BTN.device, dtype=torch.float64)
    lag_CC = torch.arange(longest, device=x_BTN.device)
    lag_CC = (lag_CC[:, None] - lag_CC[None, :]).clamp(min=0)
    weight_CC = power_C[lag_CC].tril(-1).to(x_BTN.dtype)
    power_C = power_C.to(x_BTN.dtype)
    read = []
    for x_BCN, e_BCD in zip(x_BTN.split(longest, 1), e_BTD.split(longest, 1), strict=True):
        C = x_BCN.shape[1]
        scores_BCC = torch.bmm(x_BCN, x_BCN.mT) * weight_CC[:C, :C]
        past_BCD = torch.bmm(x_BCN, rho_BDN.mT) * power_C[:C, None]
        read.append(torch.baddbmm(past_BCD, scores_BCC, e_BCD))
        aged_BCD = e_BCD * power_C[1 : C + 1].flip(0)[:, None]
        rho_BDN = torch.baddbmm(rho_BDN * power_C[C], aged_BCD.mT, x_BCN)
    return torch.cat(read, 1), rho_BDN


def decayed_write(x_BTN: Tensor, e_BTD: Tensor, decay: float) -> Tensor:
    """What T tokens leave in rho (B,D,N) at its end: sum_t u^{T-t} e_t x_t^T, counted from t = 0."""
    T = x_BTN.shape[1]
    power_T = decay ** torch.arange(T, 0, -1, device=x_BTN.device, dtype=torch.float64)
    return (e_BTD * power_T.to(x_BTN.dtype)[:, None]).mT @ x_BTN


def gated_stepwise(
    q_BHTK: Tensor, k_BHTK: Tensor, v_BHTV: Tensor, g_BHTK: Tensor, rho_BHKV: Tensor
) -> tuple[Tensor, Tensor]:
    """The definition, token by token: decay by exp(g), write k v^T, read q rho. Readouts B,H,T,V and the last state.

    `g` is the logarithm of the decay, between LOWEST_GATE and 0.
    """
    read = []
    for t in range(q_BHTK.shape[2]):
        write_BHKV = k_BHTK[:, :, t, :, None] * v_BHTV[:, :, t, None, :]
        rho_BHKV = g_BHTK[:, :, t, :, None].exp() * rho_BHKV + write_BHKV
        read.append((q_BHTK[:, :, t, :, None] * rho_BHKV).sum(dim=2))
    return torch.stack(read, dim=2), rho_BHKV


def gated_chunked(
    q_BHTK: Tensor, k_BHTK: Tensor, v_BHTV: Tensor, g_BHTK: Tensor, rho_BHKV: Tensor, chunk: int = GATED_CHUNK
) -> tuple[Tensor, Tensor]:
    """As `gated_stepwise`, `chunk` tokens at once and all chunks side by side; T is padded with tokens of no effect."""
    T, dtype = q_BHTK.shape[2], rho_BHKV.dtype
    longest = min(chunk, T)
    q, k, v, g = (
        F.pad(part, (0, 0, 0, -T % longest)).unflatten(2, (-1, longest)) for part in (q_BHTK, k_BHTK, v_BHTV, g_BHTK)
    )
    past_BHnCK = g.to(dtype).cumsum(dim=3)
    total_BHnK = past_BHnCK[:, :, :, -1]
    grown_BHnCK = q * past_BHnCK.exp()
    scores_BHnCC = (grown_BHnCK @ (k * (-past_BHnCK).exp()).mT).tril()
    inside_BHnCV = scores_BHnCC @ v
    with torch.autocast(q.device.type, enabled=False):
        aged_BHnCK = k.to(dtype) * (total_BHnK.unsqueeze(3) - past_BHnCK).exp()
        writes_BHnKV = aged_BHnCK.mT @ v.to(dtype)
        keep_BHnK1 = total_BHnK.exp().unsqueeze(-1)
        starts = []
        for n in range(writes_BHnKV.shape[2]):
            starts.append(rho_BHKV)
            rho_BHKV = keep_BHnK1[:, :, n] * rho_BHKV + writes_BHnKV[:, :, n]
        read_BHnCV = inside_BHnCV + grown_BHnCK.to(dtype) @ torch.stack(starts, dim=2)
    return read_BHnCV.flatten(2, 3)[:, :, :T], rho_BHKV


def normalise_heads(x_BHTK: Tensor, gain_K: Tensor, epsilon: float = NORM_EPSILON) -> Tensor:
    """Every head of every token divided by its root mean square, times `gain_K`; computed in the dtype of the gain."""
    return F.rms_norm(x_BHTK.to(gain_K.dtype), gain_K.shape, gain_K, epsilon).to(x_BHTK.dtype)
