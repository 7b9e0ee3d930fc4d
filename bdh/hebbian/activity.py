"""Watch activations while text is read: density, neurons that never fire, density per token, mean code per window."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from bdh.hebbian.held_out import HeldOut

SPARSE = "_sparse"
CODE = "x_sparse"
CODES = (CODE, "k_sparse")


class Activity:
    """A listener of `bdh.nn.probe` that keeps sums over the scored tokens of `text`, never the activations.

    Taps whose name ends in `_sparse` (B,H,T,N or B,T,N) count non-zeros; of any other tap (B,T,...) the mean is kept.
    `per_token`: also keep the density of every sparse tap at every token. `codes`: also keep c, the mean
    over the tokens of each of the first `codes` windows of `x_sparse`, or of the rectified keys `k_sparse` of a model
    whose synapses are written by those; no model taps both.
    """

    def __init__(self, text: HeldOut, *, per_token: bool = False, codes: int = 0) -> None:
        """Counts start at zero."""
        self.text = text
        self.per_token = per_token
        self.keep_codes = codes
        self._nonzero: dict[tuple[str, int], Tensor] = {}
        self._entries: dict[tuple[str, int], float] = {}
        self._fired: dict[tuple[str, int], Tensor] = {}
        self._sum: dict[tuple[str, int], Tensor] = {}
        self._token_density: dict[tuple[str, int], np.ndarray] = {}
        self._codes: dict[int, np.ndarray] = {}
        self._seen: dict[tuple[str, int], int] = {}
        self._windows: Sequence[int] = ()
        self._scored_BT = torch.zeros(0, 0, dtype=torch.bool)
        self._places = np.zeros(0, dtype=np.int64)

    def expect(self, windows: Sequence[int], scored_BT: Tensor, places: np.ndarray) -> None:
        """Say what the next call reads: its windows, which tokens count, and their places in `text` row by row."""
        self._windows, self._scored_BT, self._places = windows, scored_BT, places
        self._seen = {}

    def __call__(self, name: str, layer: int, tensor: Tensor) -> None:
        """Take in one tapped tensor; a model may show the tokens of one call in several consecutive pieces."""
        tap = (name, layer)
        sparse = name.endswith(SPARSE)
        time = tensor.dim() - 2 if sparse else 1
        start = self._seen.get(tap, 0)
        self._seen[tap] = start + tensor.shape[time]
        scored_BT = self._scored_BT[:, start : start + tensor.shape[time]]
        if sparse:
            x_BHTN = tensor if tensor.dim() == 4 else tensor.unsqueeze(1)
            self._count(tap, x_BHTN, scored_BT, start)
        else:
            rest = tensor.float().flatten(2).mean(2) if tensor.dim() > 2 else tensor.float()
            self._add(tap, (rest * scored_BT).sum(), float(scored_BT.sum()), self._sum)

    def _add(self, tap: tuple[str, int], amount: Tensor, entries: float, into: dict[tuple[str, int], Tensor]) -> None:
        into[tap] = into[tap] + amount if tap in into else amount
        self._entries[tap] = self._entries.get(tap, 0.0) + entries

    def _count(self, tap: tuple[str, int], x_BHTN: Tensor, scored_BT: Tensor, start: int) -> None:
        active_BHTN = (x_BHTN != 0) & scored_BT[:, None, :, None]
        count_BT = active_BHTN.sum((1, 3))
        neurons = x_BHTN.shape[1] * x_BHTN.shape[3]
        self._add(tap, count_BT.sum(), neurons * float(scored_BT.sum()), self._nonzero)
        fired_HN = active_BHTN.any(2).any(0)
        self._fired[tap] = self._fired[tap] | fired_HN if tap in self._fired else fired_HN
        if self.per_token:
            density = self._token_density.setdefault(tap, np.full(self.text.scored, np.nan, dtype=np.float32))
            density[self._piece(start, scored_BT)] = (count_BT[scored_BT].float() / neurons).cpu().numpy()
        if tap[0] in CODES and min(self._windows) < self.keep_codes:
            self._add_codes(tap[1], x_BHTN, scored_BT)

    def _piece(self, start: int, scored_BT: Tensor) -> np.ndarray:
        """Places of the scored tokens of one piece of a call, row by row."""
        whole = self._scored_BT.cpu().numpy()
        places_BT = np.zeros(whole.shape, dtype=np.int64)
        places_BT[whole] = self._places
        return places_BT[:, start : start + scored_BT.shape[1]][scored_BT.cpu().numpy()]

    def _add_codes(self, layer: int, x_BHTN: Tensor, scored_BT: Tensor) -> None:
        _, H, _, N = x_BHTN.shape
        codes_WHN = self._codes.setdefault(
            layer, np.zeros((min(self.keep_codes, self.text.windows), H, N), dtype=np.float32)
        )
        lengths_B = self._scored_BT.sum(1).clamp(min=1).float()
        sum_BHN = torch.einsum("bhtn,bt->bhn", x_BHTN.float(), scored_BT.float())
        for window, code_HN in zip(self._windows, (sum_BHN / lengths_B[:, None, None]).cpu().numpy(), strict=True):
            if window < self.keep_codes:
                codes_WHN[window] += code_HN

    def density(self) -> dict[str, dict]:
        """Per sparse tap: `mean` over layers and `layers`, the share of non-zero activations in each."""
        return self._by_tap({tap: float(count) / self._entries[tap] for tap, count in self._nonzero.items()})

    def means(self) -> dict[str, dict]:
        """Per other tap: `mean` over layers and `layers`, its mean in each."""
        return self._by_tap({tap: float(total) / self._entries[tap] for tap, total in self._sum.items()})

    def never_active(self) -> dict[str, dict]:
        """Per sparse tap: `mean` over layers and `layers`, the share of neurons that were zero at every token."""
        return self._by_tap({tap: 1.0 - float(fired.float().mean()) for tap, fired in self._fired.items()})

    def token_density(self, name: str) -> np.ndarray | None:
        """Density of a tap at every scored token (L,P), None when the tap was not seen."""
        layers = [density for (tap, _), density in sorted(self._token_density.items()) if tap == name]
        return np.stack(layers) if layers else None

    def codes(self) -> np.ndarray | None:
        """c vectors (W,L,H,N) of the first windows in the order of the text, None when no tap of `CODES` was seen."""
        if not self._codes:
            return None
        return np.stack([self._codes[layer] for layer in sorted(self._codes)], axis=1)

    def taps(self) -> list[str]:
        """Names of the sparse taps that were seen."""
        return sorted({name for name, _ in self._nonzero})

    @staticmethod
    def _by_tap(values: dict[tuple[str, int], float]) -> dict[str, dict]:
        found: dict[str, dict] = {}
        for (name, _), value in sorted(values.items()):
            found.setdefault(name, {"mean": 0.0, "layers": []})["layers"].append(value)
        for entry in found.values():
            entry["mean"] = float(np.mean(entry["layers"]))
        return found
