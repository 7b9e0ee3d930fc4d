"""MCL: how many neurons stand for one concept?

Why: the ratio of a neuron's rates inside and outside a concept reaches 15 to 33 by chance among many neurons, and a
neuron that was chosen for a concept looks selective on the very text it was chosen on. So neurons are chosen on one
half of the documents and tested on the other, beside untrained twins: random features of the token's embedding
already separate concepts that few words make up.

What: concepts are labels of tokens (`bdh.frontier.concepts`). For every neuron and concept the rank-biserial
correlation of its activation with the concept, against tokens of the same frequency (`bdh.frontier.selectivity`).
The value is the share of active neurons (active at 1 % of the tokens at least) that are selective for exactly one.
Nulls: the same for random concepts, on 256 neurons (`bdh.frontier.concepts.RandomConcepts`): sets of tokens that cover
as much of the text, and concepts with the shares of words and the runs of the real ones. Neurons are tuned to words
whether or not a concept joins them.
Reference protocol: the ten largest ratios P(active | concept) / P(active | not concept), mean over them and concepts.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from bdh.frontier.concepts import Labelled, Quote, RandomConcepts
from bdh.frontier.rows import Measured, absent, metric_row, point
from bdh.frontier.selectivity import Half, ridits, selective, usable
from bdh.frontier.survey import Activations, activations
from bdh.intervals import against_null

if TYPE_CHECKING:
    from bdh.frontier.survey import Context, Subject

FEWEST_NEURONS = 20
FEWEST_TOKENS = 512
ACTIVE = 0.01
NULL_NEURONS = 256
DRAWS = 40
CONTEXTS = 3
TOP = 10
SETS = "random sets of tokens of equal coverage"
ALIKE = "random concepts with the shares and runs of the real ones"
NO_TAP = "this variant taps no activations of single neurons"


def compute(context: Context) -> Measured:
    """The MCL row of a run and its curve; the model reads the passages."""
    passages, labels = context.texts.passages, context.texts.labels
    if passages is None:
        return absent("no document of the test split fills a window"), []
    own = activations(context.model, passages.text, context.device, context.bfloat16)
    return measure(own, context.twins["mcl"], labels, quote=context.texts.quote)


def alone(subject: Subject) -> Measured:
    """What an untrained twin shows: `numbers`; it draws no curve."""
    passages, labels = subject.texts.passages, subject.texts.labels
    if passages is None or labels is None:
        return {}, []
    own = activations(subject.model, passages.text, subject.device, subject.bfloat16)
    return ({} if own is None else numbers(own, labels)), []


def numbers(own: Activations, labels: Labelled) -> dict[str, float]:
    """Value and reference protocol of one model; none with too few tokens, or fewer than 2 concepts to use."""
    if labels.document.size < FEWEST_TOKENS:
        return {}
    kept, sides = _used(labels)
    if kept.sum() < 2:
        return {}
    return {"value": _exactly_one(_select(own, sides)[0]), "reference": _ratio(own, labels, kept)}


def measure(
    own: Activations | None,
    twins: Sequence[Mapping[str, float]],
    labels: Labelled | None,
    seed: int = 0,
    quote: Quote | None = None,
) -> Measured:
    """The MCL row of a model, and r on the second half of its selective neurons, sorted.

    twins: `numbers` of the untrained twins. quote: what stands around a token, None where nothing may be quoted.
    Too few tokens, active neurons or concepts cannot be measured: null with a reason.
    """
    if own is None:
        return absent(NO_TAP), []
    if labels is None:
        return absent("nothing in this text is labelled with a concept"), []
    if labels.document.size < FEWEST_TOKENS:
        return absent(f"{labels.document.size} tokens, at least {FEWEST_TOKENS} are needed"), []
    kept, sides = _used(labels)
    if kept.sum() < 2:
        return absent(
            f"{int(kept.sum())} concepts occur in both halves of the documents often enough, 2 are needed"
        ), []
    active = (own.values > 0).mean(1) >= ACTIVE
    if active.sum() < FEWEST_NEURONS:
        return absent(f"{int(active.sum())} active neurons, at least {FEWEST_NEURONS} are needed"), []
    names = [name for name, ok in zip(labels.names, kept, strict=True) if ok]
    found, r = _select(own, sides)
    value, random = _exactly_one(found), _of_random(own, labels, kept, seed)
    grain = 1 / min(NULL_NEURONS, found.shape[1])
    row = metric_row(
        value,
        nulls={},
        tests={name: against_null(value, draws, grain) for name, draws in random.items()},
        interval=wilson(int((found.sum(0) == 1).sum()), found.shape[1]),
        n=found.shape[1],
        untrained=[twin["value"] for twin in twins],
        reference=_ratio(own, labels, kept),
        reference_untrained=[twin["reference"] for twin in twins],
        tap=own.tap,
        selective_for_any=float((found.sum(0) > 0).mean()),
        concepts={
            name: _concept(found[at], r[at]) | _contexts(own.values[active], found[at], r[at], labels, quote)
            for at, name in enumerate(names)
        },
        left_out=[name for name, ok in zip(labels.names, kept, strict=True) if not ok],
        tokens=int(labels.document.size),
        inactive=int((~active).sum()),
    )
    best = np.sort(np.where(found, r, -1.0).max(0))[::-1]
    return row, [point("mcl", float(at + 1), float(value), "trained") for at, value in enumerate(best) if value > 0]


Side = tuple[np.ndarray, Half]


def _used(labels: Labelled) -> tuple[np.ndarray, tuple[Side, ...]]:
    """Which concepts occur in both halves often enough (C, bool), and both halves with those alone."""
    halves = _halves(labels)
    kept = usable((halves[0][1], halves[1][1]))
    return kept, tuple((where, _only(half, kept)) for where, half in halves)


def _halves(labels: Labelled) -> tuple[Side, Side]:
    """Tokens and labels of the documents with even and with odd numbers, of the front and back of fewer than four."""
    documents = np.unique(labels.document, return_inverse=True)[1]
    second = documents % 2 == 1
    if documents.max() < 3:
        second = np.arange(documents.size) * 2 >= documents.size
    return _side(labels, np.flatnonzero(~second)), _side(labels, np.flatnonzero(second))


def _side(labels: Labelled, where: np.ndarray) -> Side:
    """Clusters are documents for a concept that is constant within every document, windows for any other."""
    concepts = labels.concepts[where]
    document, window = (np.unique(of[where], return_inverse=True)[1] for of in (labels.document, labels.window))
    cluster = np.stack([document if whole else window for whole in labels.of_documents], axis=1)
    return where, Half(concepts, labels.frequency[where], cluster)


def _only(half: Half, kept: np.ndarray) -> Half:
    return Half(half.concepts[:, kept], half.frequency, half.cluster[:, kept])


def _select(own: Activations, sides: tuple[Side, ...]) -> tuple[np.ndarray, np.ndarray]:
    """`selective` of the active neurons."""
    values = own.values[(own.values > 0).mean(1) >= ACTIVE]
    if not len(values):
        empty = np.zeros((sides[0][1].concepts.shape[1], 0))
        return empty.astype(bool), empty
    first, second = (ridits(values[:, where].T, half.frequency) for where, half in sides)
    return selective((first, second), (sides[0][1], sides[1][1]))


def _exactly_one(found_Cn: np.ndarray) -> float:
    return float((found_Cn.sum(0) == 1).mean()) if found_Cn.shape[1] else 0.0


def _of_random(own: Activations, labels: Labelled, kept: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """The value on up to 256 neurons for random concepts in the place of the real ones, 40 draws of either kind."""
    generator = np.random.default_rng([seed, 7])
    values = own.values[(own.values > 0).mean(1) >= ACTIVE]
    values = values[generator.permutation(len(values))[:NULL_NEURONS]]
    used = dataclasses.replace(
        labels,
        concepts=labels.concepts[:, kept],
        of_documents=[whole for whole, ok in zip(labels.of_documents, kept, strict=True) if ok],
    )
    halves, source = _halves(used), RandomConcepts(used)
    ranks = [ridits(values[:, where].T, half.frequency) for where, half in halves]

    def value(concepts: np.ndarray) -> float:
        first, second = (dataclasses.replace(half, concepts=concepts[where]) for where, half in halves)
        return _exactly_one(selective((ranks[0], ranks[1]), (first, second))[0])

    draws = {SETS: source.sets, ALIKE: source.alike}
    return {name: np.array([value(draw(generator)) for _ in range(DRAWS)]) for name, draw in draws.items()}


def _contexts(
    values_nM: np.ndarray, found_n: np.ndarray, r_n: np.ndarray, labels: Labelled, quote: Quote | None
) -> dict[str, list[str]]:
    """Where the best selective neuron of a concept fires most: three contexts of different windows; none without it."""
    if quote is None or not found_n.any():
        return {}
    fires = values_nM[int(np.argmax(np.where(found_n, r_n, -np.inf)))]
    chosen: dict[int, int] = {}
    for place in np.argsort(-fires, kind="stable"):
        if fires[place] <= 0 or len(chosen) == CONTEXTS:
            break
        chosen.setdefault(int(labels.window[place]), int(place))
    return {"contexts": [quote(place) for place in chosen.values()]}


def _concept(found_n: np.ndarray, r_n: np.ndarray) -> dict[str, float | int]:
    """How many neurons are selective for a concept, and the AUROC of the best of them (all of them where none is)."""
    best = float(r_n[found_n].max()) if found_n.any() else float(r_n.max())
    return {"neurons": int(found_n.sum()), "best_auroc": (best + 1) / 2}


def _ratio(own: Activations, labels: Labelled, kept: np.ndarray) -> float:
    """The reference protocol, on the text that the neurons are chosen on."""
    concepts_MC = labels.concepts[:, kept]
    fired_nM = (own.values > 0).astype(np.float32)
    inside = fired_nM @ concepts_MC.astype(np.float32) / concepts_MC.sum(0)
    outside = fired_nM @ (~concepts_MC).astype(np.float32) / (~concepts_MC).sum(0)
    return float(np.sort(inside / (outside + 1e-8), axis=0)[-TOP:].mean())


def wilson(hits: int, trials: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share (1927), over neurons; the text is taken as given."""
    if trials == 0:
        return 0.0, 1.0
    z, share = 1.959963985, hits / trials
    middle = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    return max(0.0, middle - half), min(1.0, middle + half)
