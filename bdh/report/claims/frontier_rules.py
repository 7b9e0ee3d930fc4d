"""Rules for the claims about the reference protocols: their knobs, and the ranges that they state.

Knobs are damping, length of training and penalty; ranges, trained and untrained, are those of the frontier metrics, of
density and of perplexity.
"""

from __future__ import annotations

from bdh.report import formats
from bdh.report.claims.finding import (
    NOT_MEASURED,
    NOT_SUPPORTED,
    SUPPORTED,
    TOO_SMALL,
    Finding,
    below,
    group_of,
    joined,
    pairs,
    where,
    within,
)
from bdh.report.data import measures
from bdh.report.data.inputs import Inputs, RunResults
from bdh.report.data.spread import ABOVE, DISTINCT, NOT_DISTINCT, of_seeds, over_seeds, seed_difference
from bdh.report.tables.frontier import run_verdict

STATED = {"0.95": 0.52, "0.99": 0.68}
NEAR = 0.05
SAME = 0.02
LENGTHS = {2000: (0.0, 0.4), 5000: (0.4, 0.6), 8000: (0.6, 0.8)}
NEARLY = 0.1


def damping_sets_persistence(inputs: Inputs) -> Finding:
    """Claim 6: the reference's H of one run's updates at two dampings, beside its untrained twin."""
    rule = (
        f"Reference protocol at damping 0.95 and 0.99 within {NEAR} of 0.52 and 0.68 in every BDH run, else not"
        f" supported; an untrained twin within {SAME} of both: not distinguishable."
    )
    runs = [run for run in inputs.measured("bdh") if None not in _persistence(run, "")]
    lines, verdicts = [], []
    for variant, corpus in pairs(runs):
        group = group_of(runs, variant, corpus)
        shown = [" and ".join(formats.fixed(mean) for mean in _means(group, side)) for side in ("", "_untrained")]
        lines.append(f"{where(group)}: H {shown[0]} (untrained {shown[1]})")
        verdicts += [_damping_verdict(run) for run in group]
    return joined(verdicts, lines, rule)


def _damping_verdict(run: RunResults) -> str:
    own, twin = _persistence(run, ""), _persistence(run, "_untrained")
    if not all(
        value is not None and abs(value - stated) <= NEAR for value, stated in zip(own, STATED.values(), strict=True)
    ):
        return NOT_SUPPORTED
    same = all(a is not None and b is not None and abs(a - b) <= SAME for a, b in zip(own, twin, strict=True))
    return NOT_DISTINCT if same else SUPPORTED


def _persistence(run: RunResults, side: str) -> list[float | None]:
    return [run.frontier.number(f"sps/reference_protocol_by_damping{side}/{damping}") for damping in STATED]


def _means(runs: list[RunResults], side: str) -> list[float | None]:
    found = (
        measures.over(runs, measures.number_of("frontier", f"sps/reference_protocol_by_damping{side}/{damping}"))
        for damping in STATED
    )
    return [None if spread is None else spread.mean for spread in found]


def training_length(inputs: Inputs) -> Finding:
    """Claim 11: the reference's Q of BDH runs that were trained for about 2,000, 5,000 and 8,000 steps."""
    rule = (
        "Reference protocol of every BDH run trained for 2,000, 5,000 and 8,000 steps (within 10 %) below 0.4, within"
        " 0.4 to 0.6 and within 0.6 to 0.8; needs runs of all three lengths."
    )
    found: dict[int, list[tuple[RunResults, float]]] = {steps: [] for steps in LENGTHS}
    for run in inputs.measured("bdh"):
        steps, value = run.train.number("steps_done"), run.frontier.number("tmi/reference_protocol")
        for length in LENGTHS:
            if steps is not None and value is not None and abs(steps / length - 1) <= NEARLY:
                found[length].append((run, value))
    lines = [
        f"{run.key}: Q {formats.fixed(value)} after about {formats.whole(length)} steps"
        for length, group in found.items()
        for run, value in group
    ]
    if not all(found.values()):
        return Finding(NOT_MEASURED, "\n".join(lines) or formats.ABSENT, rule=rule)
    right = all(within(value, LENGTHS[length]) for length, group in found.items() for _, value in group)
    return Finding(SUPPORTED if right else NOT_SUPPORTED, "\n".join(lines), rule=rule)


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
        " supported. Ours above its null in no run: not distinguishable. Otherwise: not supported."
    )
    runs = [run for run in inputs.measured("bdh") if run.frontier.number(f"{metric}/reference_protocol") is not None]
    if not runs:
        return Finding(NOT_MEASURED, rule=rule)
    groups = [group for variant, corpus in pairs(runs) if (group := group_of(runs, variant, corpus))]
    measured = [
        f"{where(group)} {_mean(group, f'{metric}/reference_protocol')}"
        f" (untrained {_mean(group, f'{metric}/reference_protocol_untrained')})"
        for group in groups
    ]
    null = [
        f"ours {_mean(group, f'{metric}/value')}, null {_mean(group, f'{metric}/null_mean')}:"
        f" {of_seeds([run_verdict(run, metric) for run in group]).word}"
        for group in groups
    ]
    if not any(run_verdict(run, metric).word in (ABOVE, DISTINCT) for run in runs):
        return Finding(NOT_DISTINCT, "\n".join(measured), "\n".join(null), rule)
    right = all(
        _inside(run, f"{metric}/reference_protocol", trained)
        and _inside(run, f"{metric}/reference_protocol_untrained", untrained)
        for run in runs
    )
    return Finding(SUPPORTED if right else NOT_SUPPORTED, "\n".join(measured), "\n".join(null), rule)


