"""Numbers over seeds, differences with their intervals, and the rules that turn them into words.

The words say nothing that the rule does not.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from bdh.intervals import ratio_interval

RESAMPLINGS = 2000


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

    p: two-sided, of no difference. seeds, units: how many seeds and units of text it is over (0: they are not in it).
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
        return Difference(value, None, None, "seeds")
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
NO_DIFFERENCE = "no difference shown"
NOT_TESTED = "not tested (no interval)"
DISTINCT = "differs from its null"
ABOVE = "above its null"
BELOW = "below its null"
NOT_DISTINCT = "not distinguishable from its null"
NULL_TONES = {ABOVE: "good", BELOW: "even", NOT_DISTINCT: "even"}


@dataclass(frozen=True)
class Verdict:
    """A word and how it is to be coloured: good, bad, even or none."""

    word: str
    tone: str = "none"


def of_interval(low: float | None, high: float | None) -> Verdict:
    """Verdict on a difference in bits per byte: below 0 is better, above 0 worse, around 0 shows no difference."""
    if low is None or high is None:
        return Verdict(NOT_TESTED)
    if high < 0:
        return Verdict(BETTER, "good")
    if low > 0:
        return Verdict(WORSE, "bad")
    return Verdict(NO_DIFFERENCE, "even")


def of_seeds(verdicts: list[Verdict]) -> Verdict:
    """One verdict for several seeds: theirs when all agree, otherwise how many say what."""
    words = [verdict.word for verdict in verdicts]
    if not words:
        return Verdict(NOT_TESTED)
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
