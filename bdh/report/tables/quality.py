"""How well every variant predicts held-out text: beside what knows nothing, little or everything, and beside bdh.

The tests beside bdh are paired, on the same corpus and seeds; mean and interval over seeds always come with n.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from bdh.report import formats
from bdh.report.data import measures
from bdh.report.data.inputs import CorpusFacts, Inputs, RunResults, divergences
from bdh.report.data.measures import BASE
from bdh.report.data.spread import ONE_SEED, WORSE, Difference, Spread, Verdict, of_difference
from bdh.report.plots.figure import slot_of
from bdh.report.tables.table import Cell, Column, Row, Table, keys_of, missing_cell, verdict_cell

BITS = "bits per byte"
COLUMNS = (
    Column("parameters", "count", "Tied parameters counted once.", "train"),
    Column("without embeddings", "count", "Parameters without token embedding and readout.", "train"),
    Column("forward work", "FLOP per token", "Floating-point operations of one forward pass per token.", "train"),
    Column("steps", "count", "Optimizer steps done.", "train"),
    Column("tokens seen", "count", "Tokens read in training, repeats counted.", "train"),
    Column("validation", "bits per byte", "Fixed validation set, best checkpoint.", "train"),
    Column("test", "bits per byte", "Held-out documents, state reset at every window (arm static).", "hebbian"),
    Column("test", "perplexity per token", "Depends on the tokenizer: compare within one corpus only.", "hebbian"),
    Column(
        "gain over unigram",
        "bits per byte",
        "Unigram baseline minus the model: positive is better than unigram.",
        "hebbian",
    ),
    Column("gain over unigram", "percent", "The same as a share of the unigram baseline.", "hebbian"),
    Column(
        "minus n-gram",
        "bits per byte",
        "Model minus the strongest n-gram model: negative is better than counting.",
        "hebbian",
    ),
    Column(
        "above floor",
        "bits per byte",
        "Model minus the known entropy of the generator; sample corpora only.",
        "hebbian",
    ),
    Column(
        "behind lowest",
        "bits per byte",
        "Test bits per byte minus those of the lowest, with a 95 % interval.",
        "hebbian",
    ),
)


def quality_table(inputs: Inputs, corpus: str) -> Table:
    """One row per variant on one corpus, then the reference rows: known floor, n-grams, unigram, uniform guess."""
    order = measures.ranking(inputs, corpus)
    lowest = order[0][0] if order else None
    gaps = {v: measures.compare_variants(inputs, corpus, v, str(lowest)) for v, _ in order if v != lowest}
    tested = bool(gaps) and all(of_difference(gap, inputs.smallest_effect).word == WORSE for gap in gaps.values())
    rows = [_row(inputs, corpus, variant, lowest if tested else None, gaps) for variant in inputs.variants]
    return Table(
        f"{corpus}-quality",
        f"{corpus}: prediction of held-out text",
        COLUMNS,
        rows + _reference_rows(inputs, corpus),
        notes=[
            *_notes(inputs, gaps, lowest, tested),
            _counted(inputs.facts[corpus]),
            *_shorter(inputs, corpus),
            *_diverged(inputs, corpus),
        ],
    )


def _row(inputs: Inputs, corpus: str, variant: str, best: str | None, gaps: dict[str, Difference | None]) -> Row:
    runs = inputs.of(corpus, variant)
    reason = divergences(runs)
    bits = measures.over(runs, measures.test_bits)
    unigram, floor = (
        measures.unigram_bits(inputs.facts[corpus], inputs.of(corpus)),
        measures.floor_bits(inputs.facts[corpus]),
    )
    gain = None if bits is None or unigram is None else Spread(unigram - bits.mean, bits.sd, bits.n)
    ngram = None if bits is None else bits.mean - measures.strongest_ngram(inputs.facts[corpus]).bits
    above = None if bits is None or floor is None else Spread(bits.mean - floor, bits.sd, bits.n)
    cells = [
        _count(runs, "parameters", reason),
        _count(runs, "parameters_without_embeddings", reason),
        _work(runs, reason),
        _count(runs, "steps_done", reason),
        _count(runs, "tokens_seen", reason),
        spread_cell(measures.over(runs, measures.validation_bits), reason=reason),
        spread_cell(bits, reason=reason, best=variant == best) if bits or not reason else _diverged_cell(reason),
        spread_cell(measures.over(runs, measures.perplexity), 2, reason),
        _gain_cell(gain, reason),
        Cell(formats.percent(gain.mean / unigram), gain.mean / unigram)
        if gain is not None and unigram
        else missing_cell(reason),
        _ngram_cell(ngram, reason),
        spread_cell(above, reason=reason if floor is not None else "the corpus has no known floor"),
        _gap_cell(variant, bits, gaps, reason),
    ]
    return Row(variant, cells, slot_of(inputs.variants, variant), note=reason, runs=keys_of(runs))


def spread_cell(value: Spread | None, digits: int = 3, reason: str = "", best: bool = False) -> Cell:
    """A cell with the mean over seeds, half its 95 % interval and n below it, sorted by the mean."""
    if value is None:
        return missing_cell(reason)
    return Cell(formats.fixed(value.mean, digits), value.mean, best=best, detail=formats.deviation(value, digits))


def _diverged_cell(reason: str) -> Cell:
    """In place of a test result that no seed has: `diverged at step 40`, why on hovering."""
    return Cell(reason.partition(":")[0], None, reason)


def _count(runs: list[RunResults], key: str, reason: str) -> Cell:
    value = measures.over(runs, measures.number_of("train", key))
    return missing_cell(reason) if value is None else Cell(formats.whole(value.mean), value.mean, detail=_over(value))


def _over(value: Spread) -> str:
    """The number of seeds of a mean that differs between them."""
    return f"mean, n {value.n}" if value.sd else ""


def _work(runs: list[RunResults], reason: str) -> Cell:
    value = measures.over(runs, measures.number_of("train", "flops_per_token_forward"))
    return missing_cell(reason) if value is None else Cell(formats.scaled(value.mean, ""), value.mean)


def _gain_cell(gain: Spread | None, reason: str) -> Cell:
    if gain is None:
        return missing_cell(reason)
    tone = "none" if gain.mean > 0 else "bad"
    note = "" if gain.mean > 0 else "does not beat the unigram baseline"
    return Cell(formats.signed(gain.mean), gain.mean, note, tone)


def _ngram_cell(above: float | None, reason: str) -> Cell:
    if above is None:
        return missing_cell(reason)
    if above < 0:
        return Cell(formats.signed(above), above)
    return Cell(formats.signed(above), above, "does not beat the strongest n-gram model", "bad")


def _gap_cell(variant: str, bits: Spread | None, gaps: dict[str, Difference | None], reason: str) -> Cell:
    if bits is None:
        return missing_cell(reason)
    if variant not in gaps:
        return Cell("lowest", 0.0)
    gap = gaps[variant]
    if gap is None:
        return missing_cell(reason)
    return Cell(formats.signed(gap.value), gap.value, detail=formats.interval(gap.low, gap.high))


def _reference_rows(inputs: Inputs, corpus: str) -> list[Row]:
    facts, runs = inputs.facts[corpus], inputs.of(corpus)
    strongest, across = measures.strongest_ngram(facts), measures.ngram_across_windows(facts)
    known: list[tuple[str, float | None, str, measures.NGram | None]] = [
        ("known floor", measures.floor_bits(facts), "entropy of the generator's own choices", None)
    ]
    for model in sorted(measures.ngrams(facts), key=lambda model: model.key != strongest.key):
        note = "counts of the training split, on the tokens that were judged, inside their windows"
        best = "; the strongest" if model.key == strongest.key else ""
        known.append((model.title, model.bits, f"{note}; order chosen on validation{best}", model))
    reads_on = f"{across.title} across windows"
    known.append((reads_on, across.bits, "the same, reading on in the document, as a carried state could", across))
    known.append(
        (
            "unigram",
            measures.unigram_bits(facts, runs),
            "add-one counts of the training split, on the tokens that were judged",
            None,
        )
    )
    known.append(
        ("uniform guess", measures.uniform_bits(facts, runs), "every token of the vocabulary equally likely", None)
    )
    unigram, floor = measures.unigram_bits(facts, runs), measures.floor_bits(facts)
    rows = []
    for title, bits, note, ngram in known:
        if bits is None:
            continue
        cells = dict.fromkeys(((c.title, c.unit) for c in COLUMNS), missing_cell())
        cells["test", BITS] = Cell(formats.fixed(bits), bits)
        cells["minus n-gram", BITS] = Cell(formats.signed(bits - strongest.bits), bits - strongest.bits)
        if ngram is not None:
            cells["test", "perplexity per token"] = Cell(formats.fixed(math.exp(ngram.nats), 2), math.exp(ngram.nats))
            if (judged := ngram.validation_bits) is not None:
                cells["validation", BITS] = Cell(formats.fixed(judged), judged)
        if unigram:
            cells["gain over unigram", BITS] = Cell(formats.signed(unigram - bits), unigram - bits)
            share = (unigram - bits) / unigram
            cells["gain over unigram", "percent"] = Cell(formats.percent(share), share)
        if floor is not None:
            cells["above floor", BITS] = Cell(formats.fixed(bits - floor), bits - floor)
        rows.append(
            Row(
                title,
                list(cells.values()),
                reference=True,
                note=note,
                file="" if ngram is None else f"floors/{corpus}.json",
            )
        )
    return rows


def _counted(facts: CorpusFacts) -> str:
    """What the n-gram models know: how many tokens they count, and what they may read."""
    counted, whole = facts.floors.number("train_tokens"), facts.stats.number("splits/train/tokens")
    share = (
        "" if counted is None or whole is None or counted >= whole else f"the last {formats.whole(counted)} tokens of "
    )
    return (
        f"n-gram models count {share}the training split once; an n-gram reads the n-1 tokens before its target, inside"
        " the window or (across windows) the document. Validation: held-out windows of stage hebbian's length."
    )


def _shorter(inputs: Inputs, corpus: str) -> list[str]:
    """A caution when models read less of the test split than the floor is taken over."""
    whole = inputs.facts[corpus].stats.number("splits/test/documents")
    read = {count for run in inputs.of(corpus) if (count := run.hebbian.number("arms/static/documents")) is not None}
    if whole is None or not read or max(read) >= whole or measures.floor_bits(inputs.facts[corpus]) is None:
        return []
    counts = f"{formats.whole(max(read))} of {formats.whole(whole)} documents"
    return [f"Models read {counts} of the test split; the floor is taken over all of it."]


def _diverged(inputs: Inputs, corpus: str) -> list[str]:
    """A note on the trainings that diverged: they have no numbers, and means over seeds are without them."""
    lines = [f"{run.variant}, seed {run.seed}: {run.divergence}" for run in inputs.of(corpus) if run.divergence]
    return [f"No numbers, and in no mean: {'; '.join(lines)}."] if lines else []


def _notes(inputs: Inputs, gaps: dict[str, Difference | None], lowest: str | None, tested: bool) -> list[str]:
    if lowest is None:
        return ["No variant has a test result yet."]
    kinds = {(gap.over, gap.covers_seeds) for gap in gaps.values() if gap is not None and gap.low is not None}
    notes = [
        f"Intervals of the last column: 95 %, paired by {kind}."
        if covered
        else f"Intervals of the last column: 95 %, over {kind} resampled in pairs, this seed only."
        for kind, covered in sorted(kinds)
    ]
    if tested:
        notes.append(f"★ {lowest}: lowest; over seeds every other variant is worse by the smallest effect of interest.")
    elif inputs.one_seed and gaps:
        notes.append(f"No variant is marked best: {ONE_SEED}.")
    elif gaps:
        notes.append("No variant is marked best: none is shown over seeds to be below all others.")
    notes.append("No other column is tested or ranked.")
    if len(inputs.seeds) > 1:
        notes.append("Over seeds: mean ± half its 95 % t interval (n seeds).")
    return notes


AGAINST_COLUMNS = (
    Column("seeds", "n", "Trainings with a test result."),
    Column("test", "bits per byte", "Mean over seeds, half its 95 % t interval, n.", "hebbian"),
    Column("minus bdh", "bits per byte", "Paired by seed and by unit of text, with a 95 % interval.", "hebbian"),
    Column("over", "", "What the interval is over, with numbers."),
    Column("p", "", "Two-sided, of no difference."),
    Column("p, adjusted", "false discovery", "In one family with everything that this page judges."),
    Column("verdict", "over seeds", "By the interval over seeds; one seed has none."),
)


@dataclass(frozen=True)
class Standing:
    """One variant beside bdh: its bits per byte over seeds, the paired difference, p in the family, and the verdict."""

    bits: Spread
    gap: Difference | None
    adjusted: float | None
    verdict: Verdict


def standings(inputs: Inputs, corpus: str) -> dict[str, Standing]:
    """Every variant that has a test result on one corpus; bdh itself without a gap."""
    bits = {variant: measures.over(inputs.of(corpus, variant), measures.test_bits) for variant in inputs.variants}
    others = [variant for variant in inputs.variants if variant != BASE and bits[variant] is not None]
    gaps = {variant: measures.compare_variants(inputs, corpus, variant, BASE) for variant in others}
    found = {}
    for variant, spread in bits.items():
        if spread is not None:
            key, gap = ("variant", corpus, variant), gaps.get(variant)
            verdict = measures.judge(inputs, key, gap)
            found[variant] = Standing(spread, gap, measures.adjusted(inputs).get(key), verdict)
    return found


def against_bdh_table(inputs: Inputs, corpus: str) -> Table:
    """One row per variant on one corpus."""
    found = standings(inputs, corpus)
    rows = [
        Row(
            variant,
            _cells(variant, found.get(variant)),
            slot_of(inputs.variants, variant),
            runs=keys_of(inputs.of(corpus, variant)),
        )
        for variant in inputs.variants
    ]
    notes = [text for text in (words(inputs), measures.family_note(inputs)) if text]
    if BASE not in inputs.variants:
        notes.append("bdh is not among the variants: there is nothing to compare with.")
    return Table(f"{corpus}-against-bdh", f"{corpus}: every variant beside bdh", AGAINST_COLUMNS, rows, notes=notes)


def words(inputs: Inputs) -> str:
    """What the words of a verdict on a difference mean; empty for one seed, which is not judged."""
    if inputs.one_seed:
        return ""
    size = f"{inputs.smallest_effect:g} bits per byte"
    return (
        f"Better, worse: the interval over seeds leaves out 0, the difference is at least {size} (the smallest effect"
        f" of interest), adjusted p below 0.05. Practically equal: the whole interval within {size} of 0."
    )


def _cells(variant: str, standing: Standing | None) -> list[Cell]:
    if standing is None:
        return [missing_cell("no test result") for _ in AGAINST_COLUMNS]
    count = Cell(formats.whole(standing.bits.n), standing.bits.n)
    gap = standing.gap
    if gap is None:
        reason = "the base of the comparison" if variant == BASE else "bdh has no test result on this corpus"
        return [count, spread_cell(standing.bits), *(missing_cell(reason) for _ in AGAINST_COLUMNS[2:])]
    detail = formats.interval(gap.low, gap.high)
    return [
        count,
        spread_cell(standing.bits),
        Cell(formats.signed(gap.value), gap.value, detail=detail)
        if gap.low is not None
        else missing_cell("not measurable: no interval can be had"),
        Cell(_over_seeds(gap), _over_seeds(gap)),
        missing_cell(ONE_SEED) if gap.p is None else Cell(formats.chance(gap.p), gap.p),
        Cell(formats.chance(standing.adjusted), standing.adjusted),
        verdict_cell(standing.verdict),
    ]


def _over_seeds(gap: Difference) -> str:
    parts = [f"{gap.seeds} seeds"] if gap.seeds > 1 else []
    parts += [f"{gap.units} {gap.over.removeprefix('seeds and ')}"] if gap.units else []
    parts += ["this seed only"] if gap.units and gap.seeds == 1 else []
    return ", ".join(parts) or formats.ABSENT
