"""The coactivation state of the two-stage protocol, exact and never materialised.

The reference keeps per layer and head an N x N matrix: sigma <- damping * sigma + eta * c c^T after every update, with
c the mean of x_sparse over batch and time. Being a sum of rank-one terms it is known from its c vectors:

    <sigma_t, sigma_u> = eta^2 sum_{s<=t, r<=u} damping^(t-s) damping^(u-r) (c_s . c_r)^2
    sum of entries     = eta   sum_{s<=t}       damping^(t-s) (sum_i c_s[i])^2

Over several layers and heads together both are sums over layers and heads. U updates, L layers, H heads, N neurons
per head, S snapshots.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from bdh.project.errors import RunError
from bdh.project.files import replacing


@dataclass(frozen=True)
class Coactivation:
    """c vectors of consecutive updates and the rule that makes sigma of them.

    codes: U,L,H,N. tokens: U, tokens read until after each update. document: U, row of the held-out documents.
    """

    codes: np.ndarray
    tokens: np.ndarray
    document: np.ndarray
    damping: float
    eta: float
    snapshot_every: int

    @property
    def entries(self) -> int:
        """Entries of all sigma matrices together, L*H*N*N."""
        _, layers, heads, neurons = self.codes.shape
        return layers * heads * neurons * neurons

    def snapshots(self) -> np.ndarray:
        """Updates after which a snapshot is taken (S): the first one at or past every multiple of `snapshot_every`."""
        passed = self.tokens // self.snapshot_every
        return np.flatnonzero(np.diff(passed, prepend=0) > 0)

    def kernel(self) -> np.ndarray:
        """<c_s c_s^T, c_r c_r^T> summed over layers and heads (U,U), the squares of the dot products of codes."""
        total = np.zeros((len(self.codes), len(self.codes)))
        for layer in range(self.codes.shape[1]):
            for head in range(self.codes.shape[2]):
                code_UN = self.codes[:, layer, head].astype(np.float64)
                total += (code_UN @ code_UN.T) ** 2
        return total


def decay_weights(updates: int, snapshots: np.ndarray, damping: float, eta: float) -> np.ndarray:
    """Weight eta * damping^(t-s) of update s in the state after update t, zero for s > t (S,U)."""
    age = snapshots[:, None] - np.arange(updates)[None, :]
    return np.where(age >= 0, eta * damping ** np.maximum(age, 0).astype(np.float64), 0.0)


def inner_products(state: Coactivation, snapshots: np.ndarray, kernel: np.ndarray | None = None) -> np.ndarray:
    """<sigma_t, sigma_u> over all layers and heads together (S,S)."""
    kernel_UU = state.kernel() if kernel is None else kernel
    weights_SU = decay_weights(len(kernel_UU), snapshots, state.damping, state.eta)
    return weights_SU @ kernel_UU @ weights_SU.T


def sums(state: Coactivation, snapshots: np.ndarray) -> np.ndarray:
    """Sum of the entries of sigma over all layers and heads together (S)."""
    mass_U = (state.codes.sum(-1, dtype=np.float64) ** 2).sum((1, 2))
    return decay_weights(len(mass_U), snapshots, state.damping, state.eta) @ mass_U


def pearson(products: np.ndarray, totals: np.ndarray, entries: int) -> np.ndarray:
    """Pearson correlation between the entries of snapshots (S,S) from `inner_products`, `sums` and their number.

    A snapshot without variance correlates with nothing: 0.
    """
    covariance = products - np.outer(totals, totals) / entries
    deviation = np.sqrt(np.clip(np.diag(covariance), 0.0, None))
    return _ratio(covariance, np.outer(deviation, deviation))


def cosine(products: np.ndarray) -> np.ndarray:
    """Cosine between snapshots (S,S); an empty snapshot is similar to nothing: 0."""
    norm = np.sqrt(np.clip(np.diag(products), 0.0, None))
    return _ratio(products, np.outer(norm, norm))


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.divide(above, below, out=np.zeros_like(above), where=below > 0)


def save(path: Path, state: Coactivation | None, window: int) -> None:
    """Write c vectors and their rule; without a state (a variant that taps no x_sparse) the rule alone."""
    tensors: dict[str, np.ndarray] = {"tokens": np.zeros(0, dtype=np.int64)}
    rule: dict[str, float] = {"window": window}
    if state is not None:
        tensors = {
            "codes": np.ascontiguousarray(state.codes, dtype=np.float32),
            "tokens": np.ascontiguousarray(state.tokens, dtype=np.int64),
            "document": np.ascontiguousarray(state.document, dtype=np.int64),
        }
        rule |= {"damping": state.damping, "eta": state.eta, "snapshot_every": state.snapshot_every}
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata={"rule": json.dumps(rule)})


def load(path: Path) -> tuple[Coactivation | None, int]:
    """What `save` wrote and the window; raises RunError when the file is missing or damaged."""
    try:
        with safe_open(path, framework="numpy") as file:
            rule = json.loads(file.metadata()["rule"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        window = int(rule.pop("window"))
        state = Coactivation(**tensors, **rule) if rule else None
    except FileNotFoundError:
        raise RunError(f"{path} is missing; `dvc repro` makes it") from None
    except Exception as error:
        raise RunError(f"{path} is damaged ({type(error).__name__}); delete it and run `dvc repro`") from None
    return state, window