def _mean(runs: list[RunResults], key: str) -> str:
    spread = measures.over(runs, measures.number_of("frontier", key))
    return formats.fixed(None if spread is None else spread.mean)


def _inside(run: RunResults, key: str, span: tuple[float, float]) -> bool:
    value = run.frontier.number(key)
    return value is not None and within(value, span)


def transcript_perplexity(inputs: Inputs) -> Finding:
    """Claim 4: only at the references' own scale, on the real transcripts."""
    rule = "Test perplexity of every BDH run on transcripts within 50 to 150; only at scale gpu."
    runs = [
        run for run in inputs.measured("bdh") if run.corpus == "transcripts" and measures.perplexity(run) is not None
    ]
    if not runs:
        return Finding(NOT_MEASURED, rule=rule)
    lines = [
        f"{where(group)} {formats.spread(measures.over(group, measures.perplexity), 1)}"
        for group in (group_of(runs, variant, corpus) for variant, corpus in pairs(runs))
    ]
    right = all(within(measures.perplexity(run) or 0.0, (50, 150)) for run in runs)
    verdict = TOO_SMALL if inputs.scale != "gpu" else SUPPORTED if right else NOT_SUPPORTED
    return Finding(verdict, "\n".join(lines), rule=rule)


def density(inputs: Inputs) -> Finding:
    """Claim 5: density of x_sparse (and of x*y beside it) trained, and on the untrained twin."""
    rule = "Density of x within 5 to 15 % in every trained BDH run and 45 to 55 % in its untrained twin."
    runs = [run for run in inputs.measured("bdh") if measures.density(run, "x_sparse") is not None]
    lines = []
    for variant, corpus in pairs(runs):
        group = group_of(runs, variant, corpus)
        x, xy, twin = (
            over_seeds(value(run) for run in group)
            for value in (
                lambda run: measures.density(run, "x_sparse"),
                lambda run: measures.density(run, "xy_sparse"),
                _twin_density,
            )
        )
        shown = [formats.percent(None if part is None else part.mean) for part in (x, xy, twin)]
        lines.append(f"{where(group)}: x {shown[0]}, x·y {shown[1]}, x untrained {shown[2]}")
    if not runs or any(_twin_density(run) is None for run in runs):
        return Finding(NOT_MEASURED, "\n".join(lines) or formats.ABSENT, rule=rule)
    right = all(
        within(measures.density(run, "x_sparse") or 0.0, (0.05, 0.15))
        and within(_twin_density(run) or 0.0, (0.45, 0.55))
        for run in runs
    )
    return Finding(SUPPORTED if right else NOT_SUPPORTED, "\n".join(lines), rule=rule)


def _twin_density(run: RunResults) -> float | None:
    return run.frontier.number("untrained/density/x_sparse/mean")


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


def _excess(run: RunResults) -> float | None:
    value, null = run.frontier.number("tmi/value"), run.frontier.number("tmi/null_mean")
    return None if value is None or null is None else value - null


def _span(span: tuple[float, float]) -> str:
    return f"{span[0]:g} to {span[1]:g}".replace("-", "−")
