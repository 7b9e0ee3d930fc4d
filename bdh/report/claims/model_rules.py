"""Rules for the claims about what models do: adapt, keep a small state, match a rival, need each mechanism.

And for the claim about several GPUs, which is judged from the committed results of `benchmarks.scaling`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence
from dataclasses import replace
from itertools import pairwise

from bdh.params.trials import NO_SEARCH
from bdh.report import formats
from bdh.report.claims.finding import (
    JUDGED,
    NOT_MEASURABLE,
    NOT_MEASURED,
    NOT_SUPPORTED,
    SUPPORTED,
    Finding,
    below,
    better,
    differ_in_one,
    group_of,
    joined,
    lacking,
    pairs,
)
from bdh.report.data import measures
from bdh.report.data.inputs import Inputs, RunResults
from bdh.report.data.spread import BETTER, NOT_DISTINCT, NOT_TESTED, ONE_SEED, WORSE, Difference, of_difference

NEARLY = 0.1
CARRY_RIVALS = ("static", "overlap", "shuffled")
CARRYING = "train.carry"
BDH_FAMILIES = ("bdh", "eq8")


def adapts(inputs: Inputs) -> Finding:
    """Claim 8: the carried state lowers bits per byte by more than what repairs borders, and by its content."""
    rule = (
        "Arm carry minus static, minus overlap (windows moved by a half, no state) and minus shuffled (a stranger's"
        " state): each 95 % interval over seeds below 0, for every BDH variant on every corpus. Not supported: one of"
        " them above 0, or carry below static but not below both others, since a moved window or any state then does as"
        " much. Not distinguishable: around 0 against static. Not measured: an arm is missing. Where BDH variants were"
        " trained with a carried state (train.carry), they alone are judged: one that never saw a state cannot show"
        " what it is worth."
    )
    parts, verdicts, effects = [], [], []
    runs: list[RunResults] = []
    for corpus in inputs.corpora:
        carried = [v for v in inputs.variants if inputs.settings.get((v, corpus), {}).get(CARRYING)]
        judged = [v for v in carried if inputs.families[v] in BDH_FAMILIES] or inputs.family("bdh")
        for variant in dict.fromkeys([*inputs.family("bdh"), *carried]):
            own = inputs.of(corpus, variant)
            gaps = {arm: measures.compare_arms(own, "carry", arm) for arm in CARRY_RIVALS}
            if gaps["static"] is not None:
                told = ", ".join(f"minus {arm} {formats.difference(gap, 4)}" for arm, gap in gaps.items())
                aside = "" if variant in judged else " (told, not judged)"
                parts.append(f"{variant} on {corpus}{aside}, bits per byte: carry {told}")
            if gaps["static"] is not None and variant in judged:
                runs += own
                effects.append(gaps["static"])
                verdicts.append(_adaptation(gaps))
    if NOT_MEASURED in verdicts and NOT_SUPPORTED not in verdicts:
        return Finding(NOT_MEASURED, "\n".join(parts), rule=rule, runs=runs)
    return joined(verdicts, parts, rule, effects=effects, runs=runs)


def _adaptation(gaps: dict[str, Difference | None]) -> str:
    """Verdict on carry minus each of its rivals; without the chance of training in an interval nothing is said."""
    known = [gap for gap in gaps.values() if gap is not None]
    words = [of_difference(gap, 0.0).word for gap in known]
    if WORSE in words:
        return NOT_SUPPORTED
    if len(known) < len(gaps):
        return NOT_MEASURED
    if NOT_TESTED in words or ONE_SEED in words:
        return NOT_MEASURABLE
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
    verdicts = [SUPPORTED if measures.density(run, "mlp_sparse") == 1.0 else NOT_SUPPORTED for run in runs]
    return joined(verdicts, lines, rule, runs=runs)


def constant_state(inputs: Inputs) -> Finding:
    """Claim 10: bytes that one stream carries, measured after texts of several lengths."""
    rule = (
        "Bytes of the state of one stream, measured after texts of several lengths: the same after all of them in every"
        " BDH run, more after every longer one in every transformer run."
    )
    runs = [*inputs.measured("bdh"), *inputs.measured("transformer")]
    sizes = [measures.state_bytes_by_length(run) for run in runs]
    both = len({inputs.families[run.variant] for run in runs}) == 2
    if not both or any(len(found) < 2 for found in sizes):
        return Finding(NOT_MEASURED, rule=rule)
    right = [
        len(set(found.values())) == 1
        if inputs.families[run.variant] == "bdh"
        else all(a < b for a, b in pairwise(found.values()))
        for run, found in zip(runs, sizes, strict=True)
    ]
    told = {run.variant: _growth(found) for run, found in zip(runs, sizes, strict=True)}
    measured = "\n".join(f"{name}: {text}" for name, text in told.items())
    return Finding(SUPPORTED if all(right) else NOT_SUPPORTED, measured, rule=rule, runs=runs)


def _growth(sizes: dict[int, float]) -> str:
    """`1.0 MiB after 1 and 128 tokens`, or every size where they differ."""
    shown = {length: formats.size_in_bytes(size) for length, size in sizes.items()}
    if len(set(sizes.values())) == 1:
        lengths = [str(length) for length in sizes]
        return f"{next(iter(shown.values()))} after {', '.join(lengths[:-1])} and {lengths[-1]} tokens"
    return ", ".join(f"{size} after {length}" for length, size in shown.items()) + " tokens"


HYBRID = "slim_hybrid"
ALONE = ("slim_backprop", "slim_hebbian")
LOCAL_RATE = "model.hebbian_lr"


def hybrid(inputs: Inputs) -> Finding:
    """Claim 12: slim_hybrid better than gradients, than local rules, and than itself without the local rule."""
    rule = (
        f"{HYBRID} better than {' and '.join(ALONE)}, each with its own tuned settings from as many draws, and than the"
        f" control with the same readout step and no Hebbian term (settings of {HYBRID}, hebbian_lr 0: slim_readout),"
        " on every corpus."
    )
    sides: list[tuple[str, str, str, str]] = []
    for corpus in inputs.corpora:
        controls = _without_local_rule(inputs, corpus)
        sides += [(corpus, HYBRID, name, f"against {name}") for name in (*ALONE, *controls)]
        rivals = [run for name in (HYBRID, *ALONE) for run in inputs.of(corpus, name)]
        if not controls and {run.variant for run in rivals} == {HYBRID, *ALONE}:
            found = _better_than_each(inputs, sides, rule)
            return replace(
                found, verdict=NOT_MEASURABLE, reason="The control is missing: add slim_readout to `variants`."
            )
    if not {HYBRID, *ALONE} <= set(inputs.variants):
        return Finding(NOT_MEASURED, rule=rule)
    found = _better_than_each(inputs, sides, rule)
    return _if_tuned(inputs, found, (HYBRID, *ALONE), inputs.corpora)


def _without_local_rule(inputs: Inputs, corpus: str) -> list[str]:
    """Variants of slim that are slim_hybrid but for the rate of the local rule, which is 0."""
    return [
        name
        for name in inputs.family("slim")
        if inputs.settings.get((name, corpus), {}).get(LOCAL_RATE) == 0
        and differ_in_one(inputs, corpus, name, HYBRID, LOCAL_RATE)
    ]


def _better_than_each(inputs: Inputs, sides: Sequence[tuple[str, str, str, str]], rule: str) -> Finding:
    """The first of two variants better than the second, for every (corpus, first, second, how it is told)."""
    parts: list[str] = []
    verdicts: list[str] = []
    effects: list[Difference | None] = []
    runs: list[RunResults] = []
    for corpus, name, rival, told in sides:
        gap = measures.compare_variants(inputs, corpus, name, rival)
        if gap is None and inputs.of(corpus, name) and inputs.of(corpus, rival):
            parts.append(f"{corpus}, {told}: no result")
            verdicts.append(NOT_MEASURABLE)
            effects.append(None)
        elif gap is not None:
            parts.append(f"{corpus}, {told} {formats.difference(gap)}")
            verdicts.append(better(gap, inputs.smallest_effect))
            effects.append(gap)
            runs += [run for side in (name, rival) for run in inputs.of(corpus, side) if not run.divergence]
    return joined(verdicts, parts, rule, effects=effects, runs=runs)


def matches_gpt(inputs: Inputs) -> Finding:
    """Claim 13: bdh not worse, by the smallest effect of interest, than any tuned transformer of equal parameters."""
    rule = (
        f"bdh minus every transformer with parameters within {100 * NEARLY:.0f} %, both tuned by as many draws: upper"
        f" end of the 95 % interval below {inputs.smallest_effect:g} bits per byte on every corpus."
    )
    parts, verdicts, effects = [], [], []
    runs: list[RunResults] = []
    for corpus in inputs.corpora:
        for rival in _equal_transformers(inputs, corpus):
            gap = measures.compare_variants(inputs, corpus, "bdh", rival)
            if gap is not None:
                parts.append(f"{corpus}, against {rival} {formats.difference(gap)}")
                verdicts.append(below(gap, inputs.smallest_effect))
                effects.append(gap)
                runs += [run for side in ("bdh", rival) for run in inputs.of(corpus, side) if not run.divergence]
    if not any(inputs.of(corpus, "bdh") for corpus in inputs.corpora) or not inputs.measured("transformer"):
        return Finding(NOT_MEASURED, rule=rule)
    if not verdicts:
        return lacking("No transformer has as many parameters as bdh.", rule)
    found = joined(verdicts, parts, rule, effects=effects, runs=runs)
    return _if_tuned(inputs, found, {run.variant for run in runs}, inputs.corpora)


TUNED = "tuned"


def _if_tuned(inputs: Inputs, found: Finding, sides: Collection[str], corpora: Sequence[str]) -> Finding:
    """The finding where settings of all sides were chosen by searches of equal length; else not measurable, and why."""
    if found.verdict not in JUDGED:
        return found
    if inputs.recipe != TUNED:
        reason = "Rivals are not tuned: settings are the references' (recipe: tuned gives every variant its draws)."
        return replace(found, verdict=NOT_MEASURABLE, reason=reason)
    for corpus in corpora:
        made = {name: inputs.searches.get((name, corpus), NO_SEARCH).draws for name in sorted(sides)}
        if len(set(made.values())) != 1 or 0 in made.values():
            told = ", ".join(f"{name} {draws}" for name, draws in made.items())
            reason = f"Not the same number of draws on {corpus}: {told} (`bdh tune` makes those that are missing)."
            return replace(found, verdict=NOT_MEASURABLE, reason=reason)
    return found


def _equal_transformers(inputs: Inputs, corpus: str) -> list[str]:
    """The transformers whose parameters are within NEARLY of those of bdh on one corpus."""
    own = measures.over(inputs.of(corpus, "bdh"), measures.parameters)
    sizes = {v: measures.over(inputs.of(corpus, v), measures.parameters) for v in inputs.family("transformer")}
    return [
        name
        for name, size in sizes.items()
        if size is not None and own is not None and abs(math.log(size.mean / own.mean)) <= math.log1p(NEARLY)
    ]


def neuro_mechanisms(inputs: Inputs) -> Finding:
    """Claim 15: every variant that lacks one mechanism of a neuro variant is worse than that one."""
    rule = "neuro better than every variant of it without one mechanism, on every corpus; a tie is no support."
    missing = [
        name for name in inputs.family("neuro") if name in inputs.ablations and inputs.ablations[name].kind == "without"
    ]
    sides = [(corpus, inputs.ablations[name].base, name, name) for corpus in inputs.corpora for name in missing]
    return _better_than_each(inputs, sides, rule)


FEWEST_LIVES = 10
"""Half-lives that a document must hold: the estimate is biased low in shorter ones."""

MOST_LIVES = 4
"""Half-lives that a window may hold: after more of them too little of the state is left to be told from noise."""


def half_life(inputs: Inputs) -> Finding:
    """Claim 16: measured half-lives of the carried state within a tenth of those that damping alone gives."""
    rule = (
        f"Measured half-life within {100 * NEARLY:.0f} % of ln 2 / -ln damping in every BDH run that carries a state,"
        f" at every damping that the text can resolve: a window of {inputs.window} tokens holds at most {MOST_LIVES}"
        f" half-lives and a document at least {FEWEST_LIVES}. The others are told, not judged."
    )
    lines, verdicts, effects = [], [], []
    runs: list[RunResults] = []
    for variant, corpus in pairs(inputs.measured("bdh")):
        group = group_of(inputs.measured("bdh"), variant, corpus)
        found = [row for run in group for row in _half_lives(run, inputs.window)]
        if not found:
            continue
        runs += group
        shown = ", ".join(
            f"{'none' if measured is None else f'{measured:.1f}'} ({alone:.1f}{'' if seen else ', not resolved'})"
            for measured, alone, seen in found
        )
        lines.append(f"{variant} on {corpus}: {shown} tokens (damping alone)")
        for measured, alone, seen in found:
            if seen:
                near = measured is not None and abs(measured / alone - 1) <= NEARLY
                verdicts.append(SUPPORTED if near else NOT_SUPPORTED)
                effects.append(Difference(0.0 if measured is None else measured / alone, None, None, "ratio"))
    if lines and not verdicts:
        reason = "No damping of the sweep has a half-life that window and documents can resolve."
        return lacking(reason, rule, lines, runs)
    return joined(verdicts, lines, rule, effects=effects, runs=runs)


def _half_lives(run: RunResults, window: int) -> list[tuple[float | None, float, bool]]:
    """Half-lives of the carried state in tokens, measured (None: the state does not fade) and by damping alone.

    And whether window and documents can resolve them; one row per damping below 1.
    """
    tokens, documents = run.hebbian.number("tokens"), run.hebbian.number("documents")
    length = tokens / documents if tokens and documents else 0.0
    names = ("half_life_measured_tokens", "half_life_tokens")
    rows = [[row[name] for name in names] for row in run.hebbian.rows("damping_sweep/rows", *names)]
    return [
        (measured, alone, window / MOST_LIVES <= alone <= length / FEWEST_LIVES) for measured, alone in rows if alone
    ]


CLAIMED = 8
NEAR = 0.9
SCALED = "recurrent_trained"
RULE = (
    f"Weak scaling of {SCALED} on {CLAIMED} GPUs keeps more than {100 * NEAR:.0f} % of {CLAIMED} times one GPU, over"
    " two repetitions or more. The claim is about the recurrent references; bdh is told beside it."
)


def near_linear(inputs: Inputs) -> Finding:
    """Claim 14: efficiency of weak scaling at 8 GPUs; every curve is told as far as it was measured."""
    curves: dict[str, dict[int, float]] = {}
    repeated: dict[str, float] = {}
    for row in inputs.scaling.rows("rows", "work", "ratio"):
        named = re.fullmatch(r"ddp_(\d+)(?:_(.+))?", row["work"])
        if named:
            curves.setdefault(named[2] or "bdh", {})[int(named[1])] = float(row["ratio"])
            repeated[row["work"]] = float(row.get("n") or 1)
    lines = [f"{variant}: {_told(curve)}" for variant, curve in curves.items()]
    reached = curves.get(SCALED, {}).get(CLAIMED)
    if not lines:
        return Finding(NOT_MEASURED, rule=RULE)
    if reached is None:
        return Finding(NOT_MEASURED, "\n".join([f"not measured at {CLAIMED}", *lines]), rule=RULE)
    if repeated[f"ddp_{CLAIMED}_{SCALED}"] < 2:
        return lacking("Measured once: a time without repetitions has no spread.", RULE, lines)
    effect = Difference(reached, None, None, "repetitions")
    return Finding(SUPPORTED if reached > NEAR else NOT_SUPPORTED, "\n".join(lines), rule=RULE, effect=effect)


def _told(curve: dict[int, float]) -> str:
    return ", ".join(f"{size} GPUs {efficiency:.1%}" for size, efficiency in sorted(curve.items()))
