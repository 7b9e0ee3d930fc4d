"""The dense baseline: a pre-norm GPT, causal, sized to be a fair rival of the BDH whose shape it is given.

- Learned positions, softmax attention through `scaled_dot_product_attention`, GELU, affine norms, no other bias,
  embedding tied to the readout.
- `n_layer`, `n_embd`, `n_head` and `mlp_internal_dim_multiplier` describe the BDH that it stands beside, not itself;
  `match` says what is equal: total parameters, or operations per token at the training window. What came out of the
  sizing is in `Transformer.resolved`; the rule is in `bdh.nn.counts`.
- Its state is a KV cache: it grows with the text and ends at `block_size`.

| parameter | shape | init |
|---|---|---|
| embed.weight (also the readout) | V,W | normal(0, .02) |
| positions.weight | block_size,W | normal(0, .02) |
| blocks.*.qkv, blocks.*.expand | 3W,W and M,W | normal(0, .02) |
| blocks.*.project, blocks.*.contract | W,W and W,M | normal(0, .02 / sqrt(2 * depth)) |
| norms | W | 1 and 0 |

Letters: B batch, T tokens, C cached tokens, H heads, K head width, W width (H*K), M width of the MLP, L layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bdh.models.base import LanguageModel, Output, State, cross_entropy
from bdh.nn.counts import (
    Shape,
    bdh_neurons,
    bdh_operations,
    bdh_parameters,
    shape_for_operations,
    shape_for_parameters,
    transformer_operations,
)
from bdh.nn.probe import tap
from bdh.project.errors import ParamsError, RunError

TINY: dict[str, Any] = {
    "n_layer": 2,
    "n_embd": 16,
    "n_head": 2,
    "mlp_internal_dim_multiplier": 4,
    "dropout": 0.0,
    "block_size": 32,
    "window": 32,
}


@dataclass(frozen=True)
class TransformerConfig:
    """What the rival BDH looks like, what is to be equal, and how long a text may be.

    n_layer, n_embd, n_head, mlp_internal_dim_multiplier: the BDH that is matched. dropout: on embeddings, attention
    and residual branches in training. match: parameters | flops | none. block_size: positions (tokens a stream can
    hold). window: training window at which operations are counted; a shorter block_size takes its place.
    width, depth, heads: this model itself, only read (and only allowed to differ from these) when match is none.
    """

    n_layer: int = 6
    n_embd: int = 256
    n_head: int = 4
    mlp_internal_dim_multiplier: int = 128
    dropout: float = 0.1
    match: str = "parameters"
    block_size: int = 512
    window: int = 512
    width: int = 512
    depth: int = 8
    heads: int = 8


class Transformer(LanguageModel):
    """A GPT; see the head of this file. `resolved` holds the numbers that the sizing chose."""

    carries_state: ClassVar[bool] = False

    def __init__(self, config: TransformerConfig, vocab_size: int) -> None:
        """Size and initialise the model; raises ParamsError for settings that contradict each other."""
        super().__init__()
        shape = resolve(config, vocab_size)
        self.config = config
        self.vocab_size = vocab_size
        self.shape = shape
        self.embed = nn.Embedding(vocab_size, shape.width)
        self.positions = nn.Embedding(config.block_size, shape.width)
        self.blocks = nn.ModuleList(TransformerBlock(shape, config.dropout) for _ in range(shape.depth))
        self.norm = nn.LayerNorm(shape.width)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                branch_end = name.endswith(("project.weight", "contract.weight"))
                nn.init.normal_(parameter, std=0.02 / (2 * shape.depth) ** 0.5 if branch_end else 0.02)
        parameters = self.parameter_count()
        self.resolved: dict[str, int | float | str] = {
            "match": config.match,
            "width": shape.width,
            "depth": shape.depth,
            "heads": shape.heads,
            "hidden": shape.hidden,
            "parameters": parameters,
            "parameters_without_embeddings": parameters - self.embed.weight.numel() - self.positions.weight.numel(),
            "flops": self.flops_per_token(_counted_window(config)),
        }

    def forward(self, tokens_BT: Tensor, targets_BT: Tensor | None = None, state: State | None = None) -> Output:
        """Logits B,T,V; with a state (`key`, `value` B,L,H,C,K and `position` B) also the cache with T more tokens.

        Raises RunError when the text would be longer than block_size.
        """
        T = tokens_BT.shape[1]
        cached = 0 if state is None else state["key"].shape[3]
        self._check_length(cached + T)
        positions = torch.arange(T, device=tokens_BT.device)
        if state is not None:
            positions = state["position"].unsqueeze(-1) + positions
        x_BTW = F.dropout(self.embed(tokens_BT) + self.positions(positions), self.config.dropout, self.training)
        keys, values = [], []
        for layer, block in enumerate(self.blocks):
            past = None if state is None else (state["key"][:, layer], state["value"][:, layer])
            x_BTW, (key_BHTK, value_BHTK) = block(layer, x_BTW, past)
            keys.append(key_BHTK)
            values.append(value_BHTK)
        logits_BTV = F.linear(self.norm(x_BTW), self.embed.weight)
        after = None
        if state is not None:
            after = {"key": torch.stack(keys, 1), "value": torch.stack(values, 1), "position": state["position"] + T}
        return Output(logits=logits_BTV, loss=cross_entropy(logits_BTV, targets_BT), state=after)

    def _check_length(self, length: int) -> None:
        if length > self.config.block_size:
            raise RunError(
                f"transformer: a text of {length} tokens is longer than its {self.config.block_size} learned "
                "positions; start a new state, read shorter windows, or train with a larger block_size"
            )

    def initial_state(self, batch_size: int) -> State:
        """An empty KV cache: `key` and `value` (B,L,H,0,K), `position` (B,) 0."""
        shape, weight = self.shape, self.embed.weight
        empty = weight.new_zeros(batch_size, shape.depth, shape.heads, 0, shape.width // shape.heads)
        return {
            "key": empty,
            "value": empty.clone(),
            "position": torch.zeros(batch_size, dtype=torch.int64, device=weight.device),
        }

    def max_positions(self) -> int:
        """Number of learned positions, `block_size`."""
        return self.config.block_size

    def flops_per_token(self, window: int) -> float:
        """Forward operations per token; the formula is in `bdh.nn.counts.transformer_operations`."""
        shape = self.shape
        return transformer_operations(shape.width, shape.depth, shape.hidden, self.vocab_size, window)

    def trainable_parameters(self, regime: str) -> list[tuple[str, nn.Parameter]]:
        """As for every model; the `readout` is the tied embedding."""
        if regime == "readout":
            return [(name, parameter) for name, parameter in self.named_parameters() if name == "embed.weight"]
        return super().trainable_parameters(regime)


class TransformerBlock(nn.Module):
    """One pre-norm layer: x += project(attention(norm(x))); x += contract(gelu(expand(norm(x))))."""

    def __init__(self, shape: Shape, dropout: float) -> None:
        """Build one layer of `shape`; `dropout` acts on attention and on both residual branches."""
        super().__init__()
        self.heads = shape.heads
        self.dropout = dropout
        self.norm_attention = nn.LayerNorm(shape.width)
        self.qkv = nn.Linear(shape.width, 3 * shape.width, bias=False)
        self.project = nn.Linear(shape.width, shape.width, bias=False)
        self.norm_mlp = nn.LayerNorm(shape.width)
        self.expand = nn.Linear(shape.width, shape.hidden, bias=False)
        self.contract = nn.Linear(shape.hidden, shape.width, bias=False)

    def forward(
        self, layer: int, x_BTW: Tensor, past: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """The stream after this layer, and the keys and values (B,H,C+T,K) of all tokens so far."""
        q, k, v = self.qkv(self.norm_attention(x_BTW)).chunk(3, dim=-1)
        q_BHTK, k_BHTK, v_BHTK = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (q, k, v))
        if past is not None:
            k_BHTK = torch.cat((past[0], k_BHTK.to(past[0].dtype)), dim=2)
            v_BHTK = torch.cat((past[1], v_BHTK.to(past[1].dtype)), dim=2)
        a_BTW = self._attend(q_BHTK, k_BHTK, v_BHTK).transpose(1, 2).flatten(2)
        x_BTW = x_BTW + F.dropout(self.project(a_BTW), self.dropout, self.training)
        act_BTM = tap("mlp_sparse", layer, F.gelu(self.expand(self.norm_mlp(x_BTW))))
        x_BTW = x_BTW + F.dropout(self.contract(act_BTM), self.dropout, self.training)
        return x_BTW, (k_BHTK, v_BHTK)

    def _attend(self, q_BHTK: Tensor, k_BHCK: Tensor, v_BHCK: Tensor) -> Tensor:
        """Softmax attention over the tokens up to and including the query's own."""
        T, C = q_BHTK.shape[2], k_BHCK.shape[2]
        q_BHTK = q_BHTK.to(k_BHCK.dtype)
        dropout = self.dropout if self.training else 0.0
        if C == T:
            return F.scaled_dot_product_attention(q_BHTK, k_BHCK, v_BHCK, dropout_p=dropout, is_causal=True)
        visible_TC = None if T == 1 else torch.ones(T, C, dtype=torch.bool, device=q_BHTK.device).tril(C - T)
        return F.scaled_dot_product_attention(q_BHTK, k_BHCK, v_BHCK, attn_mask=visible_TC, dropout_p=dropout)


