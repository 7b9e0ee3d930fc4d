"""Numbers over seeds, differences with their intervals, and the rules that turn them into words.

The words say nothing that the rule does not. The seed is the unit of evidence: one seed is never judged. Two sides are
compared in pairs: by seed, and by document where every run has them. With several seeds and the same documents the
differences form a table of seeds by documents, and their mean varies with both. Each of the two variances (between the
means of seeds, between the means of documents) has its own Student quantile: half the interval is the root of
t(S-1)^2 * variance of seeds + t(U-1)^2 * variance of documents, which covers at least 95 % whatever the two shares are
(Banerjee 1960, Sankhya 22). Blocks of one document are not independent of each other: with those, and with few
documents, the interval is over the seeds alone. S seeds, U units.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy import optimize, stats

from bdh.intervals import FEWEST_UNITS, ratio_interval

RESAMPLINGS = 2000
Key = tuple[str, ...]
"""What is judged: its kind, corpus, variant, and where there are any arm, stratum or metric."""


@dataclass(frozen=True)
class Spread:
    """Mean over seeds, sample standard deviation (None for one seed) and number of seeds."""

    mean: float
    sd: float | None
    n: int

    @property
    def half(self) -> float | None:
        """Half the width of Student's 95 % t interval of the mean over seeds, None for one seed."""
        if self.sd is None:
            return None
        return t_quantile(self.n - 1) * self.sd / math.sqrt(self.n)


@dataclass(frozen=True)
class Difference:
    """A difference, its 95 % interval (None, None when it cannot be had) and what the interval is over.

    p: two-sided, of no difference; None for one seed. seeds: how many trainings it rests on. units: how many units of
    text it is over (0: they are not in it).
    """

    value: float
    low: float | None
    high: float | None
    over: str
    p: float | None = None
    seeds: int = 0
    units: int = 0

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval exists and does not hold 0."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)

    @property
    def covers_seeds(self) -> bool:
        """Whether the interval exists and the chance of training is in it."""
        return self.low is not None and self.seeds > 1


def t_quantile(freedom: float) -> float:
    """The 97.5 % quantile of Student's t."""
    return float(stats.t.ppf(0.975, freedom))


def t_chance(t: float, freedom: float) -> float:
    """Two-sided p of a t value."""
    return float(2.0 * stats.t.cdf(-abs(t), freedom))


def over_seeds(values: Iterable[float | None]) -> Spread | None:
    """Spread of the values that are there, None when there are none."""
    there = [value for value in values if value is not None]
    if not there:
        return None
    mean = math.fsum(there) / len(there)
    if len(there) == 1:
        return Spread(mean, None, 1)
    variance = math.fsum((value - mean) ** 2 for value in there) / (len(there) - 1)
    return Spread(mean, math.sqrt(variance), len(there))


def seed_difference(a: Spread, b: Spread) -> Difference:
    """Mean of `a` minus mean of `b` with Welch's 95 % t interval over seeds.

    No interval when either has one seed or neither varies. Source: Welch (1947), Biometrika 34.
    """
    value = a.mean - b.mean
    if a.sd is None or b.sd is None or a.sd + b.sd == 0.0:
        return Difference(value, None, None, "seeds", seeds=min(a.n, b.n))
    part_a, part_b = a.sd**2 / a.n, b.sd**2 / b.n
    freedom = (part_a + part_b) ** 2 / (part_a**2 / (a.n - 1) + part_b**2 / (b.n - 1))
    error = math.sqrt(part_a + part_b)
    half = t_quantile(freedom) * error
    return Difference(value, value - half, value + half, "seeds", t_chance(value / error, freedom), min(a.n, b.n))


def paired_difference(a: pd.DataFrame | None, b: pd.DataFrame | None) -> Difference | None:
    """Bits per byte of `a` minus those of `b` with a 95 % interval from resampling units of text in pairs.

    a, b: columns kind, id, nats, bytes, one row per unit (document or block) in the order in which they were read. None
    when either is absent or when they read different text; no interval with few units (`bdh.intervals`).
    """
    same = ["kind", "id", "bytes"]
    if a is None or b is None or a[same].to_numpy().tolist() != b[same].to_numpy().tolist():
        return None
    bits = ((a["nats"] - b["nats"]) / math.log(2)).to_numpy(dtype=np.float64)
    size = a["bytes"].to_numpy(dtype=np.float64)
    value = float(bits.sum() / size.sum())
    low, high = ratio_interval(bits, size, resamplings=RESAMPLINGS)
    rest = bits - value * size
    error = math.sqrt(float(rest @ rest) * len(a) / max(1, len(a) - 1)) / float(size.sum())
    p = t_chance(value / error, len(a) - 1) if low is not None and error > 0 else None
    return Difference(value, low, high, units_of(a), p, units=len(a))


