"""MCL of a variant against the dense baseline: a difference of two shares and its interval."""

from __future__ import annotations

import math

from bdh.report import formats
from bdh.report.inputs import Inputs, Run
from bdh.report.spread import Difference

BASELINES = ("transformer", "transformer_flops")


def baseline_notes(inputs: Inputs, corpus: str) -> list[str]:
    """One note per dense baseline that has MCL on this corpus: every other variant's share minus its."""
    notes = []
    for rival in (name for name in BASELINES if name in inputs.variants):
        gaps = [
            f"{variant} {formats.difference(gap)}"
            for variant in inputs.variants
            if variant not in BASELINES
            and (gap := difference(inputs.of(corpus, variant), inputs.of(corpus, rival))) is not None
        ]
        if gaps:
            notes.append(f"Share minus that of the dense baseline {rival} (Newcombe's interval): {'; '.join(gaps)}.")
    return notes


def difference(runs: list[Run], rivals: list[Run]) -> Difference | None:
    """Share of `runs` minus that of `rivals`, means over seeds, None where either was not measured.

    Interval: Newcombe's hybrid of the two intervals (1998, method 10), the widest over seeds.
    """
    ours, theirs = _share(runs), _share(rivals)
    if ours is None or theirs is None:
        return None
    (a, a_low, a_high), (b, b_low, b_high) = ours, theirs
    low = a - b - math.hypot(a - a_low, b_high - b)
    return Difference(a - b, low, a - b + math.hypot(a_high - a, b - b_low), "neurons")


def _share(runs: list[Run]) -> tuple[float, float, float] | None:
    """Mean share over seeds, lowest lower and highest upper end of its interval."""
    found = [tuple(run.frontier.number(f"mcl/{name}") for name in ("value", "ci_low", "ci_high")) for run in runs]
    whole = [(v, low, high) for v, low, high in found if v is not None and low is not None and high is not None]
    if not whole:
        return None
    values, lows, highs = zip(*whole, strict=True)
    return sum(values) / len(values), min(lows), max(highs)
