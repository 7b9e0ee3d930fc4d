"""Rules for the claims about the reference protocols: their knobs, and the ranges that they state.

Knobs are damping, length of training and penalty; ranges, trained and untrained, are those of the frontier metrics, of
density and of perplexity.
"""

from __future__ import annotations

from dataclasses import replace

from bdh.report import formats
from bdh.report.claims.finding import (
    NOT_MEASURABLE,
    NOT_MEASURED,
    NOT_SUPPORTED,
    SUPPORTED,
    Finding,
    below,
    differ_in_one,
    group_of,
    joined,
    lacking,
    pairs,
    value_over_seeds,
    where,
    within,
)
from bdh.report.data import measures
from bdh.report.data.inputs import Inputs, RunResults
from bdh.report.data.spread import (
    ABOVE,
    BELOW,
    LOWERED,
    NOT_DISTINCT,
    Difference,
    of_seeds,
    over_seeds,
    paired_seeds,
    seed_difference,
)
from bdh.report.tables.frontier import run_verdict

STATED = {"0.95": 0.52, "0.99": 0.68}
ARTEFACT = (0.94, 1.0)
NO_H = (
    f"The reference's H is {ARTEFACT[0]:g} to {ARTEFACT[1]:g} on noise without memory, at any damping"
    " (docs/calibration.json): its protocol cannot give the numbers of the claim."
)
LENGTHS = {2000: (0.0, 0.4), 5000: (0.4, 0.6), 8000: (0.6, 0.8)}
NEARLY = 0.1
PENALTY = "train.l21"


def damping_sets_persistence(inputs: Inputs) -> Finding:
    """Claim 6: the reference's H of one run's updates at two dampings, beside its untrained twin; never judged."""
    rule = f"Not judged whatever is measured. {NO_H}"
    runs = [run for run in inputs.measured("bdh") if None not in _persistence(run, "")]
    lines = []
    for variant, corpus in pairs(runs):
        group = group_of(runs, variant, corpus)
        shown = [" and ".join(formats.fixed(mean) for mean in _means(group, side)) for side in ("", "_untrained")]
        lines.append(f"{where(group)}: H {shown[0]} (untrained {shown[1]})")
    return lacking(NO_H, rule, lines, runs) if runs else Finding(NOT_MEASURED, rule=rule)


def _persistence(run: RunResults, side: str) -> list[float | None]:
    return [run.frontier.number(f"sps/reference_protocol_by_damping{side}/{damping}") for damping in STATED]


def _means(runs: list[RunResults], side: str) -> list[float | None]:
    found = (
        measures.over(runs, measures.number_of("frontier", f"sps/reference_protocol_by_damping{side}/{damping}"))
        for damping in STATED
    )
    return [None if spread is None else spread.mean for spread in found]


def training_length(inputs: Inputs) -> Finding:
    """Claim 11: the reference's Q of BDH runs whose kept weights are those of about 2,000, 5,000 and 8,000 steps."""
    rule = (
        "Reference protocol of every BDH run whose weights (those of the best validation) are of 2,000, 5,000 and 8,000"
        " steps (within 10 %) below 0.4, within 0.4 to 0.6 and within 0.6 to 0.8; needs runs of all three."
    )
    found: dict[int, list[tuple[RunResults, float]]] = {steps: [] for steps in LENGTHS}
    for run in inputs.measured("bdh"):
        steps, value = run.train.number("best_step"), run.frontier.number("tmi/reference_protocol")
        for length in LENGTHS:
            if steps is not None and value is not None and abs(steps / length - 1) <= NEARLY:
                found[length].append((run, value))
    lines = [
        f"{run.key}: Q {formats.fixed(value)}, weights of about {formats.whole(length)} steps"
        for length, group in found.items()
        for run, value in group
    ]
    if not all(found.values()):
        return Finding(NOT_MEASURED, "\n".join(lines) or formats.ABSENT, rule=rule)
    verdicts, effects = [], []
    for length, group in found.items():
        verdicts.append(SUPPORTED if all(within(value, LENGTHS[length]) for _, value in group) else NOT_SUPPORTED)
        effects.append(value_over_seeds(over_seeds(value for _, value in group)))
    runs = [run for group in found.values() for run, _ in group]
    return joined(verdicts, lines, rule, effects=effects, runs=runs)


def tmi_range(inputs: Inputs) -> Finding:
    """Claim 1: reference-protocol modularity in its two ranges, and ours away from its null."""
    return _ranges(inputs, "tmi", (0.5, 0.8), (0.0, 0.2))


def sps_range(inputs: Inputs) -> Finding:
    """Claim 2: the reference-protocol Hurst exponent, told but not judged, and ours beside its null."""
    return _ranges(inputs, "sps", (0.6, 0.8), (0.45, 0.55), NO_H)


def sec_range(inputs: Inputs) -> Finding:
    """Claim 3: reference-protocol correlation in its two ranges, and ours away from its null."""
    return _ranges(inputs, "sec", (0.2, 0.5), (-0.1, 0.1))


