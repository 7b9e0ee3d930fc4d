"""Rules that turn numbers into words; the words say nothing that the rule does not."""

from __future__ import annotations

from dataclasses import dataclass

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
