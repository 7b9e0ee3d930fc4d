"""The plastic parts of BDH-SLIM.

- `SeededLinear` remembers its initial weights by their seed, so that what it learned can be told from chance.
- `PrunableLinear` removes synapses for good and scales those that stay (homeostasis).
- `weight_sparsity` and `change_histogram` tell what learning did: how many synapses are left, how far weights moved.
- `SlimBlock` is a pre-norm transformer layer whose linear maps can be watched, so that they can learn locally:
  x += W_o attention(W_q n, W_k n, W_v n) with n = ln(x), then x += W_2 gelu(W_1 ln(x)); ln is affine, maps have no bias
  (a bias has no second end, so no local rule). Attention is softmax(q k^T / sqrt(K)) v, causal.

B batch, T tokens, P tokens read before, D embedding, H heads, K = D/H entries per head, N hidden units.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bdh.nn.probe import tap

ORIGIN_RANGE = 2**62


class SeededLinear(nn.Module):
    """`x W^T` without bias; W (O,I) is drawn from normal(0, std) by the seed in the buffer `origin`.

    The buffer travels with the weights, so `initial_weight` is exact after training, saving and loading.
    """

    weight: nn.Parameter
    origin: Tensor

    def __init__(self, inputs: int, outputs: int, std: float) -> None:
        """Draw the seed from torch's generator and the weights, normal(0, `std`), from the seed."""
        super().__init__()
        self.std = std
        self.register_buffer("origin", torch.randint(ORIGIN_RANGE, (1,)))
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        if not self.weight.is_meta:
            with torch.no_grad():
                self.weight.copy_(self.initial_weight())

    def initial_weight(self) -> Tensor:
        """The weights before any learning, (O,I), in the type and on the device of the weights now."""
        generator = torch.Generator().manual_seed(int(self.origin))
        return (torch.randn(self.weight.shape, generator=generator) * self.std).to(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Outputs (..., O) of inputs (..., I)."""
        return F.linear(x, self.weight)


LARGEST_SCALING = 0.1
"""A neuron's incoming weights change by at most this share per application."""
LARGEST_LENGTH = 8.0
"""Scaling lengthens no neuron's incoming weights beyond this: a neuron whose inputs are silent would grow for ever."""


class PrunableLinear(SeededLinear):
    """A linear layer whose weights count only where the buffer `mask` (O,I, boolean) is set.

    The mask stays for ever: the forward pass multiplies by it, so a pruned synapse carries nothing and gets no
    gradient, and `enforce` clears what an optimizer's momentum put there.
    """

    mask: Tensor

    def __init__(self, inputs: int, outputs: int, std: float) -> None:
        """All synapses present."""
        super().__init__(inputs, outputs, std)
        self.register_buffer("mask", torch.ones(outputs, inputs, dtype=torch.bool))

    def forward(self, x: Tensor) -> Tensor:
        """Outputs (..., O) of inputs (..., I) through the synapses that are left."""
        return F.linear(x, self.weight * self.mask)

    @torch.no_grad()
    def add(self, change_OI: Tensor) -> None:
        """Add a change of weights, pruned synapses excepted."""
        self.weight.add_(change_OI * self.mask)

    @torch.no_grad()
    def enforce(self) -> None:
        """Set pruned weights to zero."""
        self.weight.mul_(self.mask)

    @torch.no_grad()
    def prune(self, threshold: float) -> None:
        """Remove every synapse with |weight| below `threshold`."""
        self.mask.logical_and_(self.weight.abs() >= threshold)
        self.enforce()

    @torch.no_grad()
    def scale(self, activity_O: Tensor, target: float) -> None:
        """Homeostasis: multiply each neuron's incoming weights towards the activity `target`.

        `activity_O` is the mean magnitude of what each neuron sent, measured on activations. The factor
        target / activity is clipped to 1 +- LARGEST_SCALING (a silent neuron gets the largest), and once more where
        the weights would become longer than LARGEST_LENGTH.
        """
        factor_O = (target / activity_O).nan_to_num(posinf=1.0 + LARGEST_SCALING)
        factor_O = factor_O.clamp(1.0 - LARGEST_SCALING, 1.0 + LARGEST_SCALING).to(self.weight)
        room_O = (LARGEST_LENGTH / self.weight.norm(dim=1)).clamp(min=1.0)
        self.weight.mul_(torch.minimum(factor_O, room_O)[:, None])


BINS = 40


def weight_sparsity(synapses: Mapping[str, PrunableLinear]) -> tuple[int, int]:
    """Synapses that carry nothing (pruned, or exactly zero), and all of them."""
    silent = sum(int((linear.weight * linear.mask == 0).sum()) for linear in synapses.values())
    return silent, sum(linear.weight.numel() for linear in synapses.values())


@torch.no_grad()
def change_histogram(synapses: Mapping[str, PrunableLinear], bins: int = BINS) -> dict[str, dict[str, Any]]:
    """Histogram of `weight - initial weight` over the surviving synapses of every map; ready for JSON.

    Per name: `edges` (bins + 1, symmetric about zero, the same for all maps), `counts` (bins), `rms` (root mean square
    change) and `pruned` (synapses left out because they are gone).
    """
    changes = {name: _change(linear) for name, linear in synapses.items()}
    reach = max((float(change.abs().max()) for change in changes.values() if change.numel()), default=0.0) or 1.0
    return {
        name: _histogram(change, reach, bins) | {"pruned": int((~synapses[name].mask).sum())}
        for name, change in changes.items()
    }


def _change(linear: PrunableLinear) -> Tensor:
    return (linear.weight - linear.initial_weight())[linear.mask].float().cpu()


def _histogram(change: Tensor, reach: float, bins: int) -> dict[str, Any]:
    counts: Tensor = torch.histc(change, bins=bins, min=-reach, max=reach)
    return {
        "edges": torch.linspace(-reach, reach, bins + 1).tolist(),
        "counts": [int(count) for count in counts],
        "rms": float(change.square().mean().sqrt()) if change.numel() else 0.0,
    }


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
