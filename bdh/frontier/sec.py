"""SEC: are more neurons active where the text is surprising?

Why: density and surprisal are related without any coupling. Both are functions of the last tokens, and functions of the
same tokens are correlated by accident of the weights; both drift, or step from the head of a document to its body. So
they are compared among tokens that share all of this: the same token after the same token before, the same place in the
window, the same 16 tokens of a document, neighbours as surprising.

What: density of the gated code (xs * ys where the variant has it) while a token is read, mean over layers, against the
surprisal of that token given what came before it. Both as ranks, less their least-squares fit by a constant for every
pair of token and token before, every place in the window and every stretch of 16 tokens of a document, and by the
surprisal of the four tokens on either side (a density that follows the next token's is not coupled to its own). Tokens
whose pair occurs once say nothing and are left out. The value is the correlation of what is left.
Tests: would other documents, and other words, say the same? Cluster-robust standard errors (Liang & Zeger 1986), with
documents as the units, with the kinds of the token read, and with the kinds of the token before it; Student's t. With
fewer than 8 documents nothing is tested. The interval is the widest of the three.
Text: the held-out text of the other metrics where it has 8 documents, else passages from all documents of the split.
Reference protocol: Pearson correlation over windows of the density of x_sparse in layer 0 and exp(mean surprisal)
clipped at 1000.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import lsmr
from scipy.stats import rankdata
from scipy.stats import t as student

from bdh.frontier.rows import UNTRAINED, Measured, absent, metric_row, point
from bdh.frontier.survey import Reading, Texts, reading_of
from bdh.hebbian.held_out import HeldOut
from bdh.intervals import FEWEST_UNITS, LEVEL

if TYPE_CHECKING:
    from bdh.frontier.survey import Context, Subject

FEWEST = 256
STRETCH = 16
NEIGHBOURS = (-4, -3, -2, -1, 1, 2, 3, 4)
LITTLE = 1e-3
CLIP = 1000.0
CLASSES = 10
NO_TAP = "this variant taps no sparse activations, they have no density"
UNITS = {
    "document": "no coupling, documents as the units",
    "token": "no coupling, kinds of token as the units",
    "before": "no coupling, kinds of the token before as the units",
}


def compute(context: Context) -> Measured:
    """The SEC row of a run and its curves."""
    text, reading = _read(context)
    reference = reference_protocol(context.own.reading, context.texts.text)
    return measure(reading, context.twins["sec"], text, reference)


def alone(subject: Subject) -> Measured:
    """What an untrained twin shows: `numbers` its reference protocol, and mean density by tenth of surprisal."""
    text, reading = _read(subject)
    found = {} if reading is None else numbers(reading, text)
    if reading is None or not found:
        return {}, []
    reference = reference_protocol(subject.own.reading, subject.texts.text)
    return found | {"reference": reference}, _by_surprisal(UNTRAINED, reading, text)


def _read(subject: Subject) -> tuple[HeldOut, Reading | None]:
    """The text that SEC is measured on, and what the model showed in it; passages are read for it."""
    text = text_of(subject.texts)
    if text is subject.texts.text:
        return text, subject.own.reading
    return text, reading_of(subject.model, text, subject.device, subject.bfloat16)


def text_of(texts: Texts) -> HeldOut:
    """The text that SEC is measured on: passages where the held-out text has fewer than 8 documents."""
    few = np.unique(texts.text.document).size < FEWEST_UNITS
    return texts.passages.text if few and texts.passages is not None else texts.text


def numbers(reading: Reading, text: HeldOut) -> dict[str, float | None]:
    """Value and plain rank correlation of one model; none where nothing can be measured in this text."""
    pairs, density = Pairs(text), reading.density.mean(0)
    rest = None if pairs.reason is not None else pairs.partial(density, reading.nats)
    if rest is None or not (rest[0].any() and rest[1].any()):
        return {}
    return {
        "value": correlation(*rest),
        "spearman": correlation(*pairs.ranks(density, reading.nats)),
    }


def measure(
    reading: Reading | None,
    twins: Sequence[Mapping[str, Any]],
    text: HeldOut,
    reference: float | None = None,
) -> Measured:
    """The SEC row of a model beside its untrained twins, and the mean density by tenth of surprisal.

    twins: `numbers` of the untrained twins. reference: what the reference protocol gives. Fewer than 8 documents or 256
    tokens that can be compared, or a density or surprisal in which nothing is left, cannot be measured: null with a
    reason.
    """
    if reading is None:
        return absent(NO_TAP), []
    pairs = Pairs(text)
    if pairs.reason is not None:
        return absent(pairs.reason), []
    density = reading.density.mean(0)
    if np.ptp(density[pairs.places]) == 0:
        return absent("the density is the same at every token, nothing varies"), []
    rest = pairs.partial(density, reading.nats)
    for series, name in zip(rest, ("density", "surprisal"), strict=True):
        if not series.any():
            return absent(f"the {name} follows from the last two tokens and the place alone, nothing else varies"), []
    value = correlation(*rest)
    tests = {UNITS[unit]: pairs.against(rest, unit) for unit in UNITS}
    half = max(student.ppf(1 - LEVEL / 2, one["freedom"]) * one["sd"] for one in tests.values())
    row = metric_row(
        value,
        nulls={},
        tests=tests,
        interval=(max(-1.0, value - half), min(1.0, value + half)),
        n=int(pairs.places.size),
        untrained=[twin["value"] for twin in twins],
        reference=reference,
        reference_untrained=[twin["reference"] for twin in twins if twin.get("reference") is not None],
        tap=reading.tap,
        documents=pairs.documents,
        left_out=pairs.left_out,
        spearman=correlation(*pairs.ranks(density, reading.nats)),
        spearman_untrained=[twin["spearman"] for twin in twins],
        layers=[correlation(*pairs.partial(layer, reading.nats)) for layer in reading.density],
    )
    return row, _by_surprisal("trained", reading, text)


class Pairs:
    """Which density belongs to which surprisal: reading input i of a document, the surprisal of that same token.

    places: M, inputs that had been predicted in the token before and whose pair with it occurs twice or more. units: M
    each, the document, the token and the token before. left_out: share of predicted inputs whose pair occurs once.
    reason: why nothing can be measured, None where something can.
    """

    def __init__(self, text: HeldOut) -> None:
        """Pairs of all documents of `text`, in order."""
        document, position = text.token_document, text.position
        follows = (document[1:] == document[:-1]) & (position[1:] == position[:-1] + 1)
        places = 1 + np.flatnonzero(follows)
        pair = _numbered(text.inputs[places - 1], text.inputs[places]) if places.size else places
        often = np.bincount(pair)[pair] > 1 if places.size else np.zeros(0, dtype=bool)
        self.left_out = float(1 - often.mean()) if places.size else 0.0
        self.places = places[often]
        before, token = text.inputs[self.places - 1], text.inputs[self.places]
        self.units = {"document": document[self.places], "token": token, "before": before}
        self.documents = int(np.unique(self.units["document"]).size)
        self.reason = self._reason()
        if self.reason is not None:
            return
        place = (position[self.places] - 1) % text.window
        stretch = _numbered(self.units["document"], (position[self.places] - 1) // STRETCH)
        self._shared = _design([pair[often], place, stretch])
        self._neighbours = [self._at(document, position, distance) for distance in NEIGHBOURS]

    def _at(self, document_P: np.ndarray, position_P: np.ndarray, distance: int) -> tuple[np.ndarray, np.ndarray]:
        """Which pairs (M) have a predicted token at that distance in the same stretch of text, and its place (M)."""
        there = self.places + distance
        inside = np.clip(there, 1, document_P.size - 1)
        same = (document_P[inside] == document_P[self.places]) & (document_P[inside - 1] == document_P[self.places])
        apart = position_P[inside] - position_P[self.places]
        before = position_P[inside - 1] - position_P[self.places]
        return (inside == there) & same & (apart == distance) & (before == distance - 1), inside

    def _reason(self) -> str | None:
        if self.places.size < FEWEST:
            return f"{self.places.size} tokens whose pair with the token before occurs twice, {FEWEST} are needed"
        if self.documents < FEWEST_UNITS:
            return f"{self.documents} documents, at least {FEWEST_UNITS} are needed: they are the units of the test"
        return None

    def ranks(self, density_P: np.ndarray, nats_P: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Ranks of density while reading a token and of its surprisal (M each), less their means."""
        ranks = rankdata(density_P[self.places]), rankdata(nats_P[self.places - 1])
        return ranks[0] - ranks[0].mean(), ranks[1] - ranks[1].mean()

    def partial(self, density_P: np.ndarray, nats_P: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The same ranks less their least-squares fit by pair of tokens, place in the window, stretch of 16 tokens and
        the surprisal of neighbours (as ranks; the mean where there is none).

        Zeros where less than a thousandth of the variance of a series is left.
        """
        rest, columns = [], []
        for has, there in self._neighbours:
            ranks = np.where(has, rankdata(nats_P[there - 1]), 0.0)
            ranks[has] -= ranks[has].mean() if has.any() else 0.0
            columns.append(ranks / max(1.0, float(np.linalg.norm(ranks))))
        given = sparse.hstack([self._shared, np.stack(columns, axis=1)]).tocsr()
        for series in self.ranks(density_P, nats_P):
            left = series - given @ lsmr(given, series, atol=1e-7, btol=1e-7, maxiter=500)[0]
            rest.append(left if left.var() > LITTLE * series.var() else np.zeros(series.size))
        return rest[0], rest[1]

    def against(self, rest: tuple[np.ndarray, np.ndarray], unit: str) -> dict[str, Any]:
        """The correlation of what is left against 0, `unit` (document, token, before) as the independent ones.

        In the form of `against_null`, with the number of units and the degrees of freedom: one less than the number of
        units of equal size that vary as much.
        """
        a, b = rest
        aa, bb = float(a @ a), float(b @ b)
        value = correlation(a, b)
        influence = a * b / math.sqrt(aa * bb) - value / 2 * (a * a / aa + b * b / bb)
        sums, sizes = (np.bincount(self.units[unit], weights=one) for one in (influence, np.ones(a.size)))
        effective = float(sizes.sum() ** 2 / (sizes @ sizes))
        freedom = max(1.0, effective - 1)
        error = math.sqrt(float(sums @ sums) * effective / freedom)
        z = value / error if error > 0 else None
        p = None if z is None else float(2 * student.sf(abs(z), freedom))
        units = int((sizes > 0).sum())
        return {
            "mean": 0.0,
            "sd": error,
            "z": z,
            "p": p,
            "draws": 0,
            "p_method": "t",
            "units": units,
            "freedom": freedom,
        }


def _numbered(*labels: np.ndarray) -> np.ndarray:
    """One number from 0 for every combination of labels (M each) that occurs."""
    return np.unique(np.stack(labels), axis=1, return_inverse=True)[1].reshape(-1)


def _design(groups: Sequence[np.ndarray]) -> sparse.csr_matrix:
    """Indicator columns of unit length of every group (M numbers each), side by side."""
    columns = []
    for group in groups:
        number = np.unique(group, return_inverse=True)[1]
        scale = 1 / np.sqrt(np.maximum(np.bincount(number), 1))
        columns.append(sparse.csr_matrix((scale[number], (np.arange(number.size), number))))
    return sparse.hstack(columns).tocsr()


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson correlation of two series that have mean zero; 0 where one of them does not vary."""
    power = float((a * a).sum()) * float((b * b).sum())
    return float((a * b).sum() / np.sqrt(power)) if power > 0 else 0.0


def reference_protocol(reading: Reading | None, text: HeldOut) -> float | None:
    """The reference's r over windows; None without x_sparse, with fewer than 8 windows or when one side is constant.

    Windows shorter than half a window are left out.
    """
    whole = text.lengths * 2 >= text.window
    if reading is None or reading.first_code is None or whole.sum() < 8:
        return None
    density = np.add.reduceat(reading.first_code.astype(np.float64), text.bounds[:-1]) / text.lengths
    loss = np.add.reduceat(reading.nats, text.bounds[:-1]) / text.lengths
    a, b = density[whole], np.minimum(np.exp(np.minimum(loss[whole], 50.0)), CLIP)
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    found = float(np.corrcoef(a, b)[0, 1])
    return found if math.isfinite(found) else None


def _by_surprisal(name: str, reading: Reading, text: HeldOut) -> list[dict[str, Any]]:
    """Mean density in ten classes of surprisal of equal size, at the mean surprisal of each in nats."""
    places = Pairs(text).places
    nats, density = reading.nats[places - 1], reading.density.mean(0)[places]
    classes = np.array_split(np.argsort(nats, kind="stable"), CLASSES)
    return [point("sec", float(nats[c].mean()), float(density[c].mean()), name) for c in classes if c.size]
