"""`eq8`: BDH as its paper defines it (Definition 4, equation (8)), trained.

The parameters are those of `bdh`; what differs is the stream. Per token t, with v_{t,0} = ln(embed), x_{t,0} = 0:

    x_{t,l}   = x_{t,l-1} + relu(v_{t,l-1} encoder)                       accumulated over layers, not over time
    y_{t,l}   = relu(ln(rope(x_{t,l}) rho_{t-1,l}) encoder_v) * x_{t,l}
    rho_{t,l} = rho_{t-1,l} + rope(x_{t,l}) v_{t,l-1}^T                    read before write: strictly causal
    v_{t,l}   = ln(y_{t,l} decoder)                                       no residual path beside x

- Layer l has something to read only where layer l-1 has written something other than zero, so v_{t,l} = 0 for t < l:
  the first L tokens of a fresh stream get a uniform prediction, exactly. A residual path (`bdh`) avoids that.
- `stepwise` is these four lines, token by token; `forward` is the parallel form of the same function.
- Dropout falls on y, where `bdh` has it.

Letters: B batch, T tokens, D embedding, H heads, N neurons per head, L layers, V vocabulary.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from bdh.kernels.training.dispatch import fused_output
from bdh.models.base import Output, State, cross_entropy
from bdh.models.bdh import BDH, BDHConfig
from bdh.nn.attention import attend_chunked, attend_parallel
from bdh.nn.dropout import dropout
from bdh.nn.probe import tap
from bdh.nn.rope import rotate, rotation

TINY: dict[str, Any] = {"n_layer": 3, "n_embd": 16, "n_head": 2, "mlp_internal_dim_multiplier": 4, "dropout": 0.0}


class Eq8(BDH):
    """Definition 4; parameters, state, penalties, neuron graph and operation count are those of `bdh`."""

    carried: ClassVar[bool] = True

    def forward(self, tokens_BT: Tensor, targets_BT: Tensor | None = None, state: State | None = None) -> Output:
        """Logits B,T,V; with a state (`rho` B,L,H,N,D, `position` B) also the state after the last token."""
        trained = fused_output(self, tokens_BT, targets_BT, state, carried=self.carried)
        if trained is not None:
            return trained
        v_BTD = _norm(self.embed(tokens_BT))
        rotations = rotation(tokens_BT.shape[1], self.frequency, None if state is None else state["position"])
        x_HBTN: Tensor | None = None
        rhos: list[Tensor] = []
        activities: list[Tensor] = []
        for layer in range(self.config.n_layer):
            x_HBTN = self._accumulate(layer, x_HBTN, v_BTD)
            rho_HBND = None if state is None else state["rho"][:, layer].transpose(0, 1)
            a_HBTD, rho_HBND = self._attend(rotate(x_HBTN, *rotations), v_BTD, rho_HBND)
            v_BTD = self._answer(layer, x_HBTN, a_HBTD)
            if rho_HBND is not None:
                rhos.append(rho_HBND.transpose(0, 1))
            if self.measure_l1:
                activities.append(x_HBTN.mean(dtype=torch.promote_types(x_HBTN.dtype, torch.float32)))
        logits_BTV = v_BTD @ self.lm_head
        after = None
        if state is not None:
            after = {"rho": torch.stack(rhos, dim=1), "position": state["position"] + tokens_BT.shape[1]}
        l1 = torch.stack(activities).mean() if activities else None
        return Output(logits_BTV, cross_entropy(logits_BTV, targets_BT), after, l1)

    def _accumulate(self, layer: int, x_HBTN: Tensor | None, v_BTD: Tensor) -> Tensor:
        """x_{t,l} of all tokens: what the layers before have gathered, and relu(v encoder)."""
        v_HRD = v_BTD.flatten(0, 1).expand(self.config.n_head, -1, -1)
        gained_HBTN = F.relu(torch.bmm(v_HRD, self.encoder)).unflatten(1, v_BTD.shape[:2])
        x_HBTN = gained_HBTN if x_HBTN is None else x_HBTN + gained_HBTN
        tap("x_sparse", layer, x_HBTN.transpose(0, 1))
        return x_HBTN

    @staticmethod
    def _attend(q_HBTN: Tensor, v_BTD: Tensor, rho_HBND: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """What every token reads from the synapses that earlier tokens wrote, and the synapses after the last one."""
        if rho_HBND is None:
            return attend_parallel(q_HBTN, v_BTD)
        return attend_chunked(q_HBTN, v_BTD, rho_HBND)

    def _answer(self, layer: int, x_HBTN: Tensor, a_HBTD: Tensor) -> Tensor:
        """v_{t,l} of all tokens, B,T,D."""
        ys_HBTN = F.relu(torch.bmm(_norm(a_HBTD).flatten(1, 2), self.encoder_v)).unflatten(1, x_HBTN.shape[1:3])
        tap("y_sparse", layer, ys_HBTN.transpose(0, 1))
        y_HBTN = x_HBTN * ys_HBTN
        tap("xy_sparse", layer, y_HBTN.transpose(0, 1))
        y_HBTN = dropout(y_HBTN, self.config.dropout, self.training)
        decoder_HND = self.decoder.unflatten(0, (self.config.n_head, -1))
        return _norm(torch.bmm(y_HBTN.flatten(1, 2), decoder_HND).sum(dim=0).unflatten(0, x_HBTN.shape[1:3]))

    def stepwise(self, tokens_BT: Tensor, targets_BT: Tensor | None = None, state: State | None = None) -> Output:
        """`forward` as the definition is written, one token after another, without dropout: slow, and the truth.

        A state is returned in any case.
        """
        state = self.initial_state(len(tokens_BT)) if state is None else state
        logits = []
        for tokens_B in tokens_BT.unbind(1):
            logits_BV, state = self._step(tokens_B, state)
            logits.append(logits_BV)
        logits_BTV = torch.stack(logits, dim=1)
        return Output(logits_BTV, cross_entropy(logits_BTV, targets_BT), state)

    def _step(self, tokens_B: Tensor, state: State) -> tuple[Tensor, State]:
        """One token: the four equations, layer by layer."""
        cos_B1P, sin_B1P = rotation(1, self.frequency, state["position"])
        v_BD = _norm(self.embed(tokens_B))
        x_BHN = torch.zeros((), dtype=v_BD.dtype, device=v_BD.device)
        rhos = []
        for rho_BHND in state["rho"].unbind(1):
            x_BHN = x_BHN + F.relu(torch.einsum("bd,hdn->bhn", v_BD, self.encoder))
            q_BHN = rotate(x_BHN, cos_B1P, sin_B1P)
            a_BHD = _norm(torch.einsum("bhn,bhnd->bhd", q_BHN, rho_BHND))
            y_BHN = F.relu(torch.einsum("bhd,hdn->bhn", a_BHD, self.encoder_v)) * x_BHN
            rhos.append(rho_BHND + torch.einsum("bhn,bd->bhnd", q_BHN, v_BD))
            v_BD = _norm(y_BHN.flatten(1) @ self.decoder)
        return v_BD @ self.lm_head, {"rho": torch.stack(rhos, dim=1), "position": state["position"] + 1}


def _norm(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:])


Config = BDHConfig
Model = Eq8