def _ranges(
    inputs: Inputs, metric: str, trained: tuple[float, float], untrained: tuple[float, float], unreachable: str = ""
) -> Finding:
    rule = (
        f"Every BDH run: reference protocol within {_span(trained)} trained and {_span(untrained)} untrained, else not"
        " supported; and ours above its null, else not distinguishable. The weakest run decides."
    )
    rule = f"Not judged whatever is measured. {unreachable}" if unreachable else rule
    runs = [run for run in inputs.measured("bdh") if run.frontier.number(f"{metric}/reference_protocol") is not None]
    measured, null, verdicts, effects = [], [], [], []
    for variant, corpus in pairs(runs):
        group = group_of(runs, variant, corpus)
        words = [run_verdict(run, metric) for run in group]
        measured.append(
            f"{where(group)} {_mean(group, f'{metric}/reference_protocol')}"
            f" (untrained {_mean(group, f'{metric}/reference_protocol_untrained')})"
        )
        null.append(
            f"ours {_mean(group, f'{metric}/value')}, null {_mean(group, f'{metric}/null_mean')}:"
            f" {of_seeds(words).word}"
            + (f"; {LOWERED}" if len(group) > 1 and all(word.word == BELOW for word in words) else "")
        )
        right = all(
            _inside(run, f"{metric}/reference_protocol", trained)
            and _inside(run, f"{metric}/reference_protocol_untrained", untrained)
            for run in group
        )
        above = all(word.word == ABOVE for word in words)
        verdicts.append(NOT_SUPPORTED if not right else SUPPORTED if above else NOT_DISTINCT)
        effects.append(
            value_over_seeds(measures.over(group, measures.number_of("frontier", f"{metric}/reference_protocol")))
        )
    found = joined(verdicts, measured, rule, "\n".join(null), effects, runs)
    return replace(found, verdict=NOT_MEASURABLE, reason=unreachable) if unreachable and runs else found


def _mean(runs: list[RunResults], key: str) -> str:
    spread = measures.over(runs, measures.number_of("frontier", key))
    return formats.fixed(None if spread is None else spread.mean)


def _inside(run: RunResults, key: str, span: tuple[float, float]) -> bool:
    value = run.frontier.number(key)
    return value is not None and within(value, span)


def transcript_perplexity(inputs: Inputs) -> Finding:
    """Claim 4: on the real transcripts."""
    rule = "Test perplexity of every BDH run on transcripts within 50 to 150."
    runs = [
        run for run in inputs.measured("bdh") if run.corpus == "transcripts" and measures.perplexity(run) is not None
    ]
    if not runs:
        return Finding(NOT_MEASURED, rule=rule)
    lines = [
        f"{where(group)} {formats.spread(measures.over(group, measures.perplexity), 1)}"
        for group in (group_of(runs, variant, corpus) for variant, corpus in pairs(runs))
    ]
    right = [within(measures.perplexity(run) or 0.0, (50, 150)) for run in runs]
    effect = value_over_seeds(measures.over(runs, measures.perplexity))
    return Finding(SUPPORTED if all(right) else NOT_SUPPORTED, "\n".join(lines), rule=rule, effect=effect, runs=runs)


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
    effect = value_over_seeds(measures.over(runs, lambda run: measures.density(run, "x_sparse")))
    return Finding(SUPPORTED if right else NOT_SUPPORTED, "\n".join(lines), rule=rule, effect=effect, runs=runs)


def _twin_density(run: RunResults) -> float | None:
    return run.frontier.number("untrained/density/x_sparse/mean")


def penalty_raises_tmi(inputs: Inputs) -> Finding:
    """Claim 7: TMI above its null with a larger L2,1 penalty against the same training with a smaller one."""
    rule = (
        "Excess of TMI over its null, with the smaller L2,1 penalty minus with the larger: 95 % interval over seeds"
        " wholly below 0, for every two BDH variants that differ in train.l21 alone."
    )
    parts, verdicts, effects = [], [], []
    runs: list[RunResults] = []
    for corpus in inputs.corpora:
        for weak, strong in _penalised(inputs, corpus):
            sides = [inputs.of(corpus, name) for name in (weak, strong)]
            gap = _excess_gap(sides[0], sides[1])
            if gap is None:
                continue
            runs += [run for side in sides for run in side if not run.divergence]
            parts.append(f"{corpus}, {weak} minus {strong} {formats.difference(gap)}")
            verdicts.append(below(gap))
            effects.append(gap)
    if not verdicts and any(_excess(run) is not None for run in inputs.measured("bdh")):
        return lacking(
            "No two variants differ in the L2,1 penalty alone (bdh_structured switches L1 and L2,1 together).", rule
        )
    return joined(verdicts, parts, rule, effects=effects, runs=runs)


def _penalised(inputs: Inputs, corpus: str) -> list[tuple[str, str]]:
    """Pairs of BDH variants that differ in the L2,1 penalty alone, the smaller penalty first."""

    def weight(variant: str) -> float:
        return float(inputs.settings.get((variant, corpus), {}).get(PENALTY, 0.0))

    names = inputs.family("bdh")
    alone = [(a, b) for a in names for b in names if differ_in_one(inputs, corpus, a, b, PENALTY)]
    return [(a, b) for a, b in alone if weight(a) < weight(b)]


def _excess_gap(weak: list[RunResults], strong: list[RunResults]) -> Difference | None:
    """Excess of the first minus that of the second, paired by seed, else Welch's; None where a side has none."""
    own, other = ({run.seed: value for run in side if (value := _excess(run)) is not None} for side in (weak, strong))
    both = [own[seed] - other[seed] for seed in own if seed in other]
    if both:
        return paired_seeds(both)
    sides = [over_seeds(side.values()) for side in (own, other)]
    return None if sides[0] is None or sides[1] is None else seed_difference(sides[0], sides[1])


def _excess(run: RunResults) -> float | None:
    value, null = run.frontier.number("tmi/value"), run.frontier.number("tmi/null_mean")
    return None if value is None or null is None else value - null


def _span(span: tuple[float, float]) -> str:
    return f"{span[0]:g} to {span[1]:g}".replace("-", "−")