def units_of(table: pd.DataFrame) -> str:
    """What the rows of a table of units are, in the plural."""
    return str(table["kind"].iloc[0]).replace("document", "documents").replace("block", "blocks")


LEVEL = 0.05

BETTER = "better"
WORSE = "worse"
EQUAL = "practically equal"
NO_DIFFERENCE = "no difference shown"
NOT_TESTED = "not tested (no interval)"
ONE_SEED = "one seed: not judged"
WHY_ONE_SEED = (
    "One seed: nothing over seeds is measured, and nothing is judged. Another seed, or other rounding on another"
    " machine, moves results by as much as variants differ. Intervals are over documents, for this seed only."
)
DISTINCT = "differs from its null"
ABOVE = "above its null"
BELOW = "below its null"
LOWERED = "training lowered it below its nulls"
NOT_DISTINCT = "not distinguishable from its null"
NULL_TONES = {ABOVE: "good", BELOW: "even", NOT_DISTINCT: "even"}
OF_SEVERAL = {BETTER, WORSE, EQUAL, NO_DIFFERENCE, DISTINCT, ABOVE, BELOW, NOT_DISTINCT}
"""Words that take two seeds or more."""


@dataclass(frozen=True)
class Verdict:
    """A word and how it is to be coloured: good, bad, even or none."""

    word: str
    tone: str = "none"


def of_interval(low: float | None, high: float | None, smallest: float = 0.0, adjusted: float | None = None) -> Verdict:
    """Verdict on a difference in bits per byte with its 95 % interval over several seeds.

    Better or worse: the whole interval on one side of 0, the estimate (its middle) at least `smallest` from 0, and the
    p-value `adjusted` for all that is judged, where there is one, below 0.05. Practically equal: the whole interval
    within `smallest` of 0. Else no difference is shown.
    """
    if low is None or high is None:
        return Verdict(NOT_TESTED)
    if (smallest > 0 and -smallest < low and high < smallest) or low == high == 0.0:
        return Verdict(EQUAL, "even")
    if abs(low + high) / 2 >= smallest and (adjusted is None or adjusted < LEVEL):
        if high < 0:
            return Verdict(BETTER, "good")
        if low > 0:
            return Verdict(WORSE, "bad")
    return Verdict(NO_DIFFERENCE, "even")


def of_difference(gap: Difference | None, smallest: float, adjusted: float | None = None) -> Verdict:
    """The same of a difference; one seed is not judged."""
    if gap is None:
        return Verdict(NOT_TESTED)
    return Verdict(ONE_SEED) if gap.seeds < 2 else of_interval(gap.low, gap.high, smallest, adjusted)


def of_seeds(verdicts: list[Verdict]) -> Verdict:
    """One verdict for several seeds: theirs when all agree, otherwise how many say what; one seed is not judged."""
    words = [verdict.word for verdict in verdicts]
    if not words:
        return Verdict(NOT_TESTED)
    if len(words) == 1 and words[0] in OF_SEVERAL:
        return Verdict(ONE_SEED)
    if len(set(words)) == 1:
        return verdicts[0]
    counts = {word: words.count(word) for word in dict.fromkeys(words)}
    return Verdict("seeds differ: " + ", ".join(f"{count} {word}" for word, count in counts.items()), "even")


def of_null(written: str | None, p: float | None) -> Verdict:
    """Verdict on a metric beside its nulls: the one that the evaluation has `written` by its own, stricter rule.

    Without one: the two-sided p-value against the first null at the level 0.05; without that: not tested.
    """
    if written is not None:
        return Verdict(written, NULL_TONES.get(written, "none"))
    if p is None:
        return Verdict("not tested (too few draws of the null)")
    return Verdict(DISTINCT, "good") if p < LEVEL else Verdict(NOT_DISTINCT, "even")


ROUNDING = 1e-6


@dataclass(frozen=True)
class Side:
    """Bits per byte of one run, and its units of text (columns kind, id, nats, bytes), None without."""

    bits: float
    units: pd.DataFrame | None

    @property
    def whole(self) -> bool:
        """Whether the units add up to the bits per byte; those of another evaluation do not."""
        if self.units is None:
            return False
        bits = float(self.units["nats"].sum()) / math.log(2) / float(self.units["bytes"].sum())
        return abs(bits - self.bits) <= ROUNDING * max(1.0, abs(self.bits))


def over_pairs(pairs: Sequence[tuple[Side, Side]]) -> Difference:
    """Bits per byte of the first side minus the second, one pair per seed.

    One seed: units resampled in pairs, and no p. Several: over seeds and documents together, over seeds alone when the
    documents are too few, differ, or are not there. No interval where neither is possible.
    """
    tables = [(a.units, b.units) for a, b in pairs if a.whole and b.whole]
    if len(pairs) == 1:
        found = paired_difference(*tables[0]) if tables else None
        if found is None:
            return Difference(pairs[0][0].bits - pairs[0][1].bits, None, None, "nothing", seeds=1)
        return replace(found, p=None, seeds=1)
    if len(tables) == len(pairs):
        crossed = crossed_difference([(a, b) for a, b in tables if a is not None and b is not None])
        if crossed is not None:
            return crossed
    return paired_seeds([a.bits - b.bits for a, b in pairs])


