"""Rules for the claims about the frontier metrics, density and perplexity: ranges trained and untrained."""

from __future__ import annotations

from bdh.report import formats, measures
from bdh.report.finding import (
    NOT_MEASURED,
    NOT_SUPPORTED,
    SUPPORTED,
    TOO_SMALL,
    Finding,
    bdh_runs,
    below,
    joined,
    within,
)
from bdh.report.inputs import Inputs, Run
from bdh.report.spread import over_seeds, seed_difference
from bdh.report.verdicts import LEVEL, NOT_DISTINCT


def tmi_range(inputs: Inputs) -> Finding:
    """Claim 1: reference-protocol modularity in its two ranges, and ours away from its null."""
    return _ranges(inputs, "tmi", (0.5, 0.8), (0.0, 0.2))


def sps_range(inputs: Inputs) -> Finding:
    """Claim 2: reference-protocol Hurst exponent in its two ranges, and ours away from its null."""
    return _ranges(inputs, "sps", (0.6, 0.8), (0.45, 0.55))


def sec_range(inputs: Inputs) -> Finding:
    """Claim 3: reference-protocol correlation in its two ranges, and ours away from its null."""
    return _ranges(inputs, "sec", (0.2, 0.5), (-0.1, 0.1))


def _ranges(inputs: Inputs, metric: str, trained: tuple[float, float], untrained: tuple[float, float]) -> Finding:
    rule = (
        f"Reference protocol within {_span(trained)} trained and {_span(untrained)} untrained in every BDH run:"
        f" supported; if ours has p ≥ {LEVEL} against its null in every run: not distinguishable; otherwise not supported."
    )
    rows = [(run, run.frontier.number(f"{metric}/reference_protocol")) for run in bdh_runs(inputs)]
    rows = [(run, value) for run, value in rows if value is not None]
    if not rows:
        return Finding(NOT_MEASURED, rule=rule)
    twins = [run.frontier.number(f"{metric}/reference_protocol_untrained") for run, _ in rows]
    chances = [run.frontier.number(f"{metric}/p") for run, _ in rows]
    measured = "; ".join(
        f"{run.key} {formats.fixed(value)} (untrained {formats.fixed(twin)})"
        for (run, value), twin in zip(rows, twins, strict=True)
    )
    null = "; ".join(
        f"ours {formats.fixed(run.frontier.number(f'{metric}/value'))}, null"
        f" {formats.fixed(run.frontier.number(f'{metric}/null_mean'))}, p {formats.fixed(p)}"
        for (run, _), p in zip(rows, chances, strict=True)
    )
    inside = all(value is not None and within(value, trained) for _, value in rows)
    low = all(twin is not None and within(twin, untrained) for twin in twins)
    distinct = any(p is not None and p < LEVEL for p in chances)
    verdict = (SUPPORTED if inside and low else NOT_SUPPORTED) if distinct else NOT_DISTINCT
    return Finding(verdict, measured, null, rule)


def transcript_perplexity(inputs: Inputs) -> Finding:
    """Claim 4: only at the references' own scale, on the real transcripts."""
    rule = "Test perplexity of every BDH run on transcripts within 50 to 150; only at scale gpu."
    runs = [run for run in bdh_runs(inputs) if run.corpus == "transcripts"]
    values = [(run, measures.perplexity(run)) for run in runs]
    found = [(run, value) for run, value in values if value is not None]
    if not found:
        return Finding(NOT_MEASURED, rule=rule)
    measured = "; ".join(f"{run.key} {formats.fixed(value, 1)}" for run, value in found)
    if inputs.scale != "gpu":
        return Finding(TOO_SMALL, measured, rule=rule)
    return Finding(SUPPORTED if all(within(v, (50, 150)) for _, v in found) else NOT_SUPPORTED, measured, rule=rule)


def density(inputs: Inputs) -> Finding:
    """Claim 5: density of x_sparse (and of x*y beside it) trained, and on the untrained twin."""
    rule = "Density of x within 5 to 15 % in every trained BDH run and 45 to 55 % in its untrained twin."
    rows = [(run, measures.density(run, "x_sparse"), _twin_density(run)) for run in bdh_runs(inputs)]
    found = [(run, value, twin) for run, value, twin in rows if value is not None]
    if not found:
        return Finding(NOT_MEASURED, rule=rule)
    measured = "; ".join(
        f"{run.key} x {formats.percent(value)}, x·y {formats.percent(measures.density(run, 'xy_sparse'))},"
        f" x untrained {formats.percent(twin)}"
        for run, value, twin in found
    )
    if any(twin is None for _, _, twin in found):
        return Finding(NOT_MEASURED, measured, "untrained twin missing", rule)
    right = all(within(v, (0.05, 0.15)) and twin is not None and within(twin, (0.45, 0.55)) for _, v, twin in found)
    return Finding(SUPPORTED if right else NOT_SUPPORTED, measured, rule=rule)


def _twin_density(run: Run) -> float | None:
    for key in ("untrained/density/x_sparse", "untrained/density/x_sparse/mean"):
        value = run.frontier.number(key)
        if value is not None:
            return value
    return None


def penalty_raises_tmi(inputs: Inputs) -> Finding:
    """Claim 7: TMI above its null of bdh_structured against that of bdh, over seeds."""
    rule = "Excess of TMI over its null, bdh minus bdh_structured: Welch's 95 % interval over seeds wholly below 0."
    parts, verdicts = [], []
    for corpus in inputs.corpora:
        sides = [over_seeds(_excess(run) for run in inputs.of(corpus, name)) for name in ("bdh", "bdh_structured")]
        if sides[0] is None or sides[1] is None:
            continue
        gap = seed_difference(sides[0], sides[1])
        parts.append(f"{corpus} {formats.difference(gap)}")
        verdicts.append(below(gap))
    return joined(verdicts, parts, rule, "one seed has no interval" if TOO_SMALL in verdicts else formats.ABSENT)


def _excess(run: Run) -> float | None:
    value, null = run.frontier.number("tmi/value"), run.frontier.number("tmi/null_mean")
    return None if value is None or null is None else value - null


def _span(span: tuple[float, float]) -> str:
    return f"{span[0]:g} to {span[1]:g}"
