"""Controls of SEC: densities and surprisals that owe what they share to something else, and coupled ones."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
from scipy.signal import lfilter

from bdh.frontier import sec
from bdh.frontier.survey import Reading
from bdh.hebbian.held_out import HeldOut
from benchmarks.controls import NULL, PLANTED, TWINS, Control, Row

VOCAB = 24
Pair = tuple[np.ndarray, np.ndarray]


def text(lengths=(256,) * 8, window=64, seed=0, vocab=48, chain=False) -> HeldOut:
    """Documents of random tokens; `chain`: of a Markov chain whose tokens are as unequally common as words."""
    generator = np.random.default_rng(seed)
    inputs = markov(generator, sum(lengths), vocab) if chain else generator.integers(0, vocab, sum(lengths))
    whole = np.concatenate([np.full(length // window, window) for length in lengths])
    document = np.repeat(np.arange(len(lengths)), [length // window for length in lengths])
    return HeldOut(
        inputs=inputs,
        targets=np.roll(inputs, -1),
        bounds=np.concatenate([[0], np.cumsum(whole)]),
        document=document,
        position=np.concatenate([np.arange(1, length + 1) for length in lengths]),
        token_bytes=np.ones(inputs.size, dtype=np.int64),
        documents=pd.DataFrame({"id": range(len(lengths))}),
        window=window,
    )


def markov(generator: np.random.Generator, points: int, vocab: int) -> np.ndarray:
    """A Markov chain (points): what follows a token is partly its own, partly common words (Zipf)."""
    common = 1 / np.arange(1, vocab + 1)
    cumulative = (0.7 * generator.dirichlet(np.full(vocab, 0.3), vocab) + 0.3 * common / common.sum()).cumsum(1)
    tokens, uniform = np.zeros(points, dtype=np.int64), generator.random(points)
    for at in range(1, points):
        tokens[at] = min(vocab - 1, np.searchsorted(cumulative[tokens[at - 1]], uniform[at]))
    return tokens


class Scene:
    """A text of some documents of 256 tokens and what depends on it alone, for a seed."""

    def __init__(self, seed: int, documents: int = 12) -> None:
        """tokens, before, two_before: P. place: P, in the document. document: P."""
        self.generator = np.random.default_rng([seed, 5])
        self.text = text(lengths=(256,) * documents, seed=seed, vocab=VOCAB, chain=True)
        self.tokens = self.text.inputs
        self.before, self.two_before = np.roll(self.tokens, 1), np.roll(self.tokens, 2)
        self.place, self.document = self.text.position, self.text.token_document
        self.documents = documents

    def noise(self) -> np.ndarray:
        """Independent normal numbers (P)."""
        return self.generator.normal(size=self.tokens.size)

    def function(self, *arguments: np.ndarray) -> np.ndarray:
        """A random function of tokens."""
        return self.generator.normal(size=(VOCAB,) * len(arguments))[arguments]

    def each(self, low: int, high: int) -> np.ndarray:
        """A random number of every document."""
        return self.generator.integers(low, high, self.documents)[self.document]

    def drift(self) -> np.ndarray:
        """A slow wave through every document, of its own phase and period."""
        turns = self.each(1, 3)
        return np.sqrt(2) * np.sin(2 * np.pi * (turns * self.place / 256 + self.each(0, 100) / 100))

    def fading(self) -> np.ndarray:
        """An AR(1) of .9 of unit variance."""
        return np.asarray(lfilter([1.0], [1.0, -0.9], self.noise())) * np.sqrt(1 - 0.81)


def both(shared: np.ndarray, scene: Scene, noise: float = 1.0) -> Pair:
    """Two series that share something, each with noise of its own."""
    return shared + noise * scene.noise(), shared + noise * scene.noise()


def functions(scene: Scene, *arguments: np.ndarray, noise: float = 0.0) -> Pair:
    """Two independent random functions of the same tokens."""
    return tuple(scene.function(*arguments) + noise * scene.noise() for _ in range(2))


def coupled(scene: Scene, strength: float) -> Pair:
    """Density that follows `strength` of the surprisal beside noise; both depend on the two last tokens."""
    surprisal, habit = scene.noise(), scene.function(scene.before, scene.tokens)
    return habit + strength * surprisal + scene.noise(), habit + surprisal


def step(scene: Scene) -> np.ndarray:
    """1 in the head of every document, 0 in its body; heads have lengths of their own."""
    return (scene.place < scene.each(40, 120)).astype(float)


UNCOUPLED: dict[str, Callable[[Scene], Pair]] = {
    "independent series": lambda s: (s.noise(), s.noise()),
    "what both owe to the token": lambda s: both(s.function(s.tokens), s),
    "functions of the token": lambda s: functions(s, s.tokens, noise=0.3),
    "functions of the bigram": lambda s: functions(s, s.before, s.tokens),
    "functions of the bigram, with noise": lambda s: functions(s, s.before, s.tokens, noise=0.3),
    "the same function of the bigram, with noise": lambda s: both(s.function(s.before, s.tokens), s),
    "functions of the trigram, with noise": lambda s: functions(s, s.two_before, s.before, s.tokens, noise=0.3),
    "functions of the token and the last but one": lambda s: functions(s, s.two_before, s.tokens, noise=0.3),
    "a level step of half a sd in head and body": lambda s: both(0.5 * step(s), s),
    "a level step of one sd in head and body": lambda s: both(step(s), s),
    "a level step at one place": lambda s: both(0.5 * (s.place < 100), s),
    "a function of the place in the window": lambda s: both(s.generator.normal(size=64)[(s.place - 1) % 64], s),
    "a trend through every document": lambda s: both(s.place / 128, s),
    "a common drift of 0.3 sd": lambda s: both(0.3 * s.drift(), s),
    "a common drift of 0.6 sd": lambda s: both(0.6 * s.drift(), s),
    "a common drift of 1 sd in two of the documents": lambda s: both(s.drift() * (s.document < 2), s),
    "density follows the surprisal of the next token": lambda s: (lambda z: (np.roll(z, -1) + 0.3 * s.noise(), z))(
        s.noise()
    ),
    "density follows the surprisal of the last token but one": lambda s: (lambda z: (np.roll(z, 2) + s.noise(), z))(
        s.noise()
    ),
    "a level of every document": lambda s: both(s.each(-3, 4) / 2, s),
    "fading memories of their own": lambda s: (s.fading() + 0.3 * s.noise(), s.fading() + 0.3 * s.noise()),
    "head, bigram and heavy tails": lambda s: tuple(
        np.exp(one) for one in both(s.function(s.before, s.tokens) + 0.5 * step(s), s)
    ),
}
FEW = {
    "two documents with a common drift of 0.3 sd": (2, lambda s: both(0.3 * s.drift(), s)),
    "eight documents, a common drift of 0.3 sd": (8, lambda s: both(0.3 * s.drift(), s)),
    "eight documents, a level step of half a sd": (8, lambda s: both(0.5 * step(s), s)),
    "eight documents, functions of the bigram with noise": (8, lambda s: functions(s, s.before, s.tokens, noise=0.3)),
}


def as_reading(pair: Pair) -> Reading:
    """Density of two equal layers while a token is read, and its surprisal, which the token before pays."""
    density, surprisal = pair
    return Reading("xy_sparse", np.stack([density, density]), np.append(surprisal[1:], 0.0), density)


def sec_of(
    seed: int, own: Reading, held_out: HeldOut, like: Callable[[Scene], Pair] | None = None, twins: int = TWINS
) -> Row:
    """Twins are noise, or `like` with a text of the same tokens."""
    others = []
    for number in range(twins):
        scene = Scene(seed, 1)
        scene.generator = np.random.default_rng([seed, 15, number])
        scene.text, scene.tokens = held_out, held_out.inputs
        scene.before = np.roll(scene.tokens, 1)
        pair = (scene.noise(), scene.noise()) if like is None else like(scene)
        others.append(sec.numbers(as_reading(pair), held_out))
    return sec.measure(own, [twin for twin in others if twin], held_out)[0]


def sec_scene(
    make: Callable[[Scene], Pair],
    documents: int = 12,
    like: Callable[[Scene], Pair] | None = None,
    twins: int = TWINS,
) -> Callable[[int], Row]:
    """The row of a scene by seed."""

    def row(seed: int) -> Row:
        scene = Scene(seed, documents)
        return sec_of(seed, as_reading(make(scene)), scene.text, like, twins)

    return row


def quarter(scene: Scene) -> Pair:
    """Functions of the bigram a quarter as strong as the noise beside them."""
    return tuple(0.25 * one + scene.noise() for one in functions(scene, scene.before, scene.tokens))


def repeated_words(seed: int, shuffled: bool = False) -> Row:
    """A word of eight tokens over and over among fresh tokens; surprisal and density fall as it becomes known.

    Surprisal is that of counts of what followed each token so far. `shuffled`: the densities in random order.
    """
    generator = np.random.default_rng([seed, 6])
    held_out = text(lengths=(256,) * 12, seed=seed, vocab=VOCAB)
    inputs = held_out.inputs
    for start in range(0, inputs.size, 64):
        word = generator.permutation(VOCAB)[:8]
        inputs[start + 16 : start + 64] = np.tile(word, 6)
    counts = np.full((VOCAB, VOCAB), 0.1)
    surprise = np.zeros(inputs.size)
    for at in range(1, inputs.size):
        row = counts[inputs[at - 1]]
        surprise[at] = -np.log(row[inputs[at]] / row.sum())
        counts[inputs[at - 1]] *= 0.8
        counts[inputs[at - 1], inputs[at]] += 1.0
    density = np.abs(0.02 * surprise + 0.05 * generator.normal(size=inputs.size) + 0.1)
    if shuffled:
        density = density[generator.permutation(inputs.size)]
    return sec_of(seed, as_reading((density, surprise)), held_out)


def controls() -> list[Control]:
    """The controls of this module."""
    found = [Control("sec", NULL, name, sec_scene(make)) for name, make in UNCOUPLED.items()]
    found += [Control("sec", NULL, name, sec_scene(make, documents)) for name, (documents, make) in FEW.items()]
    found += [
        Control(
            "sec",
            NULL,
            "functions of the bigram, twins a quarter as strong",
            sec_scene(UNCOUPLED["functions of the bigram, with noise"], like=quarter),
        ),
        Control("sec", NULL, "repeated words, densities shuffled", lambda seed: repeated_words(seed, shuffled=True)),
        Control("sec", PLANTED, "repeated words", repeated_words),
    ]
    for strength in (0.05, 0.075, 0.1, 0.15, 0.2):
        name = f"density follows {strength:g} sd of surprisal per sd of noise"
        found.append(Control("sec", PLANTED, name, sec_scene(lambda s, k=strength: coupled(s, k))))
    name = "density falls by 0.15 sd per sd of surprisal"
    found.append(Control("sec", PLANTED, name, sec_scene(lambda s: coupled(s, -0.15)), below=True))
    return found
