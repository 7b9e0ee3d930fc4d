"""Two sides compared in pairs: by seed, and by unit of text where every run has them.

With several seeds and the same text the differences form a table of seeds by units. Their mean varies with the seeds
and with the text: the variance is the sum of that between the means of seeds and that between the means of units (their
interaction is counted in both, so the interval errs on the wide side), with the degrees of freedom of Satterthwaite
(1946), Biometrics Bulletin 2. S seeds, U units.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from bdh.intervals import FEWEST_UNITS
from bdh.report.data.spread import Difference, paired_difference, t_chance, t_quantile, units_of

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

    One seed: units resampled in pairs. Several: over seeds and units together, over seeds alone when the units of text
    are too few, differ, or are not there. No interval where neither is possible.
    """
    tables = [(a.units, b.units) for a, b in pairs if a.whole and b.whole]
    if len(pairs) == 1:
        found = paired_difference(*tables[0]) if tables else None
        return found or Difference(pairs[0][0].bits - pairs[0][1].bits, None, None, "nothing")
    if len(tables) == len(pairs):
        crossed = crossed_difference([(a, b) for a, b in tables if a is not None and b is not None])
        if crossed is not None:
            return crossed
    return paired_seeds([a.bits - b.bits for a, b in pairs])


def paired_seeds(differences: Sequence[float]) -> Difference:
    """Mean of one difference per seed with Student's paired t interval; none when the seeds do not differ."""
    values = np.asarray(differences, dtype=np.float64)
    S, value = values.size, float(values.mean())
    error = float(values.std(ddof=1)) / math.sqrt(S) if S > 1 else 0.0
    if error == 0.0:
        return Difference(value, None, None, "seeds", seeds=S)
    half = t_quantile(S - 1) * error
    return Difference(value, value - half, value + half, "seeds", t_chance(value / error, S - 1), S)


def crossed_difference(tables: Sequence[tuple[pd.DataFrame, pd.DataFrame]]) -> Difference | None:
    """Mean difference in bits per byte over S >= 2 seeds and U >= 8 units of the same text; None without those."""
    same = ["kind", "id", "bytes"]
    first = tables[0][0]
    rows = first[same].to_numpy().tolist()
    if len(first) < FEWEST_UNITS or any(side[same].to_numpy().tolist() != rows for pair in tables for side in pair):
        return None
    bytes_U = first["bytes"].to_numpy(dtype=np.float64)
    bits_SU = np.stack([((a["nats"] - b["nats"]) / math.log(2)).to_numpy(dtype=np.float64) for a, b in tables])
    S, U = bits_SU.shape
    value = float(bits_SU.sum() / (S * bytes_U.sum()))
    seeds = float((bits_SU.sum(1) / bytes_U.sum()).var(ddof=1)) / S
    rest_U = bits_SU.mean(0) - value * bytes_U
    text = float(rest_U @ rest_U) * U / (U - 1) / float(bytes_U.sum()) ** 2
    over = f"seeds and {units_of(first)}"
    if seeds + text == 0.0:
        return Difference(value, None, None, over, seeds=S, units=U)
    freedom = (seeds + text) ** 2 / (seeds**2 / (S - 1) + text**2 / (U - 1))
    error = math.sqrt(seeds + text)
    half = t_quantile(freedom) * error
    return Difference(value, value - half, value + half, over, t_chance(value / error, freedom), S, U)


def holm(chances: Sequence[float | None]) -> list[float | None]:
    """p-values adjusted for their number: Holm (1979), Scandinavian Journal of Statistics 6; None stays None."""
    there = sorted((p, place) for place, p in enumerate(chances) if p is not None)
    adjusted: list[float | None] = [None] * len(chances)
    largest = 0.0
    for rank, (p, place) in enumerate(there):
        largest = max(largest, min(1.0, p * (len(there) - rank)))
        adjusted[place] = largest
    return adjusted