def resolve(config: TransformerConfig, vocab_size: int) -> Shape:
    """The shape that `config` asks for; raises ParamsError for settings that contradict each other."""
    D, H = config.n_embd, config.n_head
    N = bdh_neurons(D, H, config.mlp_internal_dim_multiplier)
    own = (config.width, config.depth, config.heads)
    if config.match == "none":
        if min(own) < 1 or config.width % config.heads:
            raise ParamsError(
                f"transformer: width {config.width} must be a multiple of heads {config.heads}, depth >= 1"
            )
        return Shape(config.width, config.depth, config.heads, 4 * config.width)
    if own != (TransformerConfig.width, TransformerConfig.depth, TransformerConfig.heads):
        raise ParamsError(
            f"transformer: width, depth, heads {own} are chosen automatically at match {config.match!r}; "
            "set match to 'none' to give them, or remove them"
        )
    if min(config.n_layer, H, N, config.block_size) < 1:
        raise ParamsError(f"transformer: {config} describes no model; n_layer, n_embd, n_head, block_size must be >= 1")
    if config.match == "parameters":
        budget = bdh_parameters(D, H, N, vocab_size)
        return shape_for_parameters(budget, vocab_size, config.block_size, config.n_layer, H)
    if config.match == "flops":
        window = _counted_window(config)
        operations = bdh_operations(config.n_layer, D, H, N, vocab_size, window)
        return shape_for_operations(operations, vocab_size, window, config.n_layer, H)
    raise ParamsError(f"transformer: match {config.match!r}; allowed: parameters, flops, none")


def _counted_window(config: TransformerConfig) -> int:
    return min(config.window, config.block_size)


Config = TransformerConfig
Model = Transformer
