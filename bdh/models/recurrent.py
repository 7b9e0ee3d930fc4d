"""`recurrent`: a self-organising reservoir that reads through Hebbian synapses; as published nothing is trained.

- One layer, one head, N neurons (`n`), width D (`d`); E, Dx, Dy and token_emb are random and stay so.
- x_t = x_{t-1} + relu(Dx e) grows without bound over time: there is no decay, by design (watch `x_norm`).
- The synapses rho (D,N) are read before they are written: a = rho_{t-1} x_t, then rho_t = u (rho_{t-1} + e x_t^T).
- v = ln(E (relu(Dy ln a) * relu x)); logits = v token_emb^T, so an untrained model is worse than guessing evenly.
- x is a cumulative sum and the readout linear attention with decay, so a whole text is read in parallel.
- `truncation` above 0 trains the core (E, Dx, Dy, token_emb) by truncated back-propagation through time: gradients flow
  back over that many tokens inside a window, where the state is cut from its history. They pass through k-WTA and
  thresholds where the mask is open and nowhere else; the masks, and the number of neurons that the gain lets through,
  are not differentiated. So it is for every reservoir (`stabilized`, `neuro`).

Shape letters: B batch, T tokens, D embedding, N neurons, K synaptic kernels, V vocabulary, H = L = 1.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from bdh.models.base import GraphFactors, LanguageModel, Output, State, cross_entropy
from bdh.nn import probe
from bdh.project.errors import ParamsError
from bdh.reservoir.scan import Trace, scan
from bdh.reservoir.step import (
    ReservoirWeights,
    Rules,
    Stream,
    drawn_spikes,
    fixed_spikes,
    fresh_stream,
    stream_diagnostics,
)
from bdh.reservoir.truncation import truncated_scan

TINY = {"n": 24, "d": 8}


@dataclass(frozen=True)
class RecurrentConfig:
    """Settings of `recurrent`; names and values are those of the published code.

    n: neurons. d: width. u_decay: decay of rho per token. ln_before_Dy: Dy ln(a), else ln(Dy a). use_relu_lowrank:
    relu on the drive Dx e. unbiased_std: the LayerNorm divides by size - 1 (the published torch code; NumPy: size).
    truncation: tokens that gradients flow back over; 0: the random core is never trained.
    """

    n: int = 128
    d: int = 32
    u_decay: float = 0.97
    ln_before_Dy: bool = True
    use_relu_lowrank: bool = True
    unbiased_std: bool = True
    truncation: int = 0


class Recurrent(LanguageModel):
    """The reservoir as a language model: token_emb is both the embedding and the readout.

    E (D,N) starts as normal / sqrt N, Dx and Dy (N,D) and token_emb (V,D) as normal / sqrt D. `trains_core`: these are
    trained (`truncation` is above 0).
    """

    config: Any
    training_settings: ClassVar[tuple[str, ...]] = ("truncation",)

    def __init__(self, config: Any, vocab_size: int) -> None:
        """Random matrices from torch's generator; a core that is never trained asks for no gradient.

        `config` is the architecture's own Config, which has at least `n`, `d` and `truncation`. Raises ParamsError for
        settings that contradict each other.
        """
        super().__init__()
        if config.truncation < 0:
            raise ParamsError(f"truncation is {config.truncation}; give a number of tokens, or 0 for a fixed core")
        self.trains = self.trains_core = config.truncation > 0
        self.config, self.vocab_size = config, vocab_size
        N, D = config.n, config.d
        self.rules = self.make_rules()
        self.E = nn.Parameter(torch.randn(D, N) / N**0.5)
        self.Dx = nn.Parameter(torch.randn(N, D) / D**0.5)
        self.Dy = nn.Parameter(torch.randn(N, D) / D**0.5)
        self.token_emb = nn.Parameter(torch.randn(vocab_size, D) / D**0.5)
        self.requires_grad_(self.trains_core)

    def make_rules(self) -> Rules:
        """The dynamics that the settings stand for; raises ParamsError for contradictory ones."""
        c = self.config
        return Rules(
            kernels=(c.u_decay,),
            use_relu_lowrank=c.use_relu_lowrank,
            ln_before_Dy=c.ln_before_Dy,
            unbiased_std=c.unbiased_std,
        )

    def readout(self, v_BTD: Tensor) -> Tensor:
        """Logits (B,T,V) from v."""
        return v_BTD.to(self.token_emb.dtype) @ self.token_emb.T

    def forward(self, tokens_BT: Tensor, targets_BT: Tensor | None = None, state: State | None = None) -> Output:
        """See `LanguageModel.forward`. The core runs in float32 (float64 with float64 weights) also under autocast.

        Taps: x_sparse as stored, y_sparse and xy_sparse (the same here: y holds its gate x), gain, x_norm (Euclidean).
        """
        B, T = tokens_BT.shape
        weights = self.weights()
        stream = fresh_stream(B, weights, self.rules) if state is None else self._stream(state)
        position_B = tokens_BT.new_zeros(B) if state is None else state["position"]
        activity = self.measure_l1 or probe.watched()
        learns = any(tensor.requires_grad for tensor in (*weights, self.token_emb))
        history = nullcontext() if learns else torch.no_grad()
        with history, torch.autocast(tokens_BT.device.type, enabled=False):
            e_BTD = self.token_emb.to(weights.E.dtype)[tokens_BT]
            spikes_BTN = self._spikes(B, T, None if state is None else position_B)
            trace, stream = self._scan(weights, stream, e_BTD, spikes_BTN, activity)
        self._show(trace)
        logits_BTV = self.readout(trace.v_BTD)
        return Output(
            logits=logits_BTV,
            loss=cross_entropy(logits_BTV, targets_BT),
            state=None if state is None else self._state(stream, position_B + T),
            l1=trace.x_BTN.abs().mean() if self.measure_l1 and trace.x_BTN is not None else None,
        )

    def _scan(
        self, weights: ReservoirWeights, stream: Stream, e_BTD: Tensor, spikes_BTN: Tensor | None, activity: bool
    ) -> tuple[Trace, Stream]:
        if not self.trains_core:
            return scan(weights, self.rules, stream, e_BTD, spikes_BTN, activity)
        return truncated_scan(weights, self.rules, stream, e_BTD, spikes_BTN, self.config.truncation, activity)

    def weights(self) -> ReservoirWeights:
        """E, Dx and Dy in the precision of the core."""
        dtype = torch.float64 if self.E.dtype == torch.float64 else torch.float32
        return ReservoirWeights(self.E.to(dtype), self.Dx.to(dtype), self.Dy.to(dtype))

    def initial_state(self, batch_size: int) -> State:
        """x, y (B,N), v (B,D), rho (B,1,K,D,N; K kernels in the place of heads) and position (B,), all zero."""
        stream = fresh_stream(batch_size, self.weights(), self.rules)
        return self._state(stream, torch.zeros(batch_size, dtype=torch.int64, device=self.E.device))

    def diagnostics(self, state: State) -> dict[str, Tensor]:
        """sparsity_x, sparsity_y, rho_F, rho_eff_rank and gain of every stream (B,), as the published code has them."""
        return stream_diagnostics(self._stream(state), self.rules)

    def flops_per_token(self, window: int) -> float:
        """Of the state form, whatever the window: five products with N*D numbers (two of them per kernel), readout."""
        N, D, K = self.config.n, self.config.d, len(self.rules.decays)
        return 2.0 * N * D * (3 + 2 * K) + 2.0 * D * self.vocab_size

    def graph_factors(self) -> GraphFactors:
        """Drive of x by y through E and then Dx, H = 1: decoder = E^T (N,D), encoder = Dx^T (1,D,N)."""
        return GraphFactors(decoder=self.E.T, encoder=self.Dx.T[None])

    def trainable_parameters(self, regime: str) -> list[tuple[str, nn.Parameter]]:
        """A fixed core is never trained, whatever the regime."""
        named = super().trainable_parameters(regime)
        return named if self.trains_core else [(name, p) for name, p in named if name.startswith("lm_head")]

    def _spikes(self, batch_size: int, length: int, position_B: Tensor | None) -> Tensor | None:
        """Spikes (B,T,N), or (1,T,N) when all streams are fresh and so spike alike; None without any."""
        rate, N, device = self.rules.spike_rate, self.config.n, self.E.device
        if rate <= 0:
            return None
        if self.training:
            return drawn_spikes(batch_size, length, N, rate, device)
        start_B = torch.zeros(1, dtype=torch.int64, device=device) if position_B is None else position_B
        return fixed_spikes(start_B, length, N, rate)

    @staticmethod
    def _show(trace: Trace) -> None:
        if trace.x_BTN is not None and trace.y_BTN is not None:
            probe.tap("x_sparse", 0, trace.x_BTN[:, None])
            probe.tap("y_sparse", 0, trace.y_BTN[:, None])
            probe.tap("xy_sparse", 0, trace.y_BTN[:, None])
            probe.tap("gain", 0, trace.gain_BT)
            probe.tap("x_norm", 0, torch.linalg.vector_norm(trace.x_BTN, dim=-1))

    @staticmethod
    def _stream(state: State) -> Stream:
        return Stream(state["x"], state["y"], state["v"], state["rho"][:, 0])

    @staticmethod
    def _state(stream: Stream, position_B: Tensor) -> State:
        return {
            "x": stream.x_BN,
            "y": stream.y_BN,
            "v": stream.v_BD,
            "rho": stream.rho_BKDN[:, None],
            "position": position_B,
        }


Config = RecurrentConfig
Model = Recurrent
