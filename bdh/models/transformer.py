"""The dense baseline: a pre-norm GPT, causal, sized to be a fair rival of the BDH whose shape it is given.

- By default the GPT of the first comparisons: learned positions, softmax attention through
  `scaled_dot_product_attention`, GELU, affine norms, no other bias, embedding tied to the readout.
- Options that today's small GPTs take for granted; the sizing counts each exactly:
  `positions: rotary` (Su et al. 2021, arXiv 2104.09864: queries and keys are turned, halves of a head paired as in
  GPT-NeoX, base 10000; nothing is learned, heads are of even width);
  `qk_norm` (Henry et al. 2020, arXiv 2010.04245; in the form of ViT-22B, arXiv 2302.05442, and Qwen3: queries and keys
  are divided by their root mean square over the head and multiplied by a learned gain per entry, which starts at 1,
  before they are turned. Scores then lie within sqrt(K) of 0 at first, whatever the learning rate did to the maps;
  the gains let attention sharpen as far as it pays);
  `mlp: swiglu` (Shazeer 2020, arXiv 2002.05202: contract(silu(gate(x)) * expand(x)), 8/3 as wide, so that three
  matrices have the weights of two); `tied: false` (a readout of its own); `bias` and `mlp: gelu_tanh` (GPT-2's own
  form of GELU) for GPT-2's checkpoints, which have both.
  RMSNorm in place of LayerNorm is no option: it saves time and changes nothing else (Zhang and Sennrich 2019).
- `n_layer`, `n_embd`, `n_head` and `mlp_internal_dim_multiplier` describe the BDH that it stands beside, not itself;
  `match` says what is equal: total parameters, or operations per token at the training window. What came out of the
  sizing is in `Transformer.resolved`; the rule is in `bdh.nn.counts`.
- Its state is a KV cache: it grows with the text and ends at `block_size`, also with rotary positions, which know no
  end of their own.

| parameter | shape | init |
|---|---|---|
| embed.weight (also the readout when tied) | V,W | normal(0, .02) |
| positions.weight (learned) | block_size,W | normal(0, .02) |
| lm_head.weight (untied) | V,W | normal(0, .02) |
| blocks.*.qkv, blocks.*.expand, blocks.*.gate (swiglu) | 3W,W and M,W and M,W | normal(0, .02) |
| blocks.*.project, blocks.*.contract | W,W and W,M | normal(0, .02 / sqrt(2 * depth)) |
| norms | W | 1 and 0 |
| blocks.*.*.bias (bias) | 3W, W or M | 0 |
| blocks.*.query_gain, blocks.*.key_gain (qk_norm) | K | 1 |

Letters: B batch, T tokens, C cached tokens, H heads, K head width, W width (H*K), M width of the MLP, L layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bdh.models.base import LanguageModel, Output, State, cross_entropy
from bdh.nn.attention import normalise_heads
from bdh.nn.counts import (
    Parts,
    TransformerShape,
    bdh_neurons,
    bdh_operations,
    bdh_parameters,
    shape_for_operations,
    shape_for_parameters,
    transformer_operations,
)
from bdh.nn.probe import tap
from bdh.nn.rope import half_rotation, rotate_halves
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
POSITIONS = ("learned", "rotary")
MLPS = ("gelu", "gelu_tanh", "swiglu")


@dataclass(frozen=True)
class TransformerConfig:
    """What the rival BDH looks like, what is to be equal, and how long a text may be.

    n_layer, n_embd, n_head, mlp_internal_dim_multiplier: the BDH that is matched. dropout: on embeddings, attention
    and residual branches in training. match: parameters | flops | none. block_size: positions (tokens a stream can
    hold). window: training window at which operations are counted; a shorter block_size takes its place.
    width, depth, heads: this model itself, only read (and only allowed to differ from these) when match is none.
    positions: learned | rotary. qk_norm: normalise queries and keys. tied: the readout is the embedding.
    mlp: gelu | gelu_tanh | swiglu. bias: the maps of the layers have one.
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
    positions: str = "learned"
    qk_norm: bool = False
    tied: bool = True
    mlp: str = "gelu"
    bias: bool = False

    @property
    def parts(self) -> Parts:
        """These options as far as they change how much there is to count."""
        rotary = self.positions == "rotary"
        gated = self.mlp == "swiglu"
        return Parts(tied=self.tied, gated=gated, qk_norm=self.qk_norm, even=rotary, bias=self.bias)


