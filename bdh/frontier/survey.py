"""Read held-out text once with a model and keep what the metrics need of it.

Watch single tokens while text is read: projections of the synaptic update, and activations of chosen neurons.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import numpy as np
import torch
from torch import Tensor

from bdh.frontier.mcl import Activations
from bdh.frontier.sec import Reading
from bdh.frontier.sps import Updates
from bdh.hebbian.activity import CODE, Activity
from bdh.hebbian.arms import read_static
from bdh.hebbian.coactivation import Coactivation
from bdh.hebbian.held_out import HeldOut
from bdh.hebbian.reader import Reader
from bdh.models.base import LanguageModel

PROJECTIONS = 8
HIDDEN = ("xy_sparse", "y_sparse", "mlp_sparse", CODE)
PER_LAYER = MOST_NEURONS = 512


class TokenListener(Protocol):
    """Takes in activations x_MHN of M scored tokens, whose places in the text are `places` (M)."""

    def wants(self, name: str) -> bool:
        """Whether the tap `name` is of interest."""

    def take(self, name: str, layer: int, x_MHN: Tensor, places: np.ndarray) -> None:
        """See the class."""


class Tokens:
    """A listener of `bdh.nn.probe` that hands the activations of every scored token to `listeners`."""

    def __init__(self, listeners: Sequence[TokenListener]) -> None:
        """Nothing is seen yet."""
        self.listeners = listeners
        self._places_BT = np.zeros((0, 0), dtype=np.int64)
        self._read: dict[tuple[str, int], int] = {}

    def expect(self, windows: Sequence[int], scored_BT: Tensor, places: np.ndarray) -> None:
        """As `Activity.expect`."""
        self._places_BT = np.full(scored_BT.shape, -1, dtype=np.int64)
        self._places_BT[scored_BT.cpu().numpy()] = places
        self._read = {}

    def __call__(self, name: str, layer: int, tensor: Tensor) -> None:
        """Take in one tapped tensor; a model may show the tokens of one call in several consecutive pieces."""
        wanting = [listener for listener in self.listeners if listener.wants(name)]
        if not wanting:
            return
        x_BTHN = tensor.transpose(1, 2) if tensor.dim() == 4 else tensor.unsqueeze(2)
        start = self._read.get((name, layer), 0)
        self._read[name, layer] = start + x_BTHN.shape[1]
        places_BT = self._places_BT[:, start : start + x_BTHN.shape[1]]
        scored = places_BT >= 0
        x_MHN = x_BTHN.flatten(0, 1) if scored.all() else x_BTHN[torch.from_numpy(scored).to(tensor.device)]
        for listener in wanting:
            listener.take(name, layer, x_MHN, places_BT[scored])


class Watch(Activity):
    """An `Activity` with the density of every token, that also hands tokens to listeners."""

    def __init__(self, text: HeldOut, *, codes: int = 0, listeners: Sequence[TokenListener] = ()) -> None:
        """`codes` as in `Activity`."""
        super().__init__(text, per_token=True, codes=codes)
        self._tokens = Tokens(listeners)

    def expect(self, windows: Sequence[int], scored_BT: Tensor, places: np.ndarray) -> None:
        """As in `Activity`."""
        super().expect(windows, scored_BT, places)
        self._tokens.expect(windows, scored_BT, places)

    def __call__(self, name: str, layer: int, tensor: Tensor) -> None:
        """As in `Activity`."""
        super().__call__(name, layer, tensor)
        self._tokens(name, layer, tensor)


class Projections:
    """Random projections of the synaptic update of every token, before any damping.

    The update x_t x_t^T of a head (`x_sparse`) is projected on a rank-one matrix a b^T of independent normal numbers:
    (a . x_t)(b . x_t), summed over layers and heads. 8 projections; equal seeds give equal a, b.
    """

    def __init__(self, text: HeldOut, seed: int = 0) -> None:
        """Nothing is seen yet."""
        self._series_PK = np.zeros((text.scored, PROJECTIONS))
        self._seed = seed
        self._weights: dict[int, Tensor] = {}
        self._seen = False

    def wants(self, name: str) -> bool:
        """See `TokenListener`."""
        return name == CODE

    def take(self, name: str, layer: int, x_MHN: Tensor, places: np.ndarray) -> None:
        """See `TokenListener`."""
        self._seen = True
        if layer not in self._weights:
            generator = torch.Generator().manual_seed(1000 * self._seed + layer)
            shape = (*x_MHN.shape[1:], 2 * PROJECTIONS)
            self._weights[layer] = torch.randn(shape, generator=generator).to(x_MHN.device)
        ab_MHR = torch.einsum("mhn,hnr->mhr", x_MHN.float(), self._weights[layer])
        update_MK = (ab_MHR[..., :PROJECTIONS] * ab_MHR[..., PROJECTIONS:]).sum(1)
        self._series_PK[places] += update_MK.double().cpu().numpy()

    def series(self) -> np.ndarray | None:
        """The projections in the order of the text (K,P), None when `x_sparse` was not seen."""
        return self._series_PK.T if self._seen else None


class Neurons:
    """Activations of up to 512 neurons per layer at chosen tokens, of the innermost code that the model taps.

    The first of xy_sparse, y_sparse, mlp_sparse, x_sparse that is seen. places: M, the tokens wanted.
    """

    def __init__(self, text: HeldOut, places: np.ndarray, seed: int = 0) -> None:
        """Nothing is seen yet."""
        self._row = np.full(text.scored, -1, dtype=np.int64)
        self._row[places] = np.arange(places.size)
        self._wanted = places.size
        self._seed = seed
        self.tap: str | None = None
        self._layers: dict[int, np.ndarray] = {}
        self._chosen: dict[int, np.ndarray] = {}

    def wants(self, name: str) -> bool:
        """See `TokenListener`."""
        return name in HIDDEN and (self.tap is None or HIDDEN.index(name) <= HIDDEN.index(self.tap))

    def take(self, name: str, layer: int, x_MHN: Tensor, places: np.ndarray) -> None:
        """See `TokenListener`."""
        if name != self.tap:
            self.tap, self._layers = name, {}
        neurons = x_MHN.shape[1] * x_MHN.shape[2]
        if layer not in self._layers:
            generator = np.random.default_rng([self._seed, layer])
            self._chosen[layer] = np.sort(generator.permutation(neurons)[:PER_LAYER])
            self._layers[layer] = np.zeros((self._wanted, self._chosen[layer].size), dtype=np.float32)
        rows = self._row[places]
        wanted = np.flatnonzero(rows >= 0)
        chosen = torch.from_numpy(self._chosen[layer]).to(x_MHN.device)
        found = x_MHN[torch.from_numpy(wanted).to(x_MHN.device)].flatten(1)[:, chosen]
        self._layers[layer][rows[wanted]] = found.float().cpu().numpy()

    def activations(self) -> np.ndarray | None:
        """Activations (neurons, M) of at most 512 neurons, evenly many per layer; None when none was seen."""
        if not self._layers:
            return None
        each = -(-MOST_NEURONS // len(self._layers))
        parts = []
        for layer, x_MN in sorted(self._layers.items()):
            kept = np.random.default_rng([self._seed, layer, 1]).permutation(x_MN.shape[1])[:each]
            parts.append(x_MN[:, np.sort(kept)].T)
        return np.concatenate(parts)[:MOST_NEURONS]


GATED = ("xy_sparse", "y_sparse", "mlp_sparse", CODE)


@dataclass(frozen=True)
class Survey:
    """What one reading of a text showed.

    activity: density and neurons that never fired. nats: surprisal (P). reading: what SEC needs, None without sparse
    taps. updates: what SPS needs, None unless x_sparse is tapped; its state is made where one was asked for.
    """

    activity: Activity
    nats: np.ndarray
    reading: Reading | None
    updates: Updates | None


def survey(
    model: LanguageModel,
    text: HeldOut,
    device: torch.device | str,
    bfloat16: bool,
    like: Coactivation | None = None,
) -> Survey:
    """Read `text` window by window with fresh streams (arm `static`), watching the activations of every token.

    With `like` also make the coactivation state under its rule and over its windows, which lead the text's.
    """
    projections = Projections(text)
    watch = Watch(text, codes=0 if like is None else len(like.codes), listeners=[projections])
    nats = _read(model, text, device, bfloat16, watch)
    codes, series = watch.codes(), projections.series()
    state = None if like is None or codes is None else dataclasses.replace(like, codes=codes)
    updates = None if series is None else Updates(series, state)
    return Survey(watch, nats, _reading(watch, nats), updates)


def activations(model: LanguageModel, text: HeldOut, device: torch.device | str, bfloat16: bool) -> Activations | None:
    """Read `text` in the same way and keep what single neurons did at every token; None without such taps."""
    neurons = Neurons(text, np.arange(text.scored))
    _read(model, text, device, bfloat16, Tokens([neurons]))
    values = neurons.activations()
    return None if values is None or neurons.tap is None else Activations(neurons.tap, values)


def updates_of(model: LanguageModel, text: HeldOut, device: torch.device | str, bfloat16: bool) -> Updates | None:
    """Read `text` in the same way and keep the projections of the updates alone; None without x_sparse."""
    projections = Projections(text)
    _read(model, text, device, bfloat16, Tokens([projections]))
    series = projections.series()
    return None if series is None else Updates(series)


def _read(
    model: LanguageModel, text: HeldOut, device: torch.device | str, bfloat16: bool, watch: Activity | Tokens
) -> np.ndarray:
    reader = Reader(model, text, device=device, bfloat16=bfloat16, activity=cast("Activity", watch))
    read_static(reader)
    return reader.nats


def _reading(activity: Activity, nats: np.ndarray) -> Reading | None:
    seen = activity.taps()
    tap = next((name for name in GATED if name in seen), seen[0] if seen else None)
    density = activity.token_density(tap) if tap is not None else None
    if tap is None or density is None:
        return None
    first = activity.token_density(CODE)
    return Reading(tap, density, nats, None if first is None else first[0])
