"""The recurrent baseline: gated linear attention, sized to be a fair rival of the BDH whose shape it is given.

- The layer of Yang et al. 2023 ("Gated Linear Attention Transformers with Hardware-Efficient Training", arXiv
  2312.06635): attention without softmax whose state, a matrix per head, decays per key entry by a factor that the
  token itself chooses, `sigmoid(low_rank(x)) ** (1/16)`. RetNet (Sun et al. 2023, arXiv 2307.08621) is the case of
  constant factors, Mamba-2 that of one factor per head. No positions: the decay tells near from far.
- Queries are divided by sqrt(K); what a head reads is divided by its root mean square, multiplied by a gain and by the
  swish of an output gate. Blocks are pre-norm (RMS norm with a gain), the MLP is SwiGLU, no bias but that of the decay.
- Proportions of the paper: keys half as wide as the stream, values as wide as the stream, a decay gate of rank 16.
  Heads: as many as the BDH has (the paper's models have 4, as has the official BDH).
- What is equal to the BDH beside it: `match`, as in `bdh.models.transformer`; the counts are in `bdh.nn.counts`.
- Its state is of constant size, `rho` (B,L,H,K,V) in float32, and carries over any number of tokens. A decay below
  exp(-2) = .14 per token is cut off there, in every form: the paper's 1/16 makes that a gate of -32, and it bounds
  every number of the chunked form (`bdh.nn.attention.gated_chunked`).

| parameter | shape | init |
|---|---|---|
| embed.weight (also the readout when tied), lm_head.weight (untied) | V,W | normal(0, .02) |
| blocks.*.query, key | W/2,W | normal(0, .02) |
| blocks.*.value, output_gate | W,W | normal(0, .02) |
| blocks.*.decay_down, decay_up | r,W and W/2,r | normal(0, .02); the bias of decay_up 0, a decay of .958 |
| blocks.*.gate, expand | M,W | normal(0, .02) |
| blocks.*.project, contract | W,W and W,M | normal(0, .02 / sqrt(2 * depth)) |
| norms, blocks.*.head_gain | W and V | 1 |

Letters: B batch, T tokens, L layers, H heads, W width, K = W/2H entries of a key, V = W/H of a value, M width of the
MLP, r rank of the decay gate. (In shapes of tables of tokens V is the vocabulary, as everywhere.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bdh.models.base import LanguageModel, Output, State, cross_entropy
from bdh.nn.attention import GATED_CHUNK, LOWEST_GATE, NORM_EPSILON, gated_chunked, normalise_heads
from bdh.nn.counts import (
    GATED_MLP_RATIO,
    Rule,
    Shape,
    bdh_neurons,
    bdh_operations,
    bdh_parameters,
    gated_linear_operations,
    gated_linear_parameters,
    shape_for,
)
from bdh.nn.probe import tap
from bdh.project.errors import ParamsError

DECAY_ROOT = 16.0
PROPORTIONS = Rule(mlp_ratio=GATED_MLP_RATIO, head_width=None, even=True)
TINY: dict[str, Any] = {
    "n_layer": 2,
    "n_embd": 16,
    "n_head": 2,
    "mlp_internal_dim_multiplier": 4,
    "dropout": 0.0,
    "gate_rank": 4,
}


@dataclass(frozen=True)
class GatedLinearConfig:
    """What the rival BDH looks like, and what is to be equal.

    n_layer, n_embd, n_head, mlp_internal_dim_multiplier: the BDH that is matched. dropout: on embeddings and residual
    branches in training. match: parameters | flops | none. window: training window at which the operations of the BDH
    are counted. gate_rank: rank of the map that chooses the decays. tied: the readout is the embedding.
    width, depth, heads: this model itself, only read (and only allowed to differ from these) when match is none; the
    width is a multiple of twice the heads.
    """

    n_layer: int = 6
    n_embd: int = 256
    n_head: int = 4
    mlp_internal_dim_multiplier: int = 128
    dropout: float = 0.1
    match: str = "parameters"
    window: int = 512
    gate_rank: int = 16
    tied: bool = True
    width: int = 512
    depth: int = 8
    heads: int = 4


class GatedLinear(LanguageModel):
    """A gated linear recurrence; see the head of this file. `resolved` holds the numbers that the sizing chose."""

    def __init__(self, config: GatedLinearConfig, vocab_size: int) -> None:
        """Size and initialise the model; raises ParamsError for settings that contradict each other."""
        super().__init__()
        shape = resolve(config, vocab_size)
        self.config = config
        self.vocab_size = vocab_size
        self.shape = shape
        self.embed = nn.Embedding(vocab_size, shape.width)
        self.blocks = nn.ModuleList(GatedLinearBlock(shape, config) for _ in range(shape.depth))
        self.norm = nn.RMSNorm(shape.width, eps=NORM_EPSILON)
        self.lm_head = None if config.tied else nn.Linear(shape.width, vocab_size, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                branch_end = name.endswith(("project.weight", "contract.weight"))
                nn.init.normal_(parameter, std=0.02 / (2 * shape.depth) ** 0.5 if branch_end else 0.02)
        parameters = self.parameter_count()
        tables = [table.weight.numel() for table in (self.embed, self.lm_head) if table is not None]
        self.resolved: dict[str, int | float | str] = {
            "match": config.match,
            "width": shape.width,
            "depth": shape.depth,
            "heads": shape.heads,
            "hidden": shape.hidden,
            "parameters": parameters,
            "parameters_without_embeddings": parameters - sum(tables),
            "flops": self.flops_per_token(config.window),
        }

    def forward(self, tokens_BT: Tensor, targets_BT: Tensor | None = None, state: State | None = None) -> Output:
        """Logits B,T,V; with a state (`rho` B,L,H,K,V and `position` B) also the state after the last token."""
        rho_BLHKV = (self.initial_state(tokens_BT.shape[0]) if state is None else state)["rho"]
        x_BTW = F.dropout(self.embed(tokens_BT), self.config.dropout, self.training)
        rhos = []
        for layer, block in enumerate(self.blocks):
            x_BTW, rho_BHKV = block(layer, x_BTW, rho_BLHKV[:, layer])
            rhos.append(rho_BHKV)
        logits_BTV = F.linear(self.norm(x_BTW), (self.embed if self.lm_head is None else self.lm_head).weight)
        after = None
        if state is not None:
            after = {"rho": torch.stack(rhos, dim=1), "position": state["position"] + tokens_BT.shape[1]}
        return Output(logits=logits_BTV, loss=cross_entropy(logits_BTV, targets_BT), state=after)

    def initial_state(self, batch_size: int) -> State:
        """`rho` (B,L,H,K,V) of zeros in float32, or float64 for a float64 model; `position` (B,) 0."""
        shape, weight = self.shape, self.embed.weight
        size = (batch_size, shape.depth, shape.heads, shape.width // (2 * shape.heads), shape.width // shape.heads)
        dtype = torch.promote_types(weight.dtype, torch.float32)
        return {
            "rho": torch.zeros(size, dtype=dtype, device=weight.device),
            "position": torch.zeros(batch_size, dtype=torch.int64, device=weight.device),
        }

    def flops_per_token(self, window: int) -> float:
        """Forward operations per token in chunks; the formula is in `bdh.nn.counts.gated_linear_operations`."""
        return gated_linear_operations(self.shape, self.vocab_size, self.config.gate_rank, GATED_CHUNK, window)

    def trainable_parameters(self, regime: str) -> list[tuple[str, nn.Parameter]]:
        """As for every model; a tied `readout` is the embedding."""
        if regime == "readout" and self.config.tied:
            return [(name, parameter) for name, parameter in self.named_parameters() if name == "embed.weight"]
        return super().trainable_parameters(regime)


class GatedLinearBlock(nn.Module):
    """One pre-norm layer: x += project(swish(output_gate) * head_norm(read)); x += contract(swish(gate) * expand)."""

    def __init__(self, shape: Shape, config: GatedLinearConfig) -> None:
        """Build one layer of `shape`; dropout acts on both residual branches."""
        super().__init__()
        W, rank = shape.width, config.gate_rank
        self.heads = shape.heads
        self.dropout = config.dropout
        self.norm_attention = nn.RMSNorm(W, eps=NORM_EPSILON)
        self.query = nn.Linear(W, W // 2, bias=False)
        self.key = nn.Linear(W, W // 2, bias=False)
        self.value = nn.Linear(W, W, bias=False)
        self.decay_down = nn.Linear(W, rank, bias=False)
        self.decay_up = nn.Linear(rank, W // 2)
        self.output_gate = nn.Linear(W, W, bias=False)
        self.head_gain = nn.Parameter(torch.ones(W // shape.heads))
        self.project = nn.Linear(W, W, bias=False)
        self.norm_mlp = nn.RMSNorm(W, eps=NORM_EPSILON)
        self.gate = nn.Linear(W, shape.hidden, bias=False)
        self.expand = nn.Linear(W, shape.hidden, bias=False)
        self.contract = nn.Linear(shape.hidden, W, bias=False)
        nn.init.zeros_(self.decay_up.bias)

    def forward(self, layer: int, x_BTW: Tensor, rho_BHKV: Tensor) -> tuple[Tensor, Tensor]:
        """The stream (B,T,W) and this layer's state (B,H,K,V) after the last token.

        Taps `retention` (B,T,W/2), the share of each state row that a token keeps, and `mlp_sparse` (B,T,M).
        """
        n_BTW = self.norm_attention(x_BTW)
        decay_BTK = self.log_decay(n_BTW)
        tap("retention", layer, decay_BTK.exp())
        q, k, v, g = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in (self.query(n_BTW), self.key(n_BTW), self.value(n_BTW), decay_BTK)
        )
        a_BHTV, rho_BHKV = gated_chunked(q * q.shape[-1] ** -0.5, k, v, g, rho_BHKV)
        a_BTW = normalise_heads(a_BHTV, self.head_gain).transpose(1, 2).flatten(2)
        a_BTW = self.project(F.silu(self.output_gate(n_BTW)) * a_BTW)
        x_BTW = x_BTW + F.dropout(a_BTW, self.dropout, self.training)
        n_BTW = self.norm_mlp(x_BTW)
        act_BTM = tap("mlp_sparse", layer, F.silu(self.gate(n_BTW)) * self.expand(n_BTW))
        return x_BTW + F.dropout(self.contract(act_BTM), self.dropout, self.training), rho_BHKV

    def log_decay(self, n_BTW: Tensor) -> Tensor:
        """Logarithm of the share of its state that each key entry keeps at each token, (B,T,W/2), -2 to 0."""
        gate_BTK = self.decay_up(self.decay_down(n_BTW))
        wide = torch.promote_types(gate_BTK.dtype, torch.float32)
        return (F.logsigmoid(gate_BTK.to(wide)) / DECAY_ROOT).clamp(min=LOWEST_GATE)


def resolve(config: GatedLinearConfig, vocab_size: int) -> Shape:
    """The shape that `config` asks for; raises ParamsError for settings that contradict each other."""
    D, H = config.n_embd, config.n_head
    N = bdh_neurons(D, H, config.mlp_internal_dim_multiplier)
    if min(config.n_layer, H, N, config.window, config.gate_rank) < 1:
        raise ParamsError(
            f"gated_linear: {config} describes no model; n_layer, n_embd, n_head, window, gate_rank must be >= 1"
        )
    own = (config.width, config.depth, config.heads)
    if config.match == "none":
        if min(own) < 1 or config.width % (2 * config.heads):
            raise ParamsError(
                f"gated_linear: width {config.width} must be a multiple of 2 * heads ({config.heads}), depth >= 1"
            )
        return Shape(*own, round(GATED_MLP_RATIO * config.width))
    if own != (GatedLinearConfig.width, GatedLinearConfig.depth, GatedLinearConfig.heads):
        raise ParamsError(
            f"gated_linear: width, depth, heads {own} are chosen automatically at match {config.match!r}; "
            "set match to 'none' to give them, or remove them"
        )
    if config.match == "parameters":
        budget = float(bdh_parameters(D, H, N, vocab_size))

        def cost(shape: Shape) -> float:
            return gated_linear_parameters(shape, vocab_size, config.gate_rank, config.tied)
    elif config.match == "flops":
        budget = bdh_operations(config.n_layer, D, H, N, vocab_size, config.window)

        def cost(shape: Shape) -> float:
            return gated_linear_operations(shape, vocab_size, config.gate_rank, GATED_CHUNK, config.window)
    else:
        raise ParamsError(f"gated_linear: match {config.match!r}; allowed: parameters, flops, none")
    return shape_for(cost, budget, config.n_layer, H, PROPORTIONS)


Config = GatedLinearConfig
Model = GatedLinear
