"""The block of BDH-SLIM: a pre-norm transformer layer whose linear maps can be watched, so that they can learn locally.

x += W_o attention(W_q n, W_k n, W_v n) with n = ln(x), then x += W_2 gelu(W_1 ln(x)); ln is affine, maps have no bias
(a bias has no second end, so no local rule). Attention is softmax(q k^T / sqrt(K)) v, causal.

B batch, T tokens, P tokens read before, D embedding, H heads, K = D/H entries per head, N hidden units.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bdh.nn.probe import tap
from bdh.nn.pruning import PrunableLinear

INIT_STD = 0.02
Watch = Callable[[PrunableLinear, Tensor, Tensor], None]
"""Called with a map, its inputs (...,I) and what its neurons send on (...,O)."""
Past = tuple[Tensor, Tensor]
"""Keys and values of earlier tokens, each B,H,P,K."""


def ignore(linear: PrunableLinear, x: Tensor, y: Tensor) -> None:
    """A watch that does nothing."""


class SlimBlock(nn.Module):
    """One layer."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float) -> None:
        """Maps of `width` channels in `heads` heads and of `hidden` units; `dropout` acts on both branches."""
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.w_q = PrunableLinear(width, width, INIT_STD)
        self.w_k = PrunableLinear(width, width, INIT_STD)
        self.w_v = PrunableLinear(width, width, INIT_STD)
        self.w_o = PrunableLinear(width, width, INIT_STD)
        self.w_1 = PrunableLinear(width, hidden, INIT_STD)
        self.w_2 = PrunableLinear(hidden, width, INIT_STD)

    def forward(
        self, x_BTD: Tensor, layer: int, past: Past | None = None, watch: Watch = ignore
    ) -> tuple[Tensor, Past]:
        """The stream after this layer (B,T,D), and keys and values of all tokens read so far."""
        n_BTD = self.ln_1(x_BTD)
        q_BTD, k_BTD, v_BTD = (_watched(linear, n_BTD, watch) for linear in (self.w_q, self.w_k, self.w_v))
        q_BHTK, k_BHTK, v_BHTK = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (q_BTD, k_BTD, v_BTD)
        )
        if past is not None:
            k_BHTK = torch.cat((past[0], k_BHTK.to(past[0].dtype)), dim=2)
            v_BHTK = torch.cat((past[1], v_BHTK.to(past[1].dtype)), dim=2)
        mixed_BTD = _attend(q_BHTK, k_BHTK, v_BHTK).transpose(1, 2).flatten(2)
        x_BTD = x_BTD + self._drop(_watched(self.w_o, mixed_BTD, watch))
        n_BTD = self.ln_2(x_BTD)
        u_BTN = tap("mlp_sparse", layer, F.gelu(self.w_1(n_BTD)))
        watch(self.w_1, n_BTD, u_BTN)
        x_BTD = x_BTD + self._drop(_watched(self.w_2, u_BTN, watch))
        return x_BTD, (k_BHTK, v_BHTK)

    def _drop(self, x_BTD: Tensor) -> Tensor:
        return F.dropout(x_BTD, self.dropout, self.training)


def _watched(linear: PrunableLinear, x: Tensor, watch: Watch) -> Tensor:
    y = linear(x)
    watch(linear, x, y)
    return y


def _attend(q_BHTK: Tensor, k_BHSK: Tensor, v_BHSK: Tensor) -> Tensor:
    q_BHTK = q_BHTK.to(k_BHSK.dtype)
    tokens, seen = q_BHTK.shape[2], k_BHSK.shape[2]
    if tokens == seen:
        return F.scaled_dot_product_attention(q_BHTK, k_BHSK, v_BHSK, is_causal=True)
    visible_TS = torch.ones(tokens, seen, dtype=torch.bool, device=q_BHTK.device).tril(seen - tokens)
    return F.scaled_dot_product_attention(q_BHTK, k_BHSK, v_BHSK, attn_mask=visible_TS)
