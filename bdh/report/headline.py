"""The first lines of the page: what was run, and what may be concluded, in sentences made by rule."""

from __future__ import annotations

from collections import Counter

from bdh.frontier.registry import MetricRow, rows
from bdh.report import formats
from bdh.report.claims.ledger import TONES, judge
from bdh.report.data import measures
from bdh.report.data.inputs import Inputs
from bdh.report.data.measures import BASE
from bdh.report.data.spread import (
    ABOVE,
    BELOW,
    BETTER,
    LOWERED,
    ONE_SEED,
    WHY_ONE_SEED,
    WORSE,
    Difference,
    of_difference,
)
from bdh.report.tables.frontier import metric_verdict

RIVALS = ("transformer", "gated_linear")
"""Families that are no BDH: what the field trains instead."""

LABELS = {
    "laptop": "Laptop scale: small budgets. Not evidence about the variants at scale.",
    "gpu": "GPU scale: the settings of the references.",
}


def label(inputs: Inputs) -> str:
    """What the scale of the runs allows to conclude."""
    seeds = WHY_ONE_SEED if inputs.one_seed else ""
    return f"{LABELS.get(inputs.scale, inputs.scale)} {seeds}".strip()


def facts(inputs: Inputs) -> list[tuple[str, str]]:
    """What was run, as pairs of a name and a value."""
    diverged, lacking = len(without_result(inputs)), len(inputs.absent)
    told = f", {diverged} diverged" if diverged else ""
    told += f"; {lacking} more not run or in part" if lacking else ""
    steps = [value for run in inputs.runs if (value := run.train.number("steps_done")) is not None]
    tokens = [value for run in inputs.runs if (value := run.train.number("tokens_seen")) is not None]
    return [
        ("runs", f"{len(inputs.runs) - diverged} of {len(inputs.runs)} complete{told}"),
        ("variants", str(len(inputs.variants))),
        ("corpora", ", ".join(inputs.corpora)),
        ("seeds", ", ".join(str(seed) for seed in inputs.seeds)),
        ("scale", inputs.scale),
        ("device", _distinct(inputs, "device")),
        ("torch", _distinct(inputs, "torch")),
        ("CPU threads", _distinct(inputs, "threads")),
        ("training steps", _range(steps)),
        ("tokens seen per run", _range(tokens)),
    ]


def answers(inputs: Inputs) -> list[tuple[str, str]]:
    """What the comparison came to: three sentences, each with the words that it begins with."""
    told = f" ({ONE_SEED})" if inputs.one_seed else ""
    found = (
        ("Prediction", "; ".join(_lowest(inputs, corpus) for corpus in inputs.corpora)),
        ("What it must beat", "; ".join(_rivals(inputs, corpus) for corpus in inputs.corpora)),
        ("Living state", _state(inputs)),
    )
    return [(lead, f"{text}{told}.") for lead, text in found if text]


def claim_states(inputs: Inputs) -> tuple[list[tuple[int, str, str, str]], str]:
    """Every claim as number, statement, verdict and tone, and how many have which verdict."""
    found = judge(inputs)
    counts = Counter(finding.verdict for _, finding in found)
    told = ", ".join(f"{n} {word}" for word, n in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))
    return [(c.number, c.statement, f.verdict, TONES.get(f.verdict, "none")) for c, f in found], told


def _lowest(inputs: Inputs, corpus: str) -> str:
    """The lowest on one corpus and how far the next is behind it."""
    order = measures.ranking(inputs, corpus)
    if not order:
        return f"{corpus} has no test result yet"
    first = order[0][0]
    text = f"on {corpus} {first} is lowest with {formats.fixed(order[0][1].mean)} bits per byte"
    if len(order) == 1:
        return text
    gap = measures.compare_variants(inputs, corpus, order[1][0], first)
    return f"{text}, {order[1][0]} follows at {formats.difference(gap)}{_word(inputs, gap)}"


def _rivals(inputs: Inputs, corpus: str) -> str:
    """bdh beside the best rival of the field and beside counting, and how many variants counting leaves behind."""
    order = measures.ranking(inputs, corpus)
    if not order:
        return ""
    ngram = measures.strongest_ngram(inputs.facts[corpus])
    ahead = sum(bits.mean < ngram.bits for _, bits in order)
    counted = f"{ahead} of {len(order)} variants beat the strongest n-gram model ({formats.fixed(ngram.bits)})"
    bits = dict(order)
    rival = next((variant for variant, _ in order if variant in inputs.family(*RIVALS)), None)
    if BASE not in bits:
        return f"on {corpus} {counted}"
    beside = f"on {corpus} bdh has {formats.fixed(bits[BASE].mean)}"
    if rival is not None:
        gap = measures.compare_variants(inputs, corpus, BASE, rival)
        beside += f", {formats.difference(gap)} beside {rival}, the best rival{_word(inputs, gap)}"
    return f"{beside}; {counted}"


def _state(inputs: Inputs) -> str:
    """What carrying the state does to bdh, for how many variants it lowers bits per byte, and metrics beside nulls."""
    parts = []
    for corpus in inputs.corpora:
        gaps = {
            variant: gap
            for variant in inputs.variants
            if (gap := measures.compare_arms(inputs.of(corpus, variant), "carry")) is not None
        }
        if not gaps:
            continue
        own = gaps.get(BASE)
        text = f"on {corpus} carrying the state through a document "
        if own is not None:
            text += f"changes bdh by {formats.difference(own)} bits per byte{_word(inputs, own)} and "
        parts.append(f"{text}lowers {sum(gap.value < 0 for gap in gaps.values())} of {len(gaps)} variants with a state")
    if not parts:
        return ""
    verdicts = [
        verdict.word
        for corpus in inputs.corpora
        for variant in inputs.variants
        for row in rows()
        if (verdict := metric_verdict(inputs, corpus, variant, row.path)) is not None
    ]
    if verdicts and not inputs.one_seed:
        parts.append(f"{verdicts.count(ABOVE)} of {len(verdicts)} frontier values stand above their nulls")
    return "; ".join(parts)


