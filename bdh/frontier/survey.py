"""What the metrics look at: held-out text read once by a model and by its untrained twins, token by token.

Models are read window by window with fresh streams (arm `static`) while listeners watch single tokens: density, random
projections of the synaptic update, activations of chosen neurons. `Subject` is one model with what it showed, and
`Context` what every metric of a run is computed from.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor

from bdh.corpora.tokens import TokenCorpus
from bdh.frontier.concepts import Labelled, Passages, Quote, label, quoting, spread
from bdh.hebbian import held_out
from bdh.hebbian.activity import CODE, Activity
from bdh.hebbian.arms import read_static
from bdh.hebbian.coactivation import Coactivation
from bdh.hebbian.held_out import HeldOut
from bdh.hebbian.reader import Reader
from bdh.hebbian.scores import totals
from bdh.models.base import LanguageModel

if TYPE_CHECKING:
    from bdh.params import Frontier

PROJECTIONS = 8
GATED = ("xy_sparse", "y_sparse", "mlp_sparse", CODE)
PER_LAYER = MOST_NEURONS = 512
SMALL = 1e-3


@dataclass(frozen=True)
class Activations:
    """What the neurons of one model did at the labelled tokens: values (n,M) of the activation `tap`."""

    tap: str
    values: np.ndarray


@dataclass(frozen=True)
class Reading:
    """What one model did with the text: density of a tap per layer and token (L,P), surprisal in nats (P).

    first_code: density of x_sparse in layer 0 (P), None where it is not tapped.
    """

    tap: str
    density: np.ndarray
    nats: np.ndarray
    first_code: np.ndarray | None


@dataclass(frozen=True)
class Updates:
    """What one model's synapses took in over the text.

    projections: K,P of every token's update. state: the coactivation state by windows, None where it was not made.
    """

    projections: np.ndarray
    state: Coactivation | None = None


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
        return name in GATED and (self.tap is None or GATED.index(name) <= GATED.index(self.tap))

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


@dataclass(frozen=True)
class Texts:
    """What is read. text: starts as the text of stage B did, cut into windows alike; it may end earlier.

    passages: windows from all documents, for concepts, None where no document fills one; labels: their concepts; quote:
    what stands around a token of them, None where the text may not be quoted.
    """

    text: HeldOut
    passages: Passages | None = None
    labels: Labelled | None = None
    quote: Quote | None = None


def texts_of(tokens: TokenCorpus, window: int, max_tokens: int) -> Texts:
    """The test split of a corpus in windows of `window` tokens: `max_tokens` of it, and passages with their labels."""
    passages = spread(tokens, "test", window)
    text = held_out.cut(tokens, "test", window, max_tokens)
    if passages is None:
        return Texts(text)
    return Texts(text, passages, label(tokens, "test", passages), quoting(tokens, passages))


@dataclass(frozen=True)
class Subject:
    """One model and what it showed; metrics change nothing in it.

    own: `texts.text` as the model read it. device, bfloat16: how further text is read. twin: its number among the
    untrained twins, None of a trained model.
    """

    model: LanguageModel
    own: Survey
    texts: Texts
    settings: Frontier
    device: torch.device | str
    bfloat16: bool
    twin: int | None


@dataclass(frozen=True)
class Context(Subject):
    """What every metric of one run is computed from; the runner makes it.

    damping: per token, of the coactivation state. twins: by metric, what `alone` of its module says of every untrained
    twin that shows anything.
    """

    damping: float
    twins: Mapping[str, Sequence[Mapping[str, Any]]]


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


def reading_of(model: LanguageModel, text: HeldOut, device: torch.device | str, bfloat16: bool) -> Reading | None:
    """Read `text` in the same way and keep density and surprisal alone; None without sparse taps."""
    watch = Watch(text)
    return _reading(watch, _read(model, text, device, bfloat16, watch))


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


def activity_report(found: Survey) -> dict[str, Any]:
    """Density per sparse tap, means of the other taps, and the share of neurons that never fired.

    `dead_neurons_share` is that of x_sparse, or of the first sparse tap of a variant without it; a neuron counts once
    per layer.
    """
    dead = found.activity.never_active()
    tap = CODE if CODE in dead else next(iter(dead), None)
    return {
        "density": found.activity.density(),
        "tap_means": found.activity.means(),
        "dead_neurons_share": None if tap is None else dead[tap]["mean"],
        "dead_neurons": dead,
    }


def sample(found: Survey, text: HeldOut) -> dict[str, Any]:
    """How long the text is that density, SPS and SEC are measured on, and how well the model predicts it."""
    every = np.ones(text.scored, dtype=bool)
    scores = totals(found.nats, found.nats, text, every)
    names = ("tokens", "bytes", "nats_per_token", "bits_per_byte")
    return {"documents": len(text.documents)} | {name: scores[name] for name in names}


def weight_sparsity(model: LanguageModel) -> dict[str, float]:
    """Share of parameters that are exactly zero and share below 1e-3 in magnitude, tied ones counted once."""
    zeros = small = total = 0
    for parameter in model.parameters():
        magnitude = parameter.detach().abs()
        zeros += int((magnitude == 0).sum())
        small += int((magnitude < SMALL).sum())
        total += parameter.numel()
    return {"exact_zeros": zeros / max(total, 1), "below_0.001": small / max(total, 1)}


def state_over(text: HeldOut, state: Coactivation | None) -> Coactivation | None:
    """The part of a coactivation state that the leading windows of `text` made."""
    if state is None:
        return None
    common = min(len(state.codes), text.windows)
    same = int(np.cumprod(state.tokens[:common] == text.bounds[1 : common + 1]).sum())
    return dataclasses.replace(
        state, codes=state.codes[:same], tokens=state.tokens[:same], document=state.document[:same]
    )
