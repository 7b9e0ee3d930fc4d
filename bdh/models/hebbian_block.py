"""`hebbian_block`: a pre-norm block model whose attention is a synaptic state per head, written by a Hebbian rule.

- Every block adds `proj(attention(ln x))`, then `W2 relu(W1 ln x)` with W1 four times as wide; ln has no parameters.
- Attention has no softmax and no scale: keys and queries are rotated, then rectified. Token t reads the synapses
  `q_t sigma_t`, then strengthens them: `sigma_{t+1} = sigma_t + eta k_t v_t^T` (Hebbian write, eq. (8) of the BDH
  paper with one matrix per head). In parallel form this is `eta tril(q k^T, -1) v`: a token never reads itself.
- eta, one number per layer, is learned and starts at 0.1. The readout is the embedding, transposed.
- A carried sigma continues at the carried position.

B batch, T tokens, D embedding, H heads, K = D/H entries per head, N = 4 D hidden units, L layers, V vocabulary.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bdh.models.base import LanguageModel, Output, State, cross_entropy
from bdh.nn.probe import listening, tap
from bdh.nn.rope import half_rotation, rotate_halves
from bdh.project.errors import ParamsError

INIT_STD = 0.02
INITIAL_ETA = 0.1
TINY: dict[str, Any] = {"n_layer": 2, "n_embd": 12, "n_head": 2}


@dataclass(frozen=True)
class HebbianBlockConfig:
    """Shape: L, D (of embeddings) and H; D is a multiple of 2 H."""

    n_layer: int = 4
    n_embd: int = 128
    n_head: int = 4


class Heads(NamedTuple):
    """Rectified, rotated queries and keys, and values, each B,H,T,K."""

    queries: Tensor
    keys: Tensor
    values: Tensor


class SynapticAttention(nn.Module):
    """One layer's attention: reads and writes `sigma` (B,H,K,K; rows are key entries, columns value entries)."""

    def __init__(self, width: int, heads: int) -> None:
        """Maps of `width` channels, split into `heads`; eta starts at INITIAL_ETA."""
        super().__init__()
        self.heads = heads
        self.eta = nn.Parameter(torch.full((1,), INITIAL_ETA))
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.proj = nn.Linear(width, width, bias=False)

    def split(self, x_BTD: Tensor, rotation: tuple[Tensor, Tensor], layer: int) -> Heads:
        """Queries, keys and values of every head."""
        q_BHTK, k_BHTK, v_BHTK = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.qkv(x_BTD).chunk(3, dim=-1)
        )
        q_BHTK = tap("q_sparse", layer, F.relu(rotate_halves(q_BHTK, rotation)))
        k_BHTK = tap("k_sparse", layer, F.relu(rotate_halves(k_BHTK, rotation)))
        return Heads(q_BHTK, k_BHTK, v_BHTK)

    def merge(self, out_BHTK: Tensor) -> Tensor:
        """Heads side by side, projected: B,T,D."""
        return self.proj(out_BHTK.transpose(1, 2).flatten(2))

    def read_parallel(self, heads: Heads, sigma_BHKK: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """What all tokens read (B,H,T,K), and sigma after the last one (None when none came in)."""
        scores_BHTT = (heads.queries @ heads.keys.mT).tril(-1)
        out_BHTK = self.eta * (scores_BHTT @ heads.values)
        if sigma_BHKK is None:
            return out_BHTK, None
        with torch.autocast(sigma_BHKK.device.type, enabled=False):
            q, k, v = (part.to(sigma_BHKK.dtype) for part in heads)
            read_BHTK = out_BHTK + (q @ sigma_BHKK).to(out_BHTK.dtype)
            return read_BHTK, sigma_BHKK + self.eta * (k.mT @ v)

    def read_stepwise(self, heads: Heads, sigma_BHKK: Tensor) -> tuple[Tensor, Tensor]:
        """The same, token by token as the equation is written: slow, and the truth that the tests compare with."""
        out = []
        for t in range(heads.queries.shape[2]):
            q_BH1K, k_BH1K, v_BH1K = (part[:, :, t : t + 1] for part in heads)
            out.append(q_BH1K @ sigma_BHKK)
            sigma_BHKK = sigma_BHKK + self.eta * (k_BH1K.mT @ v_BH1K)
        return torch.cat(out, dim=2), sigma_BHKK


class SynapticBlock(nn.Module):
    """Attention, then a rectified feed-forward layer, each added to the stream."""

    def __init__(self, width: int, heads: int) -> None:
        """One block of `width` channels and `heads` heads."""
        super().__init__()
        self.attn = SynapticAttention(width, heads)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width, bias=False), nn.ReLU(), nn.Linear(4 * width, width, bias=False)
        )

    def forward(
        self, x_BTD: Tensor, rotation: tuple[Tensor, Tensor], layer: int, sigma_BHKK: Tensor | None, stepwise: bool
    ) -> tuple[Tensor, Tensor | None]:
        """The stream after this block (B,T,D), and sigma after the last token (None when none came in)."""
        heads = self.attn.split(_normalise(x_BTD), rotation, layer)
        if stepwise and sigma_BHKK is not None:
            out_BHTK, sigma_BHKK = self.attn.read_stepwise(heads, sigma_BHKK)
        else:
            out_BHTK, sigma_BHKK = self.attn.read_parallel(heads, sigma_BHKK)
        x_BTD = x_BTD + self.attn.merge(out_BHTK)
        hidden_BTN = tap("mlp_sparse", layer, self.mlp[1](self.mlp[0](_normalise(x_BTD))))
        return x_BTD + self.mlp[2](hidden_BTN), sigma_BHKK