def _word(inputs: Inputs, gap: Difference | None) -> str:
    """` (worse)`, the verdict by interval and size; nothing for one seed, which the sentence says once."""
    return "" if inputs.one_seed or gap is None else f" ({of_difference(gap, inputs.smallest_effect).word})"


def sentences(inputs: Inputs) -> list[str]:
    """What may be concluded, each sentence by a rule from the numbers below it."""
    lines = [line for corpus in inputs.corpora for line in (_prediction(inputs, corpus), _counting(inputs, corpus))]
    lines += [_carry(inputs), *(_metric(inputs, row) for row in rows())]
    counts = Counter(finding.verdict for _, finding in judge(inputs))
    lines.append("Claims of the references: " + ", ".join(f"{n} {word}" for word, n in sorted(counts.items())) + ".")
    return [line for line in lines if line]


def without_result(inputs: Inputs) -> list[str]:
    """Every run whose training diverged, with the step and the reason."""
    return [f"{run.key}: {run.divergence}" for run in inputs.runs if run.divergence]


def _prediction(inputs: Inputs, corpus: str) -> str:
    order = measures.ranking(inputs, corpus)
    if not order:
        return f"{corpus}: no test result yet."
    start = f"{corpus}: {order[0][0]} has the lowest test bits per byte, {formats.spread(order[0][1])}"
    if len(order) == 1:
        return f"{start}; it is alone."
    second = order[1][0]
    gap = measures.compare_variants(inputs, corpus, second, order[0][0])
    if gap is None or gap.low is None:
        return f"{start}; its lead over {second} is not tested."
    found = of_difference(gap, inputs.smallest_effect).word
    if found == ONE_SEED:
        told = f"{second} follows at {formats.difference(gap)}, over {gap.over}, this seed only"
        return f"{start}; {told} ({ONE_SEED})."
    return f"{start}; {second} minus it {formats.difference(gap)}, over {gap.over}: {found}."


def _counting(inputs: Inputs, corpus: str) -> str:
    """How many variants predict better than counting does: than the strongest n-gram, and than the unigram."""
    order = measures.ranking(inputs, corpus)
    if not order:
        return ""
    ngram = measures.strongest_ngram(inputs.facts[corpus])
    ahead = [variant for variant, bits in order if bits.mean < ngram.bits]
    text = (
        f"{corpus}: {len(ahead)} of {len(order)} variants predict better than the strongest n-gram model "
        f"({ngram.title}, {formats.fixed(ngram.bits)} bits per byte)"
    )
    text += f": {_list(ahead)}" if ahead else ""
    unigram = measures.unigram_bits(inputs.facts[corpus], inputs.of(corpus))
    if unigram is None:
        return f"{text}."
    gains = {variant: unigram - bits.mean for variant, bits in order}
    behind = [variant for variant, gain in gains.items() if gain <= 0]
    above = [gain for gain in gains.values() if gain > 0]
    text += f"; {len(above)} of {len(gains)} variants beat the unigram baseline"
    if above:
        text += f", by {formats.fixed(min(above), 2)} to {formats.fixed(max(above), 2)} bits per byte"
    return text + (f"; not {', '.join(behind)}." if behind else ".")


def _carry(inputs: Inputs) -> str:
    words: dict[str, list[str]] = {}
    for corpus in inputs.corpora:
        for variant in inputs.variants:
            verdict = measures.judge_arm(inputs, corpus, variant, "carry")
            if verdict is not None:
                words.setdefault(verdict.word, []).append(f"{variant} on {corpus}")
    if not words:
        return ""
    order = sorted(words, key=lambda word: (word != BETTER, word != WORSE, word))
    return (
        "Carrying the synaptic state through a document: "
        + "; ".join(f"{word} for {_list(words[word])}" for word in order)
        + "."
    )


def _metric(inputs: Inputs, row: MetricRow) -> str:
    found = {
        f"{v} on {c}": verdict.word
        for c in inputs.corpora
        for v in inputs.variants
        if (verdict := metric_verdict(inputs, c, v, row.path)) is not None
    }
    verdicts = list(found.values())
    if not verdicts:
        return ""
    if set(verdicts) == {ONE_SEED}:
        return f"{row.title}, {row.description}: {len(verdicts)} (variant, corpus) pairs measured; {ONE_SEED}."
    fallen = [pair for pair, word in found.items() if word == BELOW]
    told = f" Where {LOWERED}: {_list(fallen)}." if fallen else ""
    above, below = (sum(word == side for word in verdicts) for side in (ABOVE, BELOW))
    others = len(verdicts) - above - below
    return (
        f"{row.title}, {row.description}: of {len(verdicts)} (variant, corpus) pairs {above} are above their"
        f" nulls, {below} below, {others} not distinguishable or not tested.{told}"
    )


def _list(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= 4 else f"{', '.join(names[:3])} and {len(names) - 3} more"


def _distinct(inputs: Inputs, key: str) -> str:
    found = {text for run in inputs.runs if (text := run.timing.text(key)) is not None}
    return ", ".join(sorted(found)) or formats.ABSENT


def _range(values: list[float]) -> str:
    if not values:
        return formats.ABSENT
    low, high = min(values), max(values)
    return formats.whole(low) if low == high else f"{formats.whole(low)} to {formats.whole(high)}"
