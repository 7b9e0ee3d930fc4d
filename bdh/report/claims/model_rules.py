"""Rules for the claims about what models do: adapt, keep a small state, match a rival, need each mechanism.

And for the claim about several GPUs, which is judged from the committed results of `benchmarks.scaling`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

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
)
from bdh.report.data import measures
from bdh.report.data.inputs import Inputs, RunResults
from bdh.report.data.spread import BETTER, NOT_DISTINCT, NOT_TESTED, WORSE, Difference, of_interval

MARGIN_BITS = 0.01
NEARLY = 0.1
CARRY_RIVALS = ("static", "overlap", "shuffled")


def adapts(inputs: Inputs) -> Finding:
    """Claim 8: the carried state lowers bits per byte by more than what repairs borders, and by its content."""
    rule = (
        "Arm carry minus static, minus overlap (windows moved by a half, no state) and minus shuffled (a stranger's"
        " state): each 95 % interval over seeds below 0, for every BDH variant on every corpus. Not supported: one of"
        " them above 0, or carry below static but not below both others, since a moved window or any state then does as"
        " much. Not distinguishable: around 0 against static. Not measured: an arm is missing."
    )
    parts, verdicts = [], []
    for corpus in inputs.corpora:
        for variant in inputs.family("bdh"):
            gaps = {arm: measures.compare_arms(inputs.of(corpus, variant), "carry", arm) for arm in CARRY_RIVALS}
            if gaps["static"] is not None:
                told = (f"minus {arm} {formats.difference(gap, 4)}" for arm, gap in gaps.items())
                parts.append(f"{variant} on {corpus}, bits per byte: carry {', '.join(told)}")
                verdicts.append(_adaptation(gaps))
    if NOT_MEASURED in verdicts and NOT_SUPPORTED not in verdicts:
        return Finding(NOT_MEASURED, "\n".join(parts), rule=rule)
    return joined(verdicts, parts, rule)


def _adaptation(gaps: dict[str, Difference | None]) -> str:
    """Verdict on carry minus each of its rivals; without the chance of training in an interval nothing is said."""
    known = [gap for gap in gaps.values() if gap is not None]
    words = [of_interval(gap.low, gap.high).word if gap.covers_seeds else NOT_TESTED for gap in known]
    if WORSE in words:
        return NOT_SUPPORTED
    if len(known) < len(gaps):
        return NOT_MEASURED
    if NOT_TESTED in words:
        return TOO_SMALL
    if words[0] != BETTER:
        return NOT_DISTINCT
    return SUPPORTED if set(words) == {BETTER} else NOT_SUPPORTED


def gelu(inputs: Inputs) -> Finding:
    """Claim 9: density of the hidden units of the GELU baselines is exactly 1."""
    rule = "Density of mlp_sparse is exactly 1 in every transformer and slim run."
    runs = [run for run in inputs.measured("transformer", "slim") if measures.density(run, "mlp_sparse") is not None]
    lines = []
    for variant, corpus in pairs(runs):
        values = [measures.density(run, "mlp_sparse") or 0.0 for run in group_of(runs, variant, corpus)]
        lines.append(f"{variant} on {corpus}: share of exact zeros {1 - min(values):.1e}")
    return joined(
        [SUPPORTED if measures.density(run, "mlp_sparse") == 1.0 else NOT_SUPPORTED for run in runs], lines, rule
    )


def constant_state(inputs: Inputs) -> Finding:
    """Claim 10: which variants carry a state of constant size, and its bytes."""
    rule = "Every BDH run reads documents with a state of constant size (arm carry runs); the transformer cannot."
    bdh = inputs.measured("bdh")
    gpt = inputs.measured("transformer")
    if not bdh or not gpt:
        return Finding(NOT_MEASURED, rule=rule)
    carries = [run.hebbian.number("arms/carry/difference_to_static") is not None for run in (*bdh, *gpt)]
    right = all(carries[: len(bdh)]) and not any(carries[len(bdh) :])
    sizes = {run.variant: formats.size_in_bytes(measures.state_bytes(run)) for run in (*bdh, *gpt)}
    measured = "\n".join(
        f"{name}: {'constant' if carried else 'grows with the text'}, {sizes[name]} at the start"
        for name, carried in {run.variant: ok for run, ok in zip((*bdh, *gpt), carries, strict=True)}.items()
    )
    return Finding(SUPPORTED if right else NOT_SUPPORTED, measured, rule=rule)


def hybrid(inputs: Inputs) -> Finding:
    """Claim 12: slim_hybrid below slim_backprop and slim_hebbian in test bits per byte."""
    rule = "slim_hybrid minus slim_backprop and minus slim_hebbian: both 95 % intervals below 0 on every corpus."
    return _below_each(
        inputs, [("slim_hybrid", name, f"against {name}") for name in ("slim_backprop", "slim_hebbian")], rule
    )


def _below_each(inputs: Inputs, sides: Sequence[tuple[str, str, str]], rule: str) -> Finding:
    """The first of two variants below the second on every corpus, for every pair of them that was measured.

    sides: both names, and how the second is told.
    """
    parts, verdicts = [], []
    for corpus in inputs.corpora:
        for name, rival, told in sides:
            gap = measures.compare_variants(inputs, corpus, name, rival)
            if gap is not None:
                parts.append(f"{corpus}, {told} {formats.difference(gap)}")
                verdicts.append(below(gap))
    return joined(verdicts, parts, rule)


def matches_gpt(inputs: Inputs) -> Finding:
    """Claim 13: bdh at most MARGIN_BITS above a transformer whose parameters are within a tenth of its own."""
    rule = (
        f"bdh minus a transformer with parameters within {100 * NEARLY:.0f} %: upper end of the 95 % interval at most"
        f" {MARGIN_BITS} bits per byte on every corpus."
    )
    parts, verdicts = [], []
    for corpus in inputs.corpora:
        rival = _equal_transformer(inputs, corpus)
        gap = measures.compare_variants(inputs, corpus, "bdh", rival) if rival else None
        if gap is not None:
            parts.append(f"{corpus}, against {rival} {formats.difference(gap)}")
            verdicts.append(below(gap, MARGIN_BITS))
    return joined(verdicts, parts, rule)


def _equal_transformer(inputs: Inputs, corpus: str) -> str | None:
    """The transformer nearest to bdh in parameters on one corpus, None when none is within NEARLY."""
    if "bdh" not in inputs.variants:
        return None
    own = measures.over(inputs.of(corpus, "bdh"), measures.parameters)
    sizes = {v: measures.over(inputs.of(corpus, v), measures.parameters) for v in inputs.family("transformer")}
    near = {
        name: abs(math.log(size.mean / own.mean))
        for name, size in sizes.items()
        if size is not None and own is not None
    }
    best = min(near, key=lambda name: near[name], default=None)
    return best if best is not None and near[best] <= math.log1p(NEARLY) else None


def neuro_mechanisms(inputs: Inputs) -> Finding:
    """Claim 15: every variant that lacks one mechanism of a neuro variant is worse than that one."""
    rule = "neuro minus every variant of it without one mechanism: 95 % interval wholly below 0 on every corpus."
    lacking = [
        name for name in inputs.family("neuro") if name in inputs.ablations and inputs.ablations[name].kind == "without"
    ]
    return _below_each(inputs, [(inputs.ablations[name].base, name, name) for name in lacking], rule)


def half_life(inputs: Inputs) -> Finding:
    """Claim 16: measured half-lives of the carried state within a tenth of those that damping alone gives."""
    rule = (
        f"Measured half-life within {100 * NEARLY:.0f} % of ln 2 / -ln damping in every BDH run that carries a state, "
        "at every damping of the sweep that the window can resolve."
    )
    lines, verdicts = [], []
    for variant, corpus in pairs(inputs.measured("bdh")):
        found = [row for run in group_of(inputs.measured("bdh"), variant, corpus) for row in _half_lives(run)]
        if found:
            shown = ", ".join(f"{measured:.1f} ({alone:.1f})" for measured, alone in found)
            lines.append(f"{variant} on {corpus}: {shown} tokens (damping alone)")
            near = all(abs(measured / alone - 1) <= NEARLY for measured, alone in found)
            verdicts.append(SUPPORTED if near else NOT_SUPPORTED)
    return joined(verdicts, lines, rule)


def _half_lives(run: RunResults) -> list[tuple[float, float]]:
    """Half-lives of the carried state in tokens, measured and by damping alone; one per damping that has both."""
    names = ("half_life_measured_tokens", "half_life_tokens")
    both = [tuple(row[name] for name in names) for row in run.hebbian.rows("damping_sweep/rows", *names)]
    return [(measured, alone) for measured, alone in both if measured and alone]


CLAIMED = 8
NEAR = 0.9
RULE = f"Weak scaling of bdh on {CLAIMED} GPUs keeps at least {100 * NEAR:.0f} % of {CLAIMED} times one GPU."


def near_linear(inputs: Inputs) -> Finding:
    """Efficiency of weak scaling at 8 GPUs; the curve as far as it was measured is told in any case."""
    curves: dict[str, dict[int, float]] = {}
    for row in inputs.scaling.rows("rows", "work", "ratio"):
        named = re.fullmatch(r"ddp_(\d+)(?:_(.+))?", row["work"])
        if named:
            curves.setdefault(named[2] or "bdh", {})[int(named[1])] = float(row["ratio"])
    lines = [f"{variant}: {_told(curve)}" for variant, curve in curves.items()]
    reached = curves.get("bdh", {}).get(CLAIMED)
    if not lines:
        return Finding(NOT_MEASURED, rule=RULE)
    if reached is None:
        return Finding(NOT_MEASURED, "\n".join([f"not measured at {CLAIMED}", *lines]), rule=RULE)
    return Finding(SUPPORTED if reached >= NEAR else NOT_SUPPORTED, "\n".join(lines), rule=RULE)


def _told(curve: dict[int, float]) -> str:
    return ", ".join(f"{size} GPUs {efficiency:.1%}" for size, efficiency in sorted(curve.items()))
