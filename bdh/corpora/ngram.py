"""Floors from counting: n-gram models of the training split, scored on exactly the targets that stage B scores.

What a model of text must beat before its mechanism is worth a word. All are trained on the tokens of the training
split, in the order of the file and with the ends of its documents, and frozen; the vocabulary is that of the
tokenizer, so probabilities sum to one over all V ids and none is zero. h is a context of n-1 tokens, h' the same
without its oldest token, c(h w) how often w followed h, c(h) = sum_w c(h w), t(h) how many different tokens followed.

- `witten_bell`: p(w|h) = (c(h w) + t(h) p(w|h')) / (c(h) + t(h)), down to 1/V (Witten and Bell 1991, interpolated as
  in Chen and Goodman 1998).
- `kneser_ney`: modified Kneser-Ney, interpolated (Chen and Goodman 1998, section 4.1.6): three discounts per order
  from the counts of counts; below the highest order c(h w) is the number of different tokens that stood before (h w).
  Where counts of counts give no discount between 0 and the count it takes from, 0.5, 1 and 1.5 are taken.
- `ppm`: PPM-D with full exclusion (Howard 1993; Cleary and Witten 1984; exclusion as in Moffat 1990): w after h has
  (2 c(h w) - 1) / 2 c(h); t(h) / 2 c(h) goes on to h', where whatever followed h no longer counts; at the end 1/V', V'
  ids that never occurred. This is the mixture of orders by counts alone, order by order down from the longest.

An unseen context falls back to h' at no cost; where fewer than n-1 tokens may be read, the model of that lower order
answers.
What may be read: the n-1 tokens before the target inside its window (`reach="window"`), which is what the arm `static`
knows: the first target of a window has one token of context, the second two. Or inside its document
(`reach="document"`), across the borders of windows, as an arm that carries a state could know them.

A gram of k tokens is a whole number: the place of (number of its first k-1 tokens) * V + last token among all such
keys, sorted. So one sort per order counts everything, whatever the vocabulary, and memory is that of a few arrays of
the length of the text.

Letters: N tokens of training, P targets, G different grams of one order, C contexts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from bdh.corpora.tokens import TokenCorpus
from bdh.project.errors import RunError

MODELS = ("witten_bell", "kneser_ney", "ppm")
ORDERS = (1, 2, 3, 4, 5, 6)
FALLBACK_DISCOUNTS = (0.5, 1.0, 1.5)
UNSEEN = -1
MOST_TOKENS = 6_000_000
"""Tokens of training that the floors count, the last ones: 1.6 GB of memory and half a minute per reading."""


class ScoredText(Protocol):
    """Held-out text as `bdh.hebbian.held_out.HeldOut` has it: P targets in W windows, document after document."""

    @property
    def inputs(self) -> np.ndarray:
        """P, the token before each target."""

    @property
    def targets(self) -> np.ndarray:
        """P, ids."""

    @property
    def token_bytes(self) -> np.ndarray:
        """P, UTF-8 bytes of each target."""

    @property
    def bounds(self) -> np.ndarray:
        """W+1, where windows begin and end."""

    @property
    def position(self) -> np.ndarray:
        """P, place of each target in its document (1 is the second token)."""


def floors(
    corpus: TokenCorpus, validation: ScoredText, test: ScoredText, most_tokens: int = MOST_TOKENS
) -> dict[str, Any]:
    """What stage `floors` writes: every model of every order on the targets of `test`, and which ones to stand beside.

    `floors` by model and order: nats per token and bits per byte of `test`, bits per byte of `validation`, all with
    reach `window`. `chosen`: of each kind the order with the fewest bits on `validation`, the lower one where two are
    equal, and of these the `strongest`: no choice is made on the test text. `across_windows`: Kneser-Ney on `test` with
    reach `document`. `train_tokens`: tokens counted. Errors as for `ngram_scores`.
    """
    on_validation, on_test = (
        {name: _total(nats, text) for name, nats in ngram_scores(corpus, text, most_tokens=most_tokens).items()}
        for text in (validation, test)
    )
    across = ngram_scores(corpus, test, reach="document", most_tokens=most_tokens)
    bits = {name: total["bits_per_byte"] for name, total in on_validation.items()}
    return {
        "corpus": corpus.name,
        "tokens": int(test.targets.size),
        "bytes": int(test.token_bytes.sum()),
        "train_tokens": min(len(corpus.tokens("train")), most_tokens),
        "floors": {name: total | {"validation_bits_per_byte": bits[name]} for name, total in on_test.items()},
        "chosen": _chosen(bits),
        "across_windows": {name: _total(nats, test) for name, nats in across.items() if name.startswith("kneser_ney")},
    }


def _total(nats: np.ndarray, text: ScoredText) -> dict[str, float]:
    """Nats per token and bits per byte of all targets of a text, from the nats of each (P)."""
    total = float(nats.sum())
    return {
        "nats_per_token": total / nats.size,
        "bits_per_byte": total / math.log(2.0) / int(text.token_bytes.sum()),
    }


def _chosen(bits: Mapping[str, float]) -> dict[str, str]:
    """The model with the fewest bits of each kind, and of all kinds (`strongest`)."""
    best = {kind: min((n for n in bits if n.startswith(kind)), key=lambda n: (bits[n], n)) for kind in MODELS}
    return best | {"strongest": min(best.values(), key=lambda name: bits[name])}


def ngram_scores(
    corpus: TokenCorpus,
    text: ScoredText,
    orders: Sequence[int] = ORDERS,
    *,
    reach: str = "window",
    most_tokens: int | None = None,
) -> dict[str, np.ndarray]:
    """Nats of every scored target (P, float64) under each model of each order: keys `witten_bell_3` and so on.

    most_tokens: count only the last so many tokens of the training split (None: all). Raises RunError for an order
    below 1, an unknown reach or an empty training split.
    """
    if reach not in ("document", "window"):
        raise RunError(f"n-grams: reach {reach!r}; allowed: document, window")
    reach_P = text.position if reach == "document" else place_in_window(text.bounds)
    train = corpus.tokens("train")
    train = train if most_tokens is None else train[max(len(train) - most_tokens, 0) :]
    return score(np.asarray(train, dtype=np.int64), corpus.vocab_size, text.inputs, text.targets, reach_P, orders)


def place_in_window(bounds: np.ndarray) -> np.ndarray:
    """How many tokens of its window stand before each target (P), from the bounds of the windows (W+1)."""
    lengths = np.diff(bounds)
    return np.arange(1, bounds[-1] + 1) - np.repeat(bounds[:-1], lengths)


def score(
    train: np.ndarray,
    vocab_size: int,
    inputs: np.ndarray,
    targets: np.ndarray,
    reach: np.ndarray,
    orders: Sequence[int] = ORDERS,
) -> dict[str, np.ndarray]:
    """As `ngram_scores`, from arrays: N ids of training; P ids before the targets, P targets, P tokens in reach.

    The `reach[p]` tokens that may be read for target p are those that end with `inputs[p]`.
    """
    if not len(orders) or min(orders) < 1:
        raise RunError(f"n-grams: orders {list(orders)}; they are whole numbers from 1 on")
    if not train.size:
        raise RunError("n-grams: the training split is empty; there is nothing to count")
    witten_bell, kneser_ney, ppm = (rule(targets.size, vocab_size) for rule in (WittenBell, KneserNey, Ppm))
    nats = {}
    for order, level in enumerate(levels(train, vocab_size, inputs, targets, reach, max(orders)), start=1):
        for name, model in zip(MODELS, (witten_bell, kneser_ney, ppm), strict=True):
            probability_P = model.step(level)
            if order in orders:
                nats[f"{name}_{order}"] = -np.log(probability_P)
    return nats


@dataclass(frozen=True)
class Level:
    """The counts of one order n for P targets; where the context is unseen all of them are 0.

    within: whether n-1 tokens may be read.
    count, context_count, context_types: c(h w), c(h), t(h). left_count, left_context: the same two with the number of
    different tokens before (h w) in place of c(h w); all 0 at the highest order, where nobody asks. discounted,
    left_discounted: what modified Kneser-Ney takes from c(h w); taken, left_taken: what it takes after h in all.
    excluded: sum of c(h' w) over the tokens w that followed h.
    """

    within: np.ndarray
    count: np.ndarray
    context_count: np.ndarray
    context_types: np.ndarray
    left_count: np.ndarray
    left_context: np.ndarray
    discounted: np.ndarray
    left_discounted: np.ndarray
    taken: np.ndarray
    left_taken: np.ndarray
    excluded: np.ndarray


class WittenBell:
    """Order by order, the probability of every target; see the head of this file."""

    def __init__(self, targets: int, vocab_size: int) -> None:
        """Before any order: uniform over the vocabulary."""
        self.probability = np.full(targets, 1.0 / vocab_size)

    def step(self, level: Level) -> np.ndarray:
        """Probabilities (P) under the model of this order, from those of the order before."""
        counted, escape = level.count.astype(np.float64), level.context_types
        self.probability = _blend(counted, escape, level.context_count + escape, self.probability)
        return self.probability


class KneserNey:
    """As `WittenBell`, with modified Kneser-Ney; the lower orders count what stood before, so two chains run."""

    def __init__(self, targets: int, vocab_size: int) -> None:
        """Before any order: uniform over the vocabulary."""
        self.probability = self.lower = np.full(targets, 1.0 / vocab_size)

    def step(self, level: Level) -> np.ndarray:
        """Probabilities (P) with this order as the highest."""
        highest = _blend(level.count - level.discounted, level.taken, level.context_count, self.lower)
        kept = level.left_count - level.left_discounted
        self.lower = _blend(kept, level.left_taken, level.left_context, self.lower)
        self.probability = np.where(level.within, highest, self.probability)
        return self.probability


class Ppm:
    """As `WittenBell`, with PPM-D: what followed a longer context is excluded when a shorter one is asked."""

    def __init__(self, targets: int, vocab_size: int) -> None:
        """Before any order: uniform over the vocabulary."""
        self.vocab_size = vocab_size
        self.probability = np.full(targets, 1.0 / vocab_size)
        self.below = self.probability
        self.shorter: Level | None = None

    def step(self, level: Level) -> np.ndarray:
        """Probabilities (P) with this order as the highest."""
        escaped = self._escaped(level)
        found = self._among(level, level.context_count, level.context_types, escaped)
        self.probability = np.where(level.context_count > 0, found, self.probability)
        self.below, self.shorter = escaped, level
        return self.probability

    def _escaped(self, level: Level) -> np.ndarray:
        """Probability (P) under the next shorter context, given that the target is none of those after this one."""
        if self.shorter is None:
            return np.full(level.count.size, 1.0) / np.maximum(self.vocab_size - level.context_types, 1)
        types = self.shorter.context_types - level.context_types
        among = self._among(self.shorter, self.shorter.context_count - level.excluded, types, self.below)
        return np.where(types > 0, among, self.below)

    def _among(self, level: Level, total: np.ndarray, types: np.ndarray, below: np.ndarray) -> np.ndarray:
        """PPM-D of one context in which `types` tokens with `total` counts are left; nothing escapes from all of V."""
        escape = np.where(level.context_types < self.vocab_size, types, 0)
        whole = np.maximum(2 * total - types + escape, 1)
        return np.where(level.count > 0, 2 * level.count - 1, escape * below) / whole


def _blend(counted: np.ndarray, passed_on: np.ndarray, total: np.ndarray, shorter: np.ndarray) -> np.ndarray:
    """(counted + passed_on * shorter) / total, and `shorter` itself where nothing was counted."""
    return np.where(total > 0, (counted + passed_on * shorter) / np.maximum(total, 1), shorter)


@dataclass(frozen=True)
class Grams:
    """All different grams of k tokens of the training text, and where they stand.

    keys: G, sorted (number of the first k-1 tokens) * V + last token. count: G. number: N-k+1, which gram ends at each
    place from the k-th token on. contexts: C, how many different grams of k-1 tokens there are. context: G, the
    number of the first k-1 tokens. suffix: G, the number of the last k-1 tokens.
    """

    keys: np.ndarray
    count: np.ndarray
    number: np.ndarray
    contexts: int
    context: np.ndarray
    suffix: np.ndarray


def levels(
    train: np.ndarray, vocab_size: int, inputs: np.ndarray, targets: np.ndarray, reach: np.ndarray, highest: int
) -> Iterator[Level]:
    """The counts of orders 1 to `highest` for every target, lowest first; three orders are held at a time."""
    context = np.zeros(targets.size, dtype=np.int64)
    shorter: Grams | None = None
    grams = _grams(train, vocab_size, np.zeros(train.size + 1, dtype=np.int64), 1)
    for order in range(1, highest + 1):
        longer = _grams(train[order:], vocab_size, grams.number, len(grams.keys)) if order < highest else None
        gram = _find(grams.keys, context, targets, vocab_size)
        yield _level(grams, shorter, longer, reach >= order - 1, context, gram)
        if longer is None:
            return
        # a target's next context is this order's gram that ends with its input: its neighbour's context, and the input
        before = context if order == 1 else np.append(UNSEEN, context[:-1])
        context = np.where(reach >= order, _find(grams.keys, before, inputs, vocab_size), UNSEEN)
        shorter, grams = grams, longer


def _grams(last: np.ndarray, vocab_size: int, shorter_number: np.ndarray, contexts: int) -> Grams:
    """All grams that end with a token of `last`, from the numbers of the grams that end one place earlier."""
    keys, first, number, count = np.unique(
        shorter_number[: last.size] * vocab_size + last, return_index=True, return_inverse=True, return_counts=True
    )
    return Grams(keys, count, number, contexts, keys // vocab_size, shorter_number[first + 1])


def _find(keys: np.ndarray, context: np.ndarray, token: np.ndarray, vocab_size: int) -> np.ndarray:
    """Numbers (P) of the grams `context` + `token`; UNSEEN where there is no such gram or the context is unseen."""
    if not keys.size:
        return np.full(context.size, UNSEEN)
    wanted = context * vocab_size + token
    place = np.minimum(np.searchsorted(keys, wanted), keys.size - 1)
    return np.where((context != UNSEEN) & (keys[place] == wanted), place, UNSEEN)


def _level(
    grams: Grams,
    shorter: Grams | None,
    longer: Grams | None,
    within: np.ndarray,
    context: np.ndarray,
    gram: np.ndarray,
) -> Level:
    """The counts of one order for targets whose context and whose gram have these numbers (P, UNSEEN for none)."""
    left = np.zeros_like(grams.count) if longer is None else np.bincount(longer.suffix, minlength=grams.count.size)
    outside = np.zeros_like(grams.count) if shorter is None else shorter.count[grams.suffix]
    discount, left_discount = (_discounts(count)[np.minimum(count, 3)] for count in (grams.count, left))

    def after(values: np.ndarray) -> np.ndarray:
        """Sums over the tokens after each target's context (P) of a value per gram (G)."""
        return _taken_at(np.bincount(grams.context, weights=values, minlength=grams.contexts), context)

    return Level(
        within=within,
        count=_taken_at(grams.count, gram),
        context_count=after(grams.count),
        context_types=after(np.ones_like(grams.count)),
        left_count=_taken_at(left, gram),
        left_context=after(left),
        discounted=_taken_at(discount, gram),
        left_discounted=_taken_at(left_discount, gram),
        taken=after(discount),
        left_taken=after(left_discount),
        excluded=after(outside),
    )


def _taken_at(values: np.ndarray, place: np.ndarray) -> np.ndarray:
    """`values[place]`, 0 where the place is UNSEEN."""
    return np.append(values, 0)[place]


def _discounts(count: np.ndarray) -> np.ndarray:
    """Modified Kneser-Ney's discounts for counts of 0, 1, 2 and more (4) from the counts of all grams of an order."""
    n1, n2, n3, n4 = (int((count == times).sum()) for times in (1, 2, 3, 4))
    if min(n1, n2, n3, n4) == 0:
        return np.array([0.0, *FALLBACK_DISCOUNTS])
    y = n1 / (n1 + 2 * n2)
    found = (1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3)
    sound = all(0 < discount <= most for most, discount in enumerate(found, start=1))
    return np.array([0.0, *(found if sound else FALLBACK_DISCOUNTS)])
