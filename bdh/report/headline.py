"""The first lines of the page: what was run, and what may be concluded, in sentences made by rule."""

from __future__ import annotations

from collections import Counter

from bdh.frontier.registry import MetricRow, rows
from bdh.report import formats
from bdh.report.claims.ledger import judge
from bdh.report.data import measures
from bdh.report.data.inputs import Inputs
from bdh.report.data.spread import ABOVE, BELOW, BETTER, LOWERED, ONE_SEED, WHY_ONE_SEED, WORSE, of_difference
from bdh.report.tables.frontier import metric_verdict

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
