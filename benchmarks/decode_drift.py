"""What rounding does to the state over a long text: our storage beside bfloat16 and float64, on the same activations.

The decoder reads a text token by token. Whenever its window is full, the rounded q and x that wait in it are also
added to a float64 state (the truth for these inputs), to a bfloat16 state token by token and to a bfloat16 state once
per window; only the storage differs. Beside it the logits are compared with the model in float64 from end to end.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bdh.kernels.decoding.decoder import Decoder
from bdh.models.base import LanguageModel


class Copies:
    """States (N,D) of head 0 of stream 0 in one layer, stored in other ways."""

    def __init__(self, decoder: Decoder, layer: int) -> None:
        self.memory, self.layer = decoder.memory, layer
        shape, device = decoder.memory.high.shape[-2:], decoder.memory.high.device
        self.exact = torch.zeros(shape, dtype=torch.float64, device=device)
        self.each_token = torch.zeros(shape, dtype=torch.bfloat16, device=device)
        self.each_window = torch.zeros(shape, dtype=torch.bfloat16, device=device)

    def fold(self) -> None:
        """Add what waits in the window to every copy."""
        q_NC, x_CD = self.memory.window_q[0, self.layer, 0], self.memory.window_x[0, self.layer]
        self.exact += q_NC.double() @ x_CD.double()
        self.each_window += q_NC.float() @ x_CD.float()
        for q_N, x_D in zip(q_NC.unbind(1), x_CD, strict=True):
            self.each_token += q_N.float()[:, None] * x_D.float()

    def errors(self, query_N: Tensor) -> dict[str, float]:
        """Relative errors of state and of what `query_N` reads; call it right after the decoder has folded."""
        ours = self.memory.layer(self.layer)[0, 0].double()
        stored = {
            "float32": ours,
            "float32_read_as_stored": self.memory.high[0, self.layer, 0].double(),
            "bfloat16_each_window": self.each_window.double(),
            "bfloat16_each_token": self.each_token.double(),
        }
        query, found = query_N.double(), {}
        for name, rho_ND in stored.items():
            found[f"state_{name}"] = _relative(rho_ND, self.exact)
            found[f"read_{name}"] = _relative(query @ rho_ND, query @ self.exact)
        return found


@torch.no_grad()
def drift(model: LanguageModel, text: Tensor, tokens: int) -> list[dict[str, float]]:
    """One entry per checkpoint (about four per decade) and layer; prints them. The text is repeated if it is short."""
    decoder = Decoder(model)
    memory = decoder.memory
    device, window = memory.high.device, memory.window
    text = text.repeat(tokens // len(text) + 1)[:tokens].to(device)
    decoder.start([text[:1].tolist()])
    layers = sorted({0, memory.high.shape[1] // 2, memory.high.shape[1] - 1})
    copies = {layer: Copies(decoder, layer) for layer in layers}
    wanted = {max(1, round(10 ** (step / 4) / window)) * window for step in range(4, 21)}
    truth, found, kept = _Truth(model), [], []
    for count, token in enumerate(text.split(1), start=1):
        kept.append(decoder.feed(token)[0])
        if count % window:
            continue
        queries = {layer: memory.window_q[0, layer, 0, :, -1].clone() for layer in layers}
        for copy in copies.values():
            copy.fold()
        decoder.fold()
        exact = truth.read(text[count - window : count])
        if count in wanted or count + window > tokens:
            logits = _relative(torch.stack(kept).double(), exact)
            for layer in layers:
                found.append({"tokens": count, "layer": layer, "logits": logits} | copies[layer].errors(queries[layer]))
                print({name: float(f"{value:.3g}") for name, value in found[-1].items()}, flush=True)
        kept = []
    return found


class _Truth:
    """The model in float64, reading the same text with its own state."""

    def __init__(self, model: LanguageModel) -> None:
        import copy

        self.model = copy.deepcopy(model).double().eval()
        self.state = self.model.initial_state(1)

    def read(self, tokens_T: Tensor) -> Tensor:
        """Logits T,V."""
        output = self.model(tokens_T[None], state=self.state)
        self.state = output.state
        return output.logits[0]


def _relative(found: Tensor, exact: Tensor) -> float:
    return float((found - exact).norm() / exact.norm().clamp_min(1e-300))
