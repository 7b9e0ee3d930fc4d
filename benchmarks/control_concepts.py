"""Controls of MCL: neurons tuned to tokens and places, and neurons tuned to concepts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from bdh.frontier import mcl
from bdh.frontier.concepts import Labelled
from bdh.frontier.survey import Activations
from benchmarks.controls import NULL, PLANTED, TWINS, Control, Row

NEURONS = 64


@dataclass(frozen=True)
class Design:
    """Text and concepts. vocab: kinds of token. bursty: tokens that come again within their document. sets: whether the
    first concepts are sets of tokens, else runs of six tokens. concepts: how many of those."""

    vocab: int = 120
    bursty: bool = False
    sets: bool = True
    concepts: int = 4
    documents: int = 16
    windows: int = 4
    window: int = 48


def labels(seed: int, design: Design | None = None) -> Labelled:
    """Concepts, and one of whole documents, in a text whose tokens are as unequally common as words (Zipf)."""
    design = design or Design(sets=False, concepts=2)
    generator = np.random.default_rng([seed, 7])
    M = design.documents * design.windows * design.window
    document = np.repeat(np.arange(design.documents), design.windows * design.window)
    rate = 1 / (2.0 + np.arange(design.vocab))
    tokens = np.empty(M, dtype=np.int64)
    for one in range(design.documents):
        own = rate * generator.gamma(0.5, 2.0, design.vocab) if design.bursty else rate
        tokens[document == one] = generator.choice(design.vocab, (document == one).sum(), p=own / own.sum())
    count = np.bincount(tokens, minlength=design.vocab)
    if design.sets:
        order = generator.permutation(design.vocab)
        chosen = [order[at : 8 * design.concepts : design.concepts] for at in range(design.concepts)]
        concepts = [np.isin(tokens, kinds) for kinds in chosen]
    else:
        runs = np.repeat(generator.random((design.concepts, M // 6)) < 0.15, 6, axis=1)
        concepts = [run & ~runs[:at].any(0) for at, run in enumerate(runs)]
    half = generator.permutation(np.arange(design.documents) // 2 % 2 == 0)[document]
    return Labelled(
        names=[*(f"concept {at}" for at in range(design.concepts)), "sector: A"],
        concepts=np.stack([*concepts, half], axis=1),
        document=document,
        window=np.arange(M) // design.window,
        token=tokens,
        frequency=np.floor(np.log2(1 + count)).astype(np.int64)[tokens],
        of_documents=[False] * design.concepts + [True],
    )


def activations(seed: int, labelled: Labelled, planted: float = 0.0, tuned: int = 0, turned: int = 0) -> Activations:
    """Sparse activations that drift from document to document and stay for a few tokens.

    planted: share of the neurons that also fire at half the tokens of one concept. tuned: kinds of token that every
    neuron fires at. turned: places after them that it does so.
    """
    generator = np.random.default_rng([seed, 8])
    M = labelled.document.size
    drift = generator.normal(size=(NEURONS, int(labelled.document.max()) + 1))[:, labelled.document]
    runs = np.repeat(generator.normal(size=(NEURONS, M // 4)), 4, axis=1)
    values = np.maximum(0.0, 0.5 * drift + runs + generator.normal(size=(NEURONS, M)) - 2.0)
    kinds = np.unique(labelled.token)
    for neuron in range(NEURONS if tuned else 0):
        at = np.roll(np.isin(labelled.token, generator.choice(kinds, tuned, replace=False)), turned)
        values[neuron, at] += 2.0 * (generator.random(int(at.sum())) < 0.7)
    several = max(1, len(labelled.names) - 1)
    for neuron in range(round(planted * NEURONS)):
        inside = labelled.concepts[:, neuron % several] & (generator.random(M) < 0.5)
        values[neuron, inside] += 3.0
    return Activations("xy_sparse", values.astype(np.float32))


def mcl_of(seed: int, planted: float = 0.0, design: Design | None = None, twins: bool = True, **tuned: int) -> Row:
    """`twins`: beside noise; otherwise the verdict is that of the nulls alone, no stricter than beside noise."""
    labelled = labels(seed, design)
    noise = [activations(30_000 + TWINS * seed + twin, labelled) for twin in range(TWINS if twins else 0)]
    numbers = [found for one in noise if (found := mcl.numbers(one, labelled))]
    return mcl.measure(activations(seed, labelled, planted, **tuned), numbers, labelled, seed)[0]


def made(**how: object) -> Callable[[int], Row]:
    """The row of such neurons by seed."""
    return lambda seed: mcl_of(seed, **how)  # type: ignore[arg-type]


def controls() -> list[Control]:
    """The controls of this module."""
    bare = {"twins": False}
    nulls: dict[str, Callable[[int], Row]] = {
        "neurons without concepts": made(),
        "neurons tuned to 3 random tokens, noise twins": made(design=Design(), tuned=3),
        "neurons tuned to 3 random tokens, no twins": made(design=Design(), tuned=3, **bare),
        "neurons tuned to one token": made(design=Design(), tuned=1, **bare),
        "neurons tuned to 10 random tokens": made(design=Design(), tuned=10, **bare),
        "neurons tuned to the token before": made(design=Design(), tuned=3, turned=1, **bare),
        "tuned to 3 tokens, bursty tokens": made(design=Design(bursty=True), tuned=3, **bare),
        "tuned to 3 tokens, 40 kinds of token": made(design=Design(vocab=40), tuned=3, **bare),
        "tuned to 3 tokens, 400 kinds of token": made(design=Design(vocab=400), tuned=3, **bare),
        "tuned to 3 tokens, concepts in runs": made(design=Design(sets=False), tuned=3, **bare),
        "tuned to 3 tokens, bursty tokens, concepts in runs": made(
            design=Design(sets=False, bursty=True), tuned=3, **bare
        ),
        "tuned to 3 tokens, two concepts": made(design=Design(concepts=2), tuned=3, **bare),
        "no tuning, bursty tokens": made(design=Design(bursty=True), **bare),
    }
    found = [Control("mcl", NULL, name, make) for name, make in nulls.items()]
    for share in (0.05, 0.1, 0.25):
        row = made(planted=share, design=Design(sets=False))
        found.append(Control("mcl", PLANTED, f"{100 * share:g} % of the neurons planted, concepts in runs", row))
    for share in (0.25, 0.5, 0.75):
        row = made(planted=share, design=Design(), tuned=3, **bare)
        name = f"{100 * share:g} % of the neurons planted, the rest tuned to 3 tokens"
        found.append(Control("mcl", PLANTED, name, row))
    return found
