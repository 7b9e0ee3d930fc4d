"""Attention without softmax whose keys are its queries, strictly causal: a_t = q_t rho_t, rho_t = sum_{s<t} q_s v_s^T.

Three forms of the same function with the same signature `(q, v, rho) -> (a, rho after the last token)`:

- `attend_stepwise`: one token at a time, read before write. The definition; slow.
- `attend_parallel`: tril(q q^T, -1) v, quadratic in T. Without a state nothing but that is computed.
- `attend_chunked`: parallel inside chunks, the state carried between them; memory grows linearly in T.

Leading dimensions are any that broadcast (heads, streams). The products with the state run in the dtype of the state
with autocast off: a state in bfloat16 forgets small updates.

Letters: T tokens, N neurons per head, D width of the values.
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