class Transformer(LanguageModel):
    """A GPT; see the head of this file. `resolved` holds the numbers that the sizing chose."""

    carries_state: ClassVar[bool] = False

    def __init__(self, config: TransformerConfig, vocab_size: int) -> None:
        """Size and initialise the model; raises ParamsError for settings that contradict each other."""
        super().__init__()
        shape = resolve(config, vocab_size)
        self.config = config
        self.vocab_size = vocab_size
        self.shape, self.layers = shape, shape.depth
        self.embed = nn.Embedding(vocab_size, shape.width)
        self.positions = nn.Embedding(config.block_size, shape.width) if config.positions == "learned" else None
        self.blocks = nn.ModuleList(TransformerBlock(shape, config) for _ in range(shape.depth))
        self.norm = nn.LayerNorm(shape.width)
        self.lm_head = None if config.tied else nn.Linear(shape.width, vocab_size, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                branch_end = name.endswith(("project.weight", "contract.weight"))
                nn.init.normal_(parameter, std=0.02 / (2 * shape.depth) ** 0.5 if branch_end else 0.02)
            elif name.endswith(".bias"):
                nn.init.zeros_(parameter)
        parameters = self.parameter_count()
        tables = [table.weight.numel() for table in (self.embed, self.positions, self.lm_head) if table is not None]
        self.resolved: dict[str, int | float | str] = {
            "match": config.match,
            "width": shape.width,
            "depth": shape.depth,
            "heads": shape.heads,
            "hidden": shape.hidden,
            "parameters": parameters,
            "parameters_without_embeddings": parameters - sum(tables),
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
        x_BTW, rotation = self.embed(tokens_BT), None
        if self.positions is not None:
            x_BTW = x_BTW + self.positions(positions)
        else:
            wide = torch.promote_types(x_BTW.dtype, torch.float32)
            rotation = half_rotation(positions.view(-1, T), self.shape.width // self.shape.heads, wide)
        x_BTW = F.dropout(x_BTW, self.config.dropout, self.training)
        keys, values = [], []
        for layer, block in enumerate(self.blocks):
            past = None if state is None else (state["key"][:, layer], state["value"][:, layer])
            x_BTW, (key_BHTK, value_BHTK) = block(layer, x_BTW, past, rotation)
            keys.append(key_BHTK)
            values.append(value_BHTK)
        logits_BTV = F.linear(self.norm(x_BTW), (self.embed if self.lm_head is None else self.lm_head).weight)
        after = None
        if state is not None:
            after = {"key": torch.stack(keys, 1), "value": torch.stack(values, 1), "position": state["position"] + T}
        return Output(logits=logits_BTV, loss=cross_entropy(logits_BTV, targets_BT), state=after)

    def _check_length(self, length: int) -> None:
        if length > self.config.block_size:
            raise RunError(
                f"transformer: a text of {length} tokens is longer than its {self.config.block_size} "
                f"{self.config.positions} positions; start a new state, read shorter windows, or train with a larger "
                "block_size"
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
        """Number of positions, learned or of the cache: `block_size`."""
        return self.config.block_size

    def flops_per_token(self, window: int) -> float:
        """Forward operations per token; the formula is in `bdh.nn.counts.transformer_operations`."""
        shape = self.shape
        counted = (shape.width, shape.depth, shape.hidden, self.vocab_size, window)
        return transformer_operations(*counted, self.config.parts)

    def trainable_parameters(self, regime: str) -> list[tuple[str, nn.Parameter]]:
        """As for every model; a tied `readout` is the embedding."""
        if regime == "readout" and self.config.tied:
            return [(name, parameter) for name, parameter in self.named_parameters() if name == "embed.weight"]
        return super().trainable_parameters(regime)


class TransformerBlock(nn.Module):
    """One pre-norm layer: x += project(attention(norm(x))); x += contract(gelu(expand(norm(x)))), or its gated form."""

    def __init__(self, shape: TransformerShape, config: TransformerConfig) -> None:
        """Build one layer of `shape`; dropout acts on attention and on both residual branches."""
        super().__init__()
        self.heads = shape.heads
        self.dropout = config.dropout
        self.norm_attention = nn.LayerNorm(shape.width)
        self.approximate = "tanh" if config.mlp == "gelu_tanh" else "none"
        self.qkv = nn.Linear(shape.width, 3 * shape.width, bias=config.bias)
        self.project = nn.Linear(shape.width, shape.width, bias=config.bias)
        self.norm_mlp = nn.LayerNorm(shape.width)
        self.expand = nn.Linear(shape.width, shape.hidden, bias=config.bias)
        self.contract = nn.Linear(shape.hidden, shape.width, bias=config.bias)
        self.gate = nn.Linear(shape.width, shape.hidden, bias=config.bias) if config.mlp == "swiglu" else None
        head_width = shape.width // shape.heads
        self.query_gain = nn.Parameter(torch.ones(head_width)) if config.qk_norm else None
        self.key_gain = nn.Parameter(torch.ones(head_width)) if config.qk_norm else None

    def forward(
        self,
        layer: int,
        x_BTW: Tensor,
        past: tuple[Tensor, Tensor] | None,
        rotation: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """The stream after this layer, and the keys and values (B,H,C+T,K) of all tokens so far.

        `rotation`: cosines and sines (B or 1,1,T,K/2) of the positions read now; None turns nothing.
        """
        q, k, v = self.qkv(self.norm_attention(x_BTW)).chunk(3, dim=-1)
        q_BHTK, k_BHTK, v_BHTK = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (q, k, v))
        if self.query_gain is not None and self.key_gain is not None:
            q_BHTK, k_BHTK = normalise_heads(q_BHTK, self.query_gain), normalise_heads(k_BHTK, self.key_gain)
        if rotation is not None:
            q_BHTK, k_BHTK = (rotate_halves(part, rotation).to(part.dtype) for part in (q_BHTK, k_BHTK))
        if past is not None:
            k_BHTK = torch.cat((past[0], k_BHTK.to(past[0].dtype)), dim=2)
            v_BHTK = torch.cat((past[1], v_BHTK.to(past[1].dtype)), dim=2)
        a_BTW = self._attend(q_BHTK, k_BHTK, v_BHTK).transpose(1, 2).flatten(2)
        x_BTW = x_BTW + F.dropout(self.project(a_BTW), self.dropout, self.training)
        n_BTW = self.norm_mlp(x_BTW)
        act_BTM = self.expand(n_BTW)
        if self.gate is None:
            act_BTM = F.gelu(act_BTM, approximate=self.approximate)
        else:
            act_BTM = F.silu(self.gate(n_BTW)) * act_BTM
        act_BTM = tap("mlp_sparse", layer, act_BTM)
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


def resolve(config: TransformerConfig, vocab_size: int) -> TransformerShape:
    """The shape that `config` asks for; raises ParamsError for settings that contradict each other."""
    D, H = config.n_embd, config.n_head
    N = bdh_neurons(D, H, config.mlp_internal_dim_multiplier)
    if config.positions not in POSITIONS or config.mlp not in MLPS:
        raise ParamsError(
            f"transformer: positions {config.positions!r}, mlp {config.mlp!r}; "
            f"allowed: positions {', '.join(POSITIONS)}, mlp {', '.join(MLPS)}"
        )
    rotary, parts = config.positions == "rotary", config.parts
    own = (config.width, config.depth, config.heads)
    if config.match == "none":
        if min(own) < 1 or config.width % config.heads:
            raise ParamsError(
                f"transformer: width {config.width} must be a multiple of heads {config.heads}, depth >= 1"
            )
        if rotary and config.width // config.heads % 2:
            raise ParamsError(
                f"transformer: width {config.width} / heads {config.heads} is odd; rotary positions turn pairs: "
                "choose an even head width"
            )
        return TransformerShape(config.width, config.depth, config.heads, round(parts.rule.mlp_ratio * config.width))
    if own != (TransformerConfig.width, TransformerConfig.depth, TransformerConfig.heads):
        raise ParamsError(
            f"transformer: width, depth, heads {own} are chosen automatically at match {config.match!r}; "
            "set match to 'none' to give them, or remove them"
        )
    if min(config.n_layer, H, N, config.block_size) < 1:
        raise ParamsError(f"transformer: {config} describes no model; n_layer, n_embd, n_head, block_size must be >= 1")
    if config.match == "parameters":
        budget = bdh_parameters(D, H, N, vocab_size)
        return shape_for_parameters(budget, vocab_size, 0 if rotary else config.block_size, config.n_layer, H, parts)
    if config.match == "flops":
        window = _counted_window(config)
        operations = bdh_operations(config.n_layer, D, H, N, vocab_size, window)
        return shape_for_operations(operations, vocab_size, window, config.n_layer, H, parts)
    raise ParamsError(f"transformer: match {config.match!r}; allowed: parameters, flops, none")


def _counted_window(config: TransformerConfig) -> int:
    return min(config.window, config.block_size)


Config = TransformerConfig
Model = Transformer
