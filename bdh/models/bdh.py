"""BDH as published in code (BDH-GPU): L layers that share their weights, H heads of N neurons.

- Positive, sparse activations of many neurons (N >> D) through relu; no bias and no affine norm anywhere.
- Linear attention in neuron space, strictly causal: keys and queries are the same rotated activations, values are the
  residual stream, there is no softmax and no scale.
- The same function in two forms: parallel (quadratic in T, for training) and with a synaptic state
  `rho` = sum over earlier tokens of q x^T, of constant size, for reading on without limit.
- Parameter names are those of the official model (`encoder` D_x, `encoder_v` D_y, `decoder` E of the paper); its
  checkpoints load by name.
- Trained on a GPU in bfloat16, the layers run as fused kernels (`training_pass`, `bdh.kernels.training.step`); what
  `forward` does is the reference for them, and runs everywhere else.
- Inside, the head is the first dimension (H,B,T,N): every product is then a batch of plain ones without a transpose.

| parameter | shape | init |
|---|---|---|
| encoder, encoder_v | H,D,N | normal(0, .02) |
| decoder | H*N,D | normal(0, .02) |
| embed.weight | V,D | normal(0, .02) |
| lm_head | D,V | normal(0, .02) |

Letters: B batch, T tokens, D embedding, H heads, N neurons per head, L layers, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bdh.kernels.decoding.memory import DecodingWeights
from bdh.kernels.training.dispatch import LayerStack, chooses_fused, fused_loss, refuse_fused
from bdh.kernels.training.shape import DEFAULT, Tuning
from bdh.models.base import GraphFactors, LanguageModel, Output, State, cross_entropy
from bdh.nn.attention import attend_chunked, attend_parallel
from bdh.nn.counts import bdh_neurons, bdh_operations
from bdh.nn.dropout import dropout
from bdh.nn.probe import tap
from bdh.nn.rope import neuron_frequencies, pair_frequencies, rotate, rotation
from bdh.project.errors import ParamsError

TINY: dict[str, Any] = {"n_layer": 2, "n_embd": 16, "n_head": 2, "mlp_internal_dim_multiplier": 4, "dropout": 0.0}
COMPILED_PREFIX = "_orig_mod."
OFFICIAL_BUFFER = "attn.freqs"


@dataclass(frozen=True)
class BDHConfig:
    """Shape of the model, in the names and with the defaults of the official one.

    n_layer: L. n_embd: D. n_head: H. mlp_internal_dim_multiplier: N = this * D // H neurons per head.
    dropout: share of gated neurons dropped in training.
    """

    n_layer: int = 6
    n_embd: int = 256
    n_head: int = 4
    mlp_internal_dim_multiplier: int = 128
    dropout: float = 0.1


class BDH(LanguageModel):
    """The official model; see the head of this file.

    `kernel` chooses how it trains: `auto`, `plain` or `fused` (`bdh.kernels.training.dispatch`); `tuning` holds what
    may be tuned there. `carried`: activations add up over layers and there is no residual stream (`eq8`).
    """

    carried: ClassVar[bool] = False
    tuning: Tuning = DEFAULT
    frequency: Tensor

    def __init__(self, config: BDHConfig, vocab_size: int) -> None:
        """Draw all weights from normal(0, .02); raises ParamsError for a shape that cannot be built."""
        super().__init__()
        D, H = config.n_embd, config.n_head
        N = bdh_neurons(D, H, config.mlp_internal_dim_multiplier)
        if min(config.n_layer, D, H, N) < 1 or N % 2 or not 0.0 <= config.dropout < 1.0:
            raise ParamsError(
                f"bdh: {config} gives {N} neurons per head (multiplier * n_embd // n_head); "
                "they must be an even number above 0, n_layer at least 1 and dropout in [0, 1)"
            )
        self.config = config
        self.vocab_size, self.layers = vocab_size, config.n_layer
        self.decoder = _weights(H * N, D)
        self.encoder = _weights(H, D, N)
        self.encoder_v = _weights(H, D, N)
        self.embed = nn.Embedding(vocab_size, D)
        nn.init.normal_(self.embed.weight, std=0.02)
        self.lm_head = _weights(D, vocab_size)
        self.register_buffer("frequency", pair_frequencies(N), persistent=False)
        self.register_load_state_dict_pre_hook(accept_official)

    def forward(self, tokens_BT: Tensor, targets_BT: Tensor | None = None, state: State | None = None) -> Output:
        """Logits B,T,V; with a state (`rho` B,L,H,N,D, `position` B) also the state after the last token."""
        x_BTD = _norm(self.embed(tokens_BT))
        cos, sin = rotation(tokens_BT.shape[1], self.frequency, None if state is None else state["position"])
        rhos: list[Tensor] = []
        activities: list[Tensor] = []
        for layer in range(self.config.n_layer):
            rho_HBND = None if state is None else state["rho"][:, layer].transpose(0, 1)
            x_BTD, rho_HBND, xs_HBTN = self._layer(layer, x_BTD, cos, sin, rho_HBND)
            if rho_HBND is not None:
                rhos.append(rho_HBND.transpose(0, 1))
            if self.measure_l1:
                activities.append(xs_HBTN.mean(dtype=torch.promote_types(xs_HBTN.dtype, torch.float32)))
        logits_BTV = x_BTD @ self.lm_head
        after = None
        if state is not None:
            after = {"rho": torch.stack(rhos, dim=1), "position": state["position"] + tokens_BT.shape[1]}
        l1 = torch.stack(activities).mean() if activities else None
        return Output(logits=logits_BTV, loss=cross_entropy(logits_BTV, targets_BT), state=after, l1=l1)

    def training_pass(self, tokens_BT: Tensor, targets_BT: Tensor, state: State | None = None) -> Output:
        """Fused kernels where `kernel` wants them and they run: a `total` and no logits (B,0,V). Else `forward`.

        The kernels take no state: with one it is always `forward`.
        """
        if state is not None:
            refuse_fused(self.kernel)
            return self(tokens_BT, targets_BT, state)
        trained = self._fused_pass(tokens_BT, targets_BT)
        return self(tokens_BT, targets_BT) if trained is None else trained

    @torch.compiler.disable
    def _fused_pass(self, tokens_BT: Tensor, targets_BT: Tensor) -> Output | None:
        """The pass through the fused layers, None where the plain path has to run; never compiled."""
        if not chooses_fused(self.kernel, self.training, self.encoder):
            return None
        x_BTD = _norm(self.embed(tokens_BT))
        stack = LayerStack(
            *(self.encoder, self.encoder_v, self.decoder, self.lm_head),
            layers=self.layers,
            carried=self.carried,
            dropout=self.config.dropout if self.training else 0.0,
            measure_l1=self.measure_l1,
            l1_weight=self.l1_weight,
            tuning=self.tuning,
        )
        found = fused_loss(self, stack, x_BTD, targets_BT)
        return Output(x_BTD.new_empty(len(x_BTD), 0, self.vocab_size), found.loss, None, found.l1, found.total)

    def is_recordable(self) -> bool:
        """Not where the fused layers train: they record themselves, and draw the seeds of dropout on the CPU."""
        return not chooses_fused(self.kernel, self.training, self.encoder)

    def _layer(
        self, layer: int, x_BTD: Tensor, cos: Tensor, sin: Tensor, rho_HBND: Tensor | None
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """One layer: the residual stream and the state after it, and x_sparse (H,B,T,N)."""
        H, B, T = self.config.n_head, *x_BTD.shape[:2]
        xs_HBTN = F.relu(torch.bmm(x_BTD.flatten(0, 1).expand(H, -1, -1), self.encoder)).unflatten(1, (B, T))
        tap("x_sparse", layer, xs_HBTN.transpose(0, 1))
        q_HBTN = rotate(xs_HBTN, cos, sin)
        if rho_HBND is None:
            a_HBTD, _ = attend_parallel(q_HBTN, x_BTD)
        else:
            a_HBTD, rho_HBND = attend_chunked(q_HBTN, x_BTD, rho_HBND)
        ys_HBTN = F.relu(torch.bmm(_norm(a_HBTD).flatten(1, 2), self.encoder_v)).unflatten(1, (B, T))
        tap("y_sparse", layer, ys_HBTN.transpose(0, 1))
        xy_HBTN = xs_HBTN * ys_HBTN
        tap("xy_sparse", layer, xy_HBTN.transpose(0, 1))
        xy_HBTN = dropout(xy_HBTN, self.config.dropout, self.training)
        decoder_HND = self.decoder.unflatten(0, (H, -1))
        y_BTD = torch.bmm(xy_HBTN.flatten(1, 2), decoder_HND).sum(dim=0).unflatten(0, (B, T))
        return _norm(x_BTD + _norm(y_BTD)), rho_HBND, xs_HBTN

    def initial_state(self, batch_size: int) -> State:
        """`rho` (B,L,H,N,D) of zeros in float32, or float64 for a float64 model; `position` (B,) 0."""
        H, D, N = self.encoder.shape
        dtype = torch.promote_types(self.encoder.dtype, torch.float32)
        device = self.encoder.device
        return {
            "rho": torch.zeros(batch_size, self.config.n_layer, H, N, D, dtype=dtype, device=device),
            "position": torch.zeros(batch_size, dtype=torch.int64, device=device),
        }

    def flops_per_token(self, window: int) -> float:
        """Forward operations per token of the parallel form; the formula is in `bdh.nn.counts.bdh_operations`."""
        H, D, N = self.encoder.shape
        return bdh_operations(self.config.n_layer, D, H, N, self.vocab_size, window)

    def graph_factors(self) -> GraphFactors:
        """The neuron graph `decoder @ encoder`, columns ordered h*N + n."""
        return GraphFactors(decoder=self.decoder, encoder=self.encoder)

    @torch.no_grad()
    def decoding_weights(self) -> DecodingWeights:
        """What the fast decoder reads; weights that are wide already share the model's memory, not the embedding."""
        wide = torch.promote_types(self.encoder.dtype, torch.float32)
        return DecodingWeights(
            encoder=self.encoder.detach().to(wide),
            encoder_v=self.encoder_v.detach().to(wide),
            decoder=self.decoder.detach().to(wide).unflatten(0, (self.config.n_head, -1)),
            embed=_norm(self.embed.weight.detach().to(wide)),
            lm_head=self.lm_head.detach().to(wide),
            frequency=self.frequency,
            layers=self.layers,
            accumulates=self.carried,
        )

    def l21_penalty(self) -> Tensor:
        """Mean column norm of encoder and of encoder_v plus mean row norm of decoder, norms over D; differentiable."""
        encoder_HN = torch.linalg.vector_norm(self.encoder, dim=1)
        encoder_v_HN = torch.linalg.vector_norm(self.encoder_v, dim=1)
        return encoder_HN.mean() + torch.linalg.vector_norm(self.decoder, dim=1).mean() + encoder_v_HN.mean()


