"""Strictly causal linear attention whose memory decays by one factor per token, in chunks.

    a_t = rho_{t-1} x_t          rho_t = u (rho_{t-1} + e_t x_t^T)

Inside a chunk of C tokens, counted from i = 0 and starting at rho,

    a_i = u^i rho x_i + sum_{j<i} u^{i-j} (x_j . x_i) e_j          rho' = u^C rho + sum_j u^{C-j} e_j x_j^T

so no power of u above the zeroth is ever divided by, and memory is C*C scores whatever T is.

Shape letters: B batch, T tokens, C tokens of a chunk, D embedding, N neurons.
"""

from __future__ import annotations

import torch
from torch import Tensor

CHUNK = 64


def decayed_attention(
    x_BTN: Tensor, e_BTD: Tensor, decay: float, rho_BDN: Tensor, chunk: int = CHUNK
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
