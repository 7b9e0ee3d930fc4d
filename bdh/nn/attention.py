"""Linear attention without softmax, strictly causal: everything is read before it is written.

Undamped, with keys that are the queries: a_t = q_t rho_t, rho_t = sum_{s<t} q_s v_s^T. Three forms of the same function
with the same signature `(q, v, rho) -> (a, rho after the last token)`:

- `attend_stepwise`: one token at a time, read before write. The definition; slow.
- `attend_parallel`: tril(q q^T, -1) v, quadratic in T. Without a state nothing but that is computed.
- `attend_chunked`: parallel inside chunks, the state carried between them; memory grows linearly in T.

Leading dimensions are any that broadcast (heads, streams). The products with the state run in the dtype of the state
with autocast off: a state in bfloat16 forgets small updates.

Decaying by one factor u per token (`decayed_attention`): a_t = rho_{t-1} x_t, rho_t = u (rho_{t-1} + e_t x_t^T).
Inside a chunk of C tokens, counted from i = 0 and starting at rho,

    a_i = u^i rho x_i + sum_{j<i} u^{i-j} (x_j . x_i) e_j          rho' = u^C rho + sum_j u^{C-j} e_j x_j^T

so no power of u above the zeroth is ever divided by, and memory is C*C scores whatever T is.

Letters: B batch, T tokens, C tokens of a chunk, N neurons (per head), D width of the values or of the embedding.
"""

from __future__ import annotations

import torch
from torch import Tensor

CHUNK = 512


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


DECAYED_CHUNK = 64


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
