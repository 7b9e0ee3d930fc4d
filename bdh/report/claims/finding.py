"""What a claim's rule returns, and the steps that the rules share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bdh.report import formats
from bdh.report.data.inputs import RunResults
from bdh.report.data.spread import NOT_DISTINCT, Difference

SUPPORTED = "supported"
NOT_SUPPORTED = "not supported"
TOO_SMALL = "not measurable at this scale"
NOT_MEASURED = "not measured yet"
WEAKEST_FIRST = (NOT_SUPPORTED, TOO_SMALL, NOT_DISTINCT)


@dataclass(frozen=True)
class Finding:
    """The verdict, what was measured (one line each), its interval or null, and the rule that led to the verdict."""

    verdict: str
    measured: str = formats.ABSENT
    uncertainty: str = formats.ABSENT
    rule: str = ""


def joined(verdicts: Sequence[str], parts: Sequence[str], rule: str, uncertainty: str = formats.ABSENT) -> Finding:
    """The weakest of the verdicts with all the measurements; without any: not measured yet."""
    if not verdicts:
        return Finding(NOT_MEASURED, rule=rule)
    verdict = next((word for word in WEAKEST_FIRST if word in verdicts), SUPPORTED)
    return Finding(verdict, "\n".join(parts), uncertainty, rule)


def below(gap: Difference, limit: float = 0.0) -> str:
    """Verdict on "the difference is below `limit`" by where its whole interval lies; none: not measurable."""
    if gap.low is None or gap.high is None:
        return TOO_SMALL
    return SUPPORTED if gap.high <= limit else NOT_SUPPORTED if gap.low > limit else NOT_DISTINCT


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
