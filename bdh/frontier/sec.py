"""SEC: are more neurons active where the text is surprising?

Why: densities and losses of whole batches share trends, which makes independent series look related; and even in an
untrained model both are functions of the token, which makes them related by accident of the weights (rank
correlations of +-.1 on plain text). So the value is taken per token and given the token: a partial rank correlation.
The null shifts one of the two series along the document and so keeps what each is like by itself.

What: density of the gated code (xs * ys where the variant has it) while a token is read, mean over layers, against
the surprisal of that token given what came before it. Both as ranks, less their means per token identity and per
place in the window (places in classes that double in width); the value is the correlation of what is left. The plain
Spearman correlation stands beside it. Interval: bootstrap over documents, or over blocks of 256 tokens where fewer
than 8 documents were read.
Reference protocol: Pearson correlation over windows of the density of x_sparse in layer 0 and exp(mean surprisal)
clipped at 1000.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import rankdata

from bdh.frontier.rows import UNTRAINED, Measured, absent, metric_row, point
from bdh.frontier.survey import Reading
from bdh.hebbian.held_out import HeldOut
from bdh.hebbian.scores import bootstrap_units
from bdh.intervals import against_null, percentiles

if TYPE_CHECKING:
    from bdh.frontier.survey import Context, Subject

FEWEST = 64
ROUNDS = 5
ROUNDING = 1e-9
CLIP = 1000.0
BLOCK = 256
CLASSES = 10
NO_TAP = "this variant taps no sparse activations, they have no density"


def compute(context: Context) -> Measured:
    """The SEC row of a run and its curves."""
    settings = context.settings
    return measure(
        context.own.reading,
        context.twins["sec"],
        context.texts.text,
        draws=settings.null_draws,
        resamplings=settings.bootstrap,
    )


def alone(subject: Subject) -> Measured:
    """What an untrained twin shows: `numbers`, and its mean density by tenth of surprisal."""
    reading, text = subject.own.reading, subject.texts.text
    found = {} if reading is None else numbers(reading, text)
    if reading is None or not found:
        return {}, []
    return found, _by_surprisal(UNTRAINED, reading.density.mean(0), reading.nats, Pairs(text))


def numbers(reading: Reading, text: HeldOut) -> dict[str, float | None]:
    """Value, plain Spearman correlation and reference protocol of one reading; none with fewer than 64 tokens."""
    if (text.position > 1).sum() < FEWEST:
        return {}
    pairs, density = Pairs(text), reading.density.mean(0)
    return {
        "value": correlation(*pairs.partial(density, reading.nats)),
        "spearman": correlation(*pairs.ranks(density, reading.nats)),
        "reference": reference_protocol(reading, text),
    }


def measure(
    reading: Reading | None,
    twins: Sequence[Mapping[str, Any]],
    text: HeldOut,
    *,
    draws: int,
    resamplings: int,
    seed: int = 0,
) -> Measured:
    """The SEC row of a model, and the mean density by tenth of surprisal.

    twins: `numbers` of untrained twins. draws: shifts in the null. resamplings: of documents for the interval. seed: of
    both. Fewer than 64 tokens with a surprisal, or a density or surprisal in which nothing is left beside the token and
    its place, cannot be measured: null with a reason.
    """
    if reading is None:
        return absent(NO_TAP), []
    if (text.position > 1).sum() < FEWEST:
        return absent(f"fewer than {FEWEST} tokens with a surprisal"), []
    pairs = Pairs(text)
    mean_density = reading.density.mean(0)
    if np.ptp(mean_density[pairs.places]) == 0:
        return absent("the density is the same at every token, nothing varies"), []
    shifts = pairs.shifts(draws, seed)
    rest = pairs.partial(mean_density, reading.nats)
    for series, name in zip(rest, ("density", "surprisal"), strict=True):
        if not series.any():
            return absent(f"the {name} follows from the token and its place alone, nothing else varies"), []
    raw = pairs.ranks(mean_density, reading.nats)
    row = metric_row(
        correlation(*rest),
        nulls={"surprisal shifted along the document": _shifted(rest, shifts)},
        interval=_interval(rest, pairs, resamplings, seed),
        n=int(pairs.places.size),
        untrained=[twin["value"] for twin in twins],
        reference=reference_protocol(reading, text),
        reference_untrained=[twin["reference"] for twin in twins if twin["reference"] is not None],
        tap=reading.tap,
        spearman=against_null(correlation(*raw), _shifted(raw, shifts)) | {"value": correlation(*raw)},
        spearman_untrained=[twin["spearman"] for twin in twins],
        layers=[correlation(*pairs.partial(layer, reading.nats)) for layer in reading.density],
    )
    return row, _by_surprisal("trained", mean_density, reading.nats, pairs)


class Pairs:
    """Which density belongs to which surprisal: reading input i of a document, the surprisal of that same token.

    places: M, inputs that had been predicted (all but a document's first). token, place: M, identity of the token
    and class of its place in the window. unit: M, document or block for the bootstrap.
    """

    def __init__(self, text: HeldOut) -> None:
        """Pairs of all documents of `text`, in order."""
        self.places = np.flatnonzero(text.position > 1)
        self.token = text.inputs[self.places]
        self.place = np.floor(np.log2(1 + (text.position[self.places] - 1) % text.window)).astype(np.int64)
        self.document = text.token_document[self.places]
        self.unit = bootstrap_units(text, BLOCK)[1][self.places]

    def ranks(self, density_P: np.ndarray, nats_P: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Ranks of density while reading a token and of its surprisal (M each), less their means."""
        ranks = rankdata(density_P[self.places]), rankdata(nats_P[self.places - 1])
        return ranks[0] - ranks[0].mean(), ranks[1] - ranks[1].mean()

    def partial(self, density_P: np.ndarray, nats_P: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The same ranks less their means per token identity and per place, taken out in turn five times.

        Zeros where no more than rounding is left of a series.
        """
        rest = []
        for series in self.ranks(density_P, nats_P):
            for _ in range(ROUNDS):
                for group in (self.token, self.place):
                    count = np.maximum(np.bincount(group), 1)
                    series = series - (np.bincount(group, weights=series) / count)[group]
            rest.append(series if np.abs(series).max() > ROUNDING * series.size else np.zeros(series.size))
        return rest[0], rest[1]

    def shifts(self, draws: int, seed: int) -> list[np.ndarray]:
        """Index arrays (M), one per draw, that turn every document by a random number of tokens of its own."""
        generator = np.random.default_rng(seed)
        starts = np.searchsorted(self.document, self.document, side="left")
        lengths = np.searchsorted(self.document, self.document, side="right") - starts
        own = np.arange(self.places.size) - starts
        documents = int(self.document.max()) + 1
        return [
            starts + (own + (generator.random(documents)[self.document] * lengths).astype(np.int64)) % lengths
            for _ in range(draws)
        ]


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson correlation of two series that have mean zero; 0 where one of them does not vary."""
    power = float((a * a).sum()) * float((b * b).sum())
    return float((a * b).sum() / np.sqrt(power)) if power > 0 else 0.0


def reference_protocol(reading: Reading, text: HeldOut) -> float | None:
    """The reference's r over windows; None without x_sparse, with fewer than 8 windows or when one side is constant.

    Windows shorter than half a window are left out.
    """
    whole = text.lengths * 2 >= text.window
    if reading.first_code is None or whole.sum() < 8:
        return None
    density = np.add.reduceat(reading.first_code.astype(np.float64), text.bounds[:-1]) / text.lengths
    loss = np.add.reduceat(reading.nats, text.bounds[:-1]) / text.lengths
    a, b = density[whole], np.minimum(np.exp(np.minimum(loss[whole], 50.0)), CLIP)
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    found = float(np.corrcoef(a, b)[0, 1])
    return found if math.isfinite(found) else None


def _shifted(pair: tuple[np.ndarray, np.ndarray], shifts: list[np.ndarray]) -> np.ndarray:
    return np.array([correlation(pair[0], pair[1][shift]) for shift in shifts])


def _interval(
    pair: tuple[np.ndarray, np.ndarray], pairs: Pairs, resamplings: int, seed: int
) -> tuple[float | None, float | None]:
    a, b = pair
    products_3U = np.stack([np.bincount(pairs.unit, weights=x) for x in (a * b, a * a, b * b)])
    units = products_3U.shape[1]
    if units < 2:
        return None, None
    chosen = np.random.default_rng(seed).integers(0, units, (resamplings, units))
    ab, aa, bb = products_3U[:, chosen].sum(2)
    with np.errstate(divide="ignore", invalid="ignore"):
        return percentiles(ab / np.sqrt(aa * bb))


def _by_surprisal(name: str, density_P: np.ndarray, nats_P: np.ndarray, pairs: Pairs) -> list[dict[str, Any]]:
    """Mean density in ten classes of surprisal of equal size, at the mean surprisal of each in nats."""
    nats, density = nats_P[pairs.places - 1], density_P[pairs.places]
    classes = np.array_split(np.argsort(nats, kind="stable"), CLASSES)
    return [point("sec", float(nats[c].mean()), float(density[c].mean()), name) for c in classes if c.size]
