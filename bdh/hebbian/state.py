"""What the carried synaptic state is like: size, effective rank, and how long it remembers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bdh.models.base import State

PROJECTIONS = 16
DOCUMENTS = 16
EPS = 1e-12


class StateWatch:
    """Sums up the states of streams of documents as they are read.

    Norm and effective rank are taken at the end of each document (the first 16 to end), after its last window and
    before damping. Projections u^T rho v on fixed random pairs (u, v) are kept at every window boundary.
    """

    def __init__(self, last_windows: set[int], seed: int = 0) -> None:
        """`last_windows`: the windows that end a document."""
        self.last_windows = last_windows
        self.norms: list[float] = []
        self.ranks: list[float] = []
        self._projections: dict[int, np.ndarray] = {}
        self._seed = seed
        self._pairs: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}

    def take(self, windows: list[int], state: State) -> None:
        """Take in the states (rows) of the streams that have just read `windows`."""
        synaptic = [state[name] for name in sorted(state) if name.startswith(("rho", "sigma"))]
        matrices = [tensor.reshape(len(tensor), -1, *tensor.shape[-2:]) for tensor in synaptic if tensor.dim() >= 3]
        if not matrices:
            return
        projected_BP = torch.cat([self._project(matrices_BMij) for matrices_BMij in matrices], 1).cpu().numpy()
        for row, window in enumerate(windows):
            self._projections[window] = projected_BP[row]
            if window in self.last_windows and len(self.norms) < DOCUMENTS:
                self.norms.append(math.sqrt(sum(float((m[row].double() ** 2).sum()) for m in matrices)))
                self.ranks.append(float(np.mean([effective_rank(m[row]) for m in matrices])))

    def _project(self, matrices_BMij: Tensor) -> Tensor:
        B, _, rows, columns = matrices_BMij.shape
        if (rows, columns) not in self._pairs:
            generator = torch.Generator().manual_seed(self._seed)
            u_Pi = torch.randn(PROJECTIONS, rows, generator=generator).to(matrices_BMij) / math.sqrt(rows)
            v_Pj = torch.randn(PROJECTIONS, columns, generator=generator).to(matrices_BMij) / math.sqrt(columns)
            self._pairs[rows, columns] = u_Pi, v_Pj
        u_Pi, v_Pj = self._pairs[rows, columns]
        half_BMPj = torch.einsum("pi,bmij->bmpj", u_Pi, matrices_BMij)
        return (half_BMPj * v_Pj).sum(-1).reshape(B, -1).double()

    def report(self, document: np.ndarray, window: int, damping: float) -> dict[str, Any]:
        """Norm, effective rank and half-lives; `document` (W) names the document of every window.

        `half_life_tokens` follows from damping alone, ln 2 / -ln damping. `half_life_measured_tokens` is that of an
        exponential through the autocorrelation, at a lag of one window, of the projections of the state less their
        mean over all window boundaries; null where that autocorrelation is not positive. All null without a state.
        """
        correlation, pairs = self._autocorrelation(document)
        measured = None
        if correlation is not None and 0.0 < correlation < 1.0:
            measured = window * math.log(2) / -math.log(correlation)
        return {
            "norm": float(np.mean(self.norms)) if self.norms else None,
            "effective_rank": float(np.mean(self.ranks)) if self.ranks else None,
            "documents": len(self.norms),
            "half_life_tokens": half_life(damping) if self._projections else None,
            "half_life_measured_tokens": measured,
            "autocorrelation_one_window": correlation,
            "autocorrelation_pairs": pairs,
        }

    def _autocorrelation(self, document: np.ndarray) -> tuple[float | None, int]:
        windows = sorted(self._projections)
        pairs = [(w, w + 1) for w in windows if w + 1 in self._projections and document[w] == document[w + 1]]
        if len(pairs) < 8:
            return None, len(pairs)
        series_WP = np.stack([self._projections[w] for w in windows])
        mean_P = series_WP.mean(0)
        variance = float(((series_WP - mean_P) ** 2).mean())
        if variance == 0.0:
            return None, len(pairs)
        products = [((self._projections[a] - mean_P) * (self._projections[b] - mean_P)).mean() for a, b in pairs]
        return float(np.mean(products)) / variance, len(pairs)


def half_life(damping: float) -> float | None:
    """Tokens after which damping alone halves the state, None when nothing is damped."""
    return None if damping >= 1.0 else math.log(2) / -math.log(damping)


def effective_rank(matrices_Mij: Tensor) -> float:
    """exp of the entropy of normalised squared singular values (eps 1e-12), mean over the matrices."""
    small = matrices_Mij.double()
    if small.shape[-2] > small.shape[-1]:
        small = small.mT
    power_Mk = torch.linalg.eigvalsh(small @ small.mT).clamp(min=0.0)
    share_Mk = power_Mk / (power_Mk.sum(-1, keepdim=True) + EPS)
    return float(torch.exp(-(share_Mk * torch.log(share_Mk + EPS)).sum(-1)).mean())