def paired_seeds(differences: Sequence[float]) -> Difference:
    """Mean of one difference per seed with Student's paired t interval; none when the seeds do not differ.

    Several differences that are all exactly 0 have the interval from 0 to 0.
    """
    values = np.asarray(differences, dtype=np.float64)
    S, value = values.size, float(values.mean())
    error = float(values.std(ddof=1)) / math.sqrt(S) if S > 1 else 0.0
    if error == 0.0:
        return _without_chance(value, "seeds", S)
    half = t_quantile(S - 1) * error
    return Difference(value, value - half, value + half, "seeds", t_chance(value / error, S - 1), S)


def _without_chance(value: float, over: str, seeds: int, units: int = 0) -> Difference:
    """A difference that is the same everywhere: no interval, but where it is exactly 0 over several seeds, a tie."""
    tie = value == 0.0 and seeds > 1
    return Difference(value, 0.0 if tie else None, 0.0 if tie else None, over, 1.0 if tie else None, seeds, units)


def crossed_difference(tables: Sequence[tuple[pd.DataFrame, pd.DataFrame]]) -> Difference | None:
    """Mean difference in bits per byte over S >= 2 seeds and U >= 8 documents; None without those."""
    same = ["kind", "id", "bytes"]
    first = tables[0][0]
    rows = first[same].to_numpy().tolist()
    if len(first) < FEWEST_UNITS or units_of(first) != DOCUMENTS:
        return None
    if any(side[same].to_numpy().tolist() != rows for pair in tables for side in pair):
        return None
    bytes_U = first["bytes"].to_numpy(dtype=np.float64)
    bits_SU = np.stack([((a["nats"] - b["nats"]) / math.log(2)).to_numpy(dtype=np.float64) for a, b in tables])
    S, U = bits_SU.shape
    over = f"seeds and {DOCUMENTS}"
    mean, seeds_part, text_part = (float(part) for part in crossed_parts(bits_SU, bytes_U))
    if seeds_part + text_part == 0.0:
        return _without_chance(mean, over, S, U)
    half = float(crossed_half(seeds_part, text_part, S, U))
    return Difference(mean, mean - half, mean + half, over, _crossed_chance(mean, seeds_part, text_part, S, U), S, U)


DOCUMENTS = "documents"


def crossed_parts(bits: np.ndarray, size: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean difference and its variances from seeds and from documents, each of shape (...).

    bits: differences in bits (...,S,U); size: bytes of the documents (U,). The interaction of seeds and documents is
    counted in both variances.
    """
    S, U = bits.shape[-2:]
    total = float(size.sum())
    mean = bits.sum((-2, -1)) / (S * total)
    seeds_part = (bits.sum(-1) / total).var(-1, ddof=1) / S
    rest = bits.mean(-2) - mean[..., None] * size
    return mean, seeds_part, (rest**2).sum(-1) * U / (U - 1) / total**2


def crossed_half(
    seeds_part: np.ndarray | float, text_part: np.ndarray | float, S: int, U: int, level: float = LEVEL
) -> np.ndarray | float:
    """Half the interval from two variances, each with Student's quantile of its own degrees of freedom."""
    t_S, t_U = (float(stats.t.isf(level / 2, count - 1)) for count in (S, U))
    return np.sqrt(t_S**2 * seeds_part + t_U**2 * text_part)


SMALLEST_CHANCE = 1e-12


def _crossed_chance(value: float, seeds_part: float, text_part: float, S: int, U: int) -> float:
    """The level at which the interval just reaches 0."""

    def beyond(level: float) -> float:
        return abs(value) - float(crossed_half(seeds_part, text_part, S, U, level))

    if beyond(1.0) <= 0:
        return 1.0
    if beyond(SMALLEST_CHANCE) >= 0:
        return SMALLEST_CHANCE
    return float(optimize.brentq(beyond, SMALLEST_CHANCE, 1.0, xtol=1e-14))


def discoveries(chances: Mapping[Key, float]) -> dict[Key, float]:
    """The p-values of one family, adjusted so that of what is called different at most 5 % is expected to be false.

    Benjamini & Yekutieli (2001), Annals of Statistics 29: it holds however the tests depend on each other.
    """
    if not chances:
        return {}
    adjusted = stats.false_discovery_control(list(chances.values()), method="by")
    return dict(zip(chances, (float(p) for p in adjusted), strict=True))
