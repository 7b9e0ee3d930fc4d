"""Rules for the claims about the reference protocols' own knobs: damping and length of training."""

from __future__ import annotations

from bdh.report import formats, measures
from bdh.report.finding import (
    NOT_MEASURED,
    NOT_SUPPORTED,
    SUPPORTED,
    Finding,
    bdh_runs,
    group_of,
    joined,
    pairs,
    where,
    within,
)
from bdh.report.inputs import Inputs, Run
from bdh.report.verdicts import NOT_DISTINCT

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
    runs = [run for run in bdh_runs(inputs) if None not in _persistence(run, "")]
    lines, verdicts = [], []
    for variant, corpus in pairs(runs):
        group = group_of(runs, variant, corpus)
        shown = [" and ".join(formats.fixed(mean) for mean in _means(group, side)) for side in ("", "_untrained")]
        lines.append(f"{where(group)}: H {shown[0]} (untrained {shown[1]})")
        verdicts += [_damping_verdict(run) for run in group]
    return joined(verdicts, lines, rule)


def _damping_verdict(run: Run) -> str:
    own, twin = _persistence(run, ""), _persistence(run, "_untrained")
    if not all(
        value is not None and abs(value - stated) <= NEAR for value, stated in zip(own, STATED.values(), strict=True)
    ):
        return NOT_SUPPORTED
    same = all(a is not None and b is not None and abs(a - b) <= SAME for a, b in zip(own, twin, strict=True))
    return NOT_DISTINCT if same else SUPPORTED


def _persistence(run: Run, side: str) -> list[float | None]:
    return [run.frontier.number(f"sps/reference_protocol_by_damping{side}/{damping}") for damping in STATED]


def _means(runs: list[Run], side: str) -> list[float | None]:
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
    found: dict[int, list[tuple[Run, float]]] = {steps: [] for steps in LENGTHS}
    for run in bdh_runs(inputs):
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