class HebbianBlock(LanguageModel):
    """The whole model; state `sigma` (B,L,H,K,K) and `position` (B,)."""

    def __init__(self, config: HebbianBlockConfig, vocab_size: int) -> None:
        """Draw all weights from normal(0, .02); raises ParamsError for heads of an odd or fractional size."""
        super().__init__()
        if config.n_embd % (2 * config.n_head):
            raise ParamsError(
                f"hebbian_block: n_embd {config.n_embd} is not a multiple of 2 * n_head ({2 * config.n_head}); "
                "rotary positions need heads of an even size"
            )
        self.config, self.vocab_size = config, vocab_size
        self.tok_emb = nn.Embedding(vocab_size, config.n_embd)
        self.blocks = nn.ModuleList(SynapticBlock(config.n_embd, config.n_head) for _ in range(config.n_layer))
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=INIT_STD)

    def forward(self, tokens_BT: Tensor, targets_BT: Tensor | None = None, state: State | None = None) -> Output:
        """Logits; attention of all tokens at once, `eta tril(q k^T, -1) v`, plus what the carried sigma holds."""
        return self._run(tokens_BT, targets_BT, state, stepwise=False)

    def stepwise(self, tokens_BT: Tensor, targets_BT: Tensor | None = None, state: State | None = None) -> Output:
        """`forward` with sigma updated token by token; returns a state in any case."""
        return self._run(tokens_BT, targets_BT, state or self.initial_state(len(tokens_BT)), stepwise=True)

    def _run(self, tokens_BT: Tensor, targets_BT: Tensor | None, state: State | None, stepwise: bool) -> Output:
        x_BTD = self.tok_emb(tokens_BT)
        positions_BT = torch.arange(tokens_BT.shape[1], device=tokens_BT.device)[None]
        if state is not None:
            positions_BT = positions_BT + state["position"][:, None]
        rotation = half_rotation(positions_BT, self.config.n_embd // self.config.n_head, x_BTD.dtype)
        sigmas: list[Tensor] = []
        for layer, block in enumerate(self.blocks):
            sigma_BHKK = None if state is None else state["sigma"][:, layer]
            x_BTD, sigma_BHKK = block(x_BTD, rotation, layer, sigma_BHKK, stepwise)
            if sigma_BHKK is not None:
                sigmas.append(sigma_BHKK)
        logits_BTV = F.linear(_normalise(x_BTD), self.tok_emb.weight)
        after = None
        if state is not None:
            after = {"sigma": torch.stack(sigmas, dim=1), "position": state["position"] + tokens_BT.shape[1]}
        return Output(logits_BTV, cross_entropy(logits_BTV, targets_BT), after)

    def initial_state(self, batch_size: int) -> State:
        """Zero synapses at position 0; float32 at least, so that small writes are not lost."""
        shape, weight = self.config, self.tok_emb.weight
        head = shape.n_embd // shape.n_head
        size = (batch_size, shape.n_layer, shape.n_head, head, head)
        sigma = torch.zeros(size, dtype=torch.promote_types(weight.dtype, torch.float32), device=weight.device)
        return {"sigma": sigma, "position": torch.zeros(batch_size, dtype=torch.int64, device=weight.device)}

    def flops_per_token(self, window: int) -> float:
        """Products of weights and activations, and the lower triangle of scores and values."""
        width = self.config.n_embd
        return self.config.n_layer * (24 * width**2 + 2 * width * (window - 1)) + 2 * width * self.vocab_size

    def trainable_parameters(self, regime: str) -> list[tuple[str, nn.Parameter]]:
        """As in the base class; the readout is the embedding, so `readout` trains both with one matrix."""
        if regime == "readout":
            return [(name, parameter) for name, parameter in self.named_parameters() if name == "tok_emb.weight"]
        return super().trainable_parameters(regime)

    @torch.no_grad()
    def activation_statistics(self, tokens_BT: Tensor) -> list[dict[str, float]]:
        """Per layer, the share of non-zero activations on `tokens_BT` by tap: q_sparse, k_sparse, mlp_sparse."""
        found: dict[int, dict[str, float]] = defaultdict(dict)

        def listener(name: str, layer: int, tensor: Tensor) -> None:
            found[layer][name] = (tensor != 0).double().mean().item()

        with listening(listener):
            self(tokens_BT)
        return [found[layer] for layer in range(self.config.n_layer)]


def _normalise(x_BTD: Tensor) -> Tensor:
    return F.layer_norm(x_BTD, x_BTD.shape[-1:])


Config = HebbianBlockConfig
Model = HebbianBlock