def accept_official(
    module: nn.Module,
    state_dict: dict[str, Tensor],
    prefix: str,
    local_metadata: dict[str, Any],
    strict: bool,
    missing_keys: list[str],
    unexpected_keys: list[str],
    error_msgs: list[str],
) -> None:
    """Before loading: drop the prefix that torch.compile adds, and the official rotary buffer once it is checked.

    The arguments are those of a `load_state_dict` pre-hook. A buffer that differs from our frequencies (another N,
    another base) becomes one of the errors that `load_state_dict` raises.
    """
    for name in [name for name in state_dict if name.startswith(prefix + COMPILED_PREFIX)]:
        state_dict[prefix + name.removeprefix(prefix + COMPILED_PREFIX)] = state_dict.pop(name)
    theirs = state_dict.pop(prefix + OFFICIAL_BUFFER, None)
    if theirs is None:
        return
    ours = neuron_frequencies(module.get_buffer("frequency"))
    if theirs.numel() != ours.numel() or not torch.allclose(theirs.flatten().to(ours), ours, rtol=1e-6, atol=0.0):
        error_msgs.append(f"{prefix}{OFFICIAL_BUFFER}: not the rotary frequencies of {ours.numel()} neurons per head")


def _weights(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.empty(shape).normal_(std=0.02))


def _norm(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:])


Config = BDHConfig
Model = BDH
