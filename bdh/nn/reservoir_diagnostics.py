"""What the published code of the reservoirs prints after every token, for B streams at once.

Shape letters: B batch (independent streams), D embedding, N neurons, K synaptic kernels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bdh.nn.reservoir import Rules, Stream, write_gain

EPSILON = 1e-12


def effective_rank(matrix_BDN: Tensor) -> Tensor:
    """exp of the entropy of the normalised squared singular values of every matrix (B,)."""
    power_BR = torch.linalg.svdvals(matrix_BDN) ** 2
    share_BR = power_BR / (power_BR.sum(-1, keepdim=True) + EPSILON)
    return (-(share_BR * (share_BR + EPSILON).log()).sum(-1)).exp()


@torch.no_grad()
def stream_diagnostics(stream: Stream, rules: Rules) -> dict[str, Tensor]:
    """sparsity_x and sparsity_y (share of exact zeros), rho_F (Frobenius norm), rho_eff_rank and gain, each (B,).

    With separate kernels rho is their weighted sum, which is what the readout sees.
    """
    rho_BDN = torch.einsum("bkdn,k->bdn", stream.rho_BKDN, stream.rho_BKDN.new_tensor(rules.read_weights))
    return {
        "sparsity_x": (stream.x_BN == 0).to(rho_BDN.dtype).mean(-1),
        "sparsity_y": (stream.y_BN == 0).to(rho_BDN.dtype).mean(-1),
        "rho_F": torch.linalg.matrix_norm(rho_BDN),
        "rho_eff_rank": effective_rank(rho_BDN),
        "gain": write_gain(stream.v_BD, rules),
    }
