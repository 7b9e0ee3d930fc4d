"""What a claim's rule returns, and the steps that the rules share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bdh.report import formats
from bdh.report.data.inputs import Inputs, RunResults
from bdh.report.data.spread import (
    BETTER,
    EQUAL,
    NOT_DISTINCT,
    WORSE,
    Difference,
    Spread,
    of_interval,
)

SUPPORTED = "supported"
NOT_SUPPORTED = "not supported"
TOO_SMALL = "not judged at this scale"
NOT_MEASURABLE = "not measurable"
NOT_MEASURED = "not measured yet"
WEAKEST_FIRST = (NOT_SUPPORTED, NOT_MEASURABLE, TOO_SMALL, NOT_DISTINCT)
JUDGED = {SUPPORTED, NOT_SUPPORTED, NOT_DISTINCT}
"""Verdicts that say something about a claim: they take several seeds, and most of them the references' scale."""


@dataclass(frozen=True)
class Finding:
    """The verdict, what was measured (one line each), its interval or null, and the rule that led to the verdict.

    effect: the comparison or the value that decides. reason: why there is no judgement. runs: those that were read;
    empty stands for all of the claim's families.
    """

    verdict: str
    measured: str = formats.ABSENT
    uncertainty: str = formats.ABSENT
    rule: str = ""
    effect: Difference | None = None
    reason: str = ""
    runs: Sequence[RunResults] = ()


def weakest(verdicts: Sequence[str]) -> str:
    """The verdict that decides: a claim is no better than its weakest part; without parts, not measured yet."""
    if not verdicts:
        return NOT_MEASURED
    return next((word for word in WEAKEST_FIRST if word in verdicts), SUPPORTED)


def joined(
    verdicts: Sequence[str],
    parts: Sequence[str],
    rule: str,
    uncertainty: str = formats.ABSENT,
    effects: Sequence[Difference | None] = (),
    runs: Sequence[RunResults] = (),
) -> Finding:
    """The weakest of the verdicts with all the measurements, and the effect that belongs to it."""
    verdict = weakest(verdicts)
    if verdict == NOT_MEASURED:
        return Finding(NOT_MEASURED, rule=rule)
    deciding = [effect for word, effect in zip(verdicts, effects, strict=False) if word == verdict and effect]
    return Finding(
        verdict, "\n".join(parts), uncertainty, rule, max(deciding, key=lambda gap: gap.value, default=None), runs=runs
    )


def lacking(reason: str, rule: str, parts: Sequence[str] = (), runs: Sequence[RunResults] = ()) -> Finding:
    """Not measurable, and why; what was measured is told all the same."""
    return Finding(NOT_MEASURABLE, "\n".join(parts) or formats.ABSENT, rule=rule, reason=reason, runs=runs)


def below(gap: Difference, limit: float = 0.0) -> str:
    """Verdict on "the difference is below `limit`" by where its whole interval lies; none: not measurable.

    An interval that only touches the limit is not below it: an exact tie is never supported. Nor is a difference that
    is the same to the last digit in every pair: two different trainings never agree so.
    """
    if gap.low is None or gap.high is None:
        return NOT_MEASURABLE
    if gap.low == gap.high < limit:
        return NOT_DISTINCT
    return SUPPORTED if gap.high < limit else NOT_SUPPORTED if gap.low >= limit else NOT_DISTINCT


def better(gap: Difference, smallest: float) -> str:
    """Verdict on "the first is better": by the same words as the tables; practically equal is not better."""
    if gap.low is None:
        return NOT_MEASURABLE
    word = of_interval(gap.low, gap.high, smallest).word
    return {BETTER: SUPPORTED, WORSE: NOT_SUPPORTED, EQUAL: NOT_SUPPORTED}.get(word, NOT_DISTINCT)


def value_over_seeds(spread: Spread | None) -> Difference | None:
    """A mean over seeds with its t interval, in the form of an effect; one seed has no interval."""
    if spread is None:
        return None
    half = spread.half
    low, high = (None, None) if half is None else (spread.mean - half, spread.mean + half)
    return Difference(spread.mean, low, high, "seeds", seeds=spread.n)


def differ_in_one(inputs: Inputs, corpus: str, a: str, b: str, key: str) -> bool:
    """Whether the settings of two variants on one corpus differ in the setting `key` and in no other."""
    own, other = (inputs.settings.get((variant, corpus), {}) for variant in (a, b))
    return {name for name in own.keys() | other.keys() if own.get(name) != other.get(name)} == {key}


def fewest_seeds(runs: Sequence[RunResults]) -> int:
    """Seeds of the variant and corpus that has the fewest; 0 without runs."""
    return min((len({run.seed for run in group_of(runs, *pair)}) for pair in pairs(runs)), default=0)


def pairs(runs: Sequence[RunResults]) -> list[tuple[str, str]]:
    """(variant, corpus) of the runs, each once, in their order."""
    return list(dict.fromkeys((run.variant, run.corpus) for run in runs))


def group_of(runs: Sequence[RunResults], variant: str, corpus: str) -> list[RunResults]:
    """The runs of one variant on one corpus."""
    return [run for run in runs if (run.variant, run.corpus) == (variant, corpus)]


def where(runs: Sequence[RunResults]) -> str:
    """`variant on corpus` of runs that share both."""
    return f"{runs[0].variant} on {runs[0].corpus}"


def within(value: float, span: tuple[float, float]) -> bool:
    """Whether the value lies in the closed span."""
    return span[0] <= value <= span[1]
