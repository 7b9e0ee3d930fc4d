"""`slim`: BDH-SLIM, a GPT whose synapses learn by gradients, by local rules, or by both in that order at every step.

LayerNorm, softmax attention, GELU, learned positions; `train.learning_rule` (backprop | hebbian | hybrid) says how the
linear maps learn:

- `local_update` is one step without any gradient: hidden maps follow Oja's rule (or Hebb's plain one), the readout
  follows the delta rule, embeddings, positions and norms keep their (random, zero, one) initial values. In Oja's
  dW = rate * mean(y x^T - y^2 W), y is what a neuron sends on: after the GELU for W_1, the output itself elsewhere.
- `after_step` is the slow plasticity of every mode: each `prune_every` steps, homeostatic scaling of incoming weights
  towards `target_activity`, then removal for good of synapses below `prune_threshold`.
- The readout is neither pruned nor scaled.
- `plastic: false` is the control of the local rules: hidden maps, embeddings and norms keep their random values under
  a readout that learns, by the delta rule or by back-propagation; nothing is pruned or scaled. What hidden maps that
  learn locally are worth is the distance to it.

With local rules alone nothing is differentiated, and the embedding keeps its random value: a rule for it one layer
down, through the readout, would not be local. Left alone, Oja's rule turns every neuron of a map into the same first
principal component, at unit length; their sum drowns the embedding in the stream, and the readout is left with little
more than the unigram distribution. Homeostasis holds that growth at `target_activity` if it is the faster of the two:
per step Oja's rule grows a neuron by at most hebbian_lr * n_embd (the squared length of a normalised input),
homeostasis shrinks it by at most a tenth.

| published name (d_model 512, n_heads 8, d_ff 1024, n_layers 6, max_len 256) | here |
|---|---|
| d_model, n_heads, n_layers | n_embd, n_head, n_layer |
| d_ff | n_embd * feed_forward_multiplier |
| max_len | block_size |

B batch, T tokens, P tokens read before, D embedding, H heads, K = D/H, L layers, V vocabulary, R = B*T rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bdh.models.base import LanguageModel, Output, State, cross_entropy
from bdh.nn.plastic import (
    INIT_STD,
    RULES,
    Past,
    PrunableLinear,
    SeededLinear,
    SlimBlock,
    Watch,
    change_histogram,
    delta_change,
    ignore,
    mean_over_ranks,
    weight_sparsity,
)
from bdh.project.errors import ParamsError, RunError

TINY: dict[str, Any] = {"n_embd": 16, "n_head": 2, "n_layer": 2, "block_size": 64, "dropout": 0.0}


@dataclass(frozen=True)
class SlimConfig:
    """Shape, and how synapses learn; defaults are the published ones where there is one.

    embedding_std: of the random token embedding; positions get a tenth. hebbian_lr: rate of the hidden maps' local
    rule. readout_lr: largest rate of the readout's delta rule. rule: oja | plain (plain grows without bound).
    prune_every: steps between prunings. prune_threshold: smallest |weight| that stays. homeostatic: scale every
    `homeostasis_every` steps towards target_activity, the mean |output| of every hidden neuron. plastic: hidden
    maps learn.
    """

    n_embd: int = 512
    n_head: int = 8
    n_layer: int = 6
    feed_forward_multiplier: int = 2
    dropout: float = 0.1
    block_size: int = 256
    embedding_std: float = 1.0
    hebbian_lr: float = 0.01
    readout_lr: float = 1.0
    rule: str = "oja"
    prune_every: int = 1000
    prune_threshold: float = 0.01
    homeostatic: bool = True
    homeostasis_every: int = 1000
    target_activity: float = 0.5
    plastic: bool = True


class Slim(LanguageModel):
    """The model of every learning rule; state `key`, `value` (B,L,H,P,K) and `position` (B,)."""

    carries_state: ClassVar[bool] = False
    training_settings: ClassVar[tuple[str, ...]] = (
        "dropout", "hebbian_lr", "readout_lr", "rule", "prune_every", "prune_threshold",
        "homeostatic", "homeostasis_every", "target_activity", "plastic",
    )  # fmt: skip
    prunes: bool = True

    def __init__(self, config: SlimConfig, vocab_size: int) -> None:
        """Draw all weights; raises ParamsError for an unknown rule or heads of a fractional size."""
        super().__init__()
        _check(config)
        self.config, self.vocab_size = config, vocab_size
        self.learning_rules = ("backprop", "hebbian", "hybrid") if config.plastic else ("backprop", "hebbian")
        self.embed = nn.Embedding(vocab_size, config.n_embd)
        self.positions = nn.Embedding(config.block_size, config.n_embd)
        nn.init.normal_(self.embed.weight, std=config.embedding_std)
        nn.init.normal_(self.positions.weight, std=config.embedding_std / 10)
        hidden = config.n_embd * config.feed_forward_multiplier
        self.blocks = nn.ModuleList(
            SlimBlock(config.n_embd, config.n_head, hidden, config.dropout) for _ in range(config.n_layer)
        )
        self.ln_f = nn.LayerNorm(config.n_embd)
        self.lm_head = SeededLinear(config.n_embd, vocab_size, INIT_STD)
        self.layers = config.n_layer

    def forward(self, tokens_BT: Tensor, targets_BT: Tensor | None = None, state: State | None = None) -> Output:
        """Logits; raises RunError when the text is longer than `block_size`."""
        h_BTD, after = self._read(tokens_BT, state)
        logits_BTV = self.lm_head(h_BTD)
        return Output(logits_BTV, cross_entropy(logits_BTV, targets_BT), after)

    def _read(
        self, tokens_BT: Tensor, state: State | None = None, watch: Watch = ignore
    ) -> tuple[Tensor, State | None]:
        reach = tokens_BT.shape[1] + (0 if state is None else state["key"].shape[3])
        if reach > self.config.block_size:
            raise RunError(f"a text of {reach} tokens is longer than block_size {self.config.block_size}; read less")
        positions_BT = torch.arange(tokens_BT.shape[1], device=tokens_BT.device)[None]
        if state is not None:
            positions_BT = positions_BT + state["position"][:, None]
        x_BTD = self.embed(tokens_BT) + self.positions(positions_BT)
        x_BTD = F.dropout(x_BTD, self.config.dropout, self.training)
        pasts: list[Past] = []
        for layer, block in enumerate(self.blocks):
            past = None if state is None else (state["key"][:, layer], state["value"][:, layer])
            x_BTD, past = block(x_BTD, layer, past, watch)
            pasts.append(past)
        if state is None:
            return self.ln_f(x_BTD), None
        key, value = (torch.stack(tensors, dim=1) for tensors in zip(*pasts, strict=True))
        after = {"key": key, "value": value, "position": state["position"] + tokens_BT.shape[1]}
        return self.ln_f(x_BTD), after

    def initial_state(self, batch_size: int) -> State:
        """An empty cache of keys and values; it grows by one entry per token."""
        config, weight = self.config, self.embed.weight
        size = (batch_size, config.n_layer, config.n_head, 0, config.n_embd // config.n_head)
        empty = torch.zeros(size, dtype=weight.dtype, device=weight.device)
        position = torch.zeros(batch_size, dtype=torch.int64, device=weight.device)
        return {"key": empty, "value": empty.clone(), "position": position}

    def max_positions(self) -> int | None:
        """As many as there are learned positions."""
        return self.config.block_size

    def flops_per_token(self, window: int) -> float:
        """Products of weights and activations, and the lower triangle of scores and values."""
        width = self.config.n_embd
        maps = (4 + 2 * self.config.feed_forward_multiplier) * 2 * width**2
        return float(self.config.n_layer * (maps + 2 * width * (window + 1)) + 2 * width * self.vocab_size)

    @torch.no_grad()
    def local_update(self, tokens_BT: Tensor, targets_BT: Tensor) -> Output:
        """Read `tokens_BT`, then change all synapses at once by local rules; logits and loss are those before.

        Rates are means over tokens, so they do not depend on the size of the batch. Runs in float32 at least.
        """
        changes: list[tuple[PrunableLinear, Tensor]] = []

        def learn(linear: PrunableLinear, x: Tensor, y: Tensor) -> None:
            rule = RULES[self.config.rule]
            changes.append((linear, rule(linear.weight, x.flatten(0, 1), y.flatten(0, 1), self.config.hebbian_lr)))

        self.latest_tokens_BT = tokens_BT
        with torch.autocast(tokens_BT.device.type, enabled=False):
            h_BTD, _ = self._read(tokens_BT, watch=learn if self.config.plastic else ignore)
            logits_BTV = self.lm_head(h_BTD)
            change_VD = delta_change(
                logits_BTV.flatten(0, 1), targets_BT.flatten(), h_BTD.flatten(0, 1), self.config.readout_lr
            )
            self.lm_head.weight.add_(change_VD)
            for linear, change_OI in changes:
                linear.add(change_OI)
        return Output(logits_BTV, cross_entropy(logits_BTV, targets_BT))

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """After training step `step` (from 1): keep pruned synapses at zero; scale and prune when it is time."""
        if not self.config.plastic:
            return
        for linear in self.synapses().values():
            linear.enforce()
        if step == 0:
            return
        if self.config.homeostatic and step % self.config.homeostasis_every == 0 and self.latest_tokens_BT is not None:
            activity = self.activity(self.latest_tokens_BT)
            for name, linear in self.synapses().items():
                linear.scale(activity[name], self.config.target_activity)
        if step % self.config.prune_every == 0:
            for linear in self.synapses().values():
                linear.prune(self.config.prune_threshold)

    def step_kind(self, step: int) -> tuple[bool, bool]:
        """Whether neurons are scaled after the step, and whether synapses are pruned."""
        config = self.config
        return config.homeostatic and step % config.homeostasis_every == 0, step % config.prune_every == 0

    @torch.no_grad()
    def activity(self, tokens_BT: Tensor) -> dict[str, Tensor]:
        """Mean magnitude of what every hidden neuron sends on `tokens_BT`, (O,) by name of its map; dropout is off."""
        return {name: mean_over_ranks(y.abs().mean((0, 1))) for name, y in self._outputs(tokens_BT).items()}

    def _outputs(self, tokens_BT: Tensor) -> dict[str, Tensor]:
        names = {linear: name for name, linear in self.synapses().items()}
        found: dict[str, Tensor] = {}

        def keep(linear: PrunableLinear, x: Tensor, y: Tensor) -> None:
            found[names[linear]] = y.to(torch.promote_types(y.dtype, torch.float32))

        training = self.training
        self.eval()
        self._read(tokens_BT, watch=keep)
        self.train(training)
        return found

    @torch.no_grad()
    def get_sparsity_stats(self, tokens_BT: Tensor) -> dict[str, Any]:
        """Sparsity after learning, ready for JSON.

        `weight_sparsity`: share of hidden synapses that carry nothing. `active_parameters`: all parameters but those.
        `neuron_activity`: per layer, the share of feed-forward outputs above zero on `tokens_BT`; `silent_neurons`:
        the share of feed-forward neurons that are never above zero there.
        """
        silent, total = weight_sparsity(self.synapses())
        hidden = [y for name, y in self._outputs(tokens_BT).items() if name.endswith("w_1")]
        return {
            "weight_sparsity": silent / total,
            "active_parameters": self.parameter_count() - silent,
            "neuron_activity": [float((u_BTN > 0).double().mean()) for u_BTN in hidden],
            "silent_neurons": [float((u_BTN <= 0).all(0).all(0).double().mean()) for u_BTN in hidden],
        }

    def weight_changes(self) -> dict[str, dict[str, Any]]:
        """Histogram of weight changes since initialisation per hidden map (edges, counts, rms, pruned)."""
        return change_histogram(self.synapses())

    def trainable_parameters(self, regime: str) -> list[tuple[str, nn.Parameter]]:
        """As for every model; of one that is not plastic the readout alone, in any regime but `none`."""
        frozen = regime != "none" and not self.config.plastic
        return super().trainable_parameters("readout" if frozen else regime)

    def synapses(self) -> dict[str, PrunableLinear]:
        """The maps that local rules, pruning and homeostasis act on, by name."""
        return {name: module for name, module in self.named_modules() if isinstance(module, PrunableLinear)}


def _check(config: SlimConfig) -> None:
    if config.n_embd % config.n_head:
        raise ParamsError(f"slim: n_embd {config.n_embd} is not a multiple of n_head {config.n_head}")
    if config.rule not in RULES:
        raise ParamsError(f"slim: unknown rule {config.rule!r}; known rules: {', '.join(RULES)}")


Config = SlimConfig
Model = Slim
