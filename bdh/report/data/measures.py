"""Which number of which file is which quantity: the one place that knows the names inside the result files."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pandas as pd

from bdh.frontier.registry import rows as metric_rows
from bdh.report.data.inputs import CorpusFacts, Inputs, RunResults, damaged
from bdh.report.data.spread import (
    Difference,
    Key,
    Side,
    Spread,
    Verdict,
    discoveries,
    of_difference,
    over_pairs,
    over_seeds,
    paired_seeds,
    seed_difference,
)

LN2 = math.log(2.0)
BASE = "bdh"
"""The variant that the others are compared with."""

UNREAD = ("static", "observe")
"""Arms that are not judged: the one that the others are compared with, and the one that reads nothing."""

STATE_ARMS = ("carry", "shuffled")
"""Arms that are compared with overlap, too."""

STRATA = ("by_year", "by_sector", "by_role")
BACKWARD_SHARE = 2.0
Measure = Callable[[RunResults], float | None]
NGRAMS = {"witten_bell": "Witten-Bell", "kneser_ney": "Kneser-Ney", "ppm": "PPM-D"}
STRONGEST = "strongest"


def validation_bits(run: RunResults) -> float | None:
    """Bits per byte on the fixed validation set, at the best checkpoint."""
    return run.train.number("validation/bits_per_byte")


def test_bits(run: RunResults) -> float | None:
    """Bits per byte on the held-out test text, static arm."""
    return run.hebbian.number("arms/static/bits_per_byte")


def test_interval(runs: Sequence[RunResults]) -> tuple[float | None, float | None]:
    """95 % interval of `test_bits`: of the mean over seeds; of one seed over its text, this seed only."""
    bits = over(runs, test_bits)
    if bits is None:
        return None, None
    if bits.half is not None:
        return bits.mean - bits.half, bits.mean + bits.half
    run = next(run for run in runs if test_bits(run) is not None)
    return run.hebbian.number("arms/static/bits_low"), run.hebbian.number("arms/static/bits_high")


def perplexity(run: RunResults) -> float | None:
    """Perplexity per token on the held-out test text, static arm."""
    return run.hebbian.number("arms/static/perplexity")


def parameters(run: RunResults) -> float | None:
    """All parameters, tied ones once."""
    return run.train.number("parameters")


def training_flops(run: RunResults) -> float | None:
    """Floating-point operations of the whole training.

    Forward operations per token times tokens seen, times three (a backward pass counts as two forward passes).
    """
    forward, tokens = run.train.number("flops_per_token_forward"), run.train.number("tokens_seen")
    return None if forward is None or tokens is None else (1.0 + BACKWARD_SHARE) * forward * tokens


def device_seconds(run: RunResults) -> float | None:
    """Seconds of the whole training times the devices that it ran on."""
    seconds = run.timing.number("seconds")
    return None if seconds is None else seconds * (run.timing.number("devices") or 1.0)


def bits_per_nat(run: RunResults) -> float | None:
    """Factor from nats per token to bits per byte on the run's validation set."""
    bits, nats = validation_bits(run), run.train.number("validation/nats_per_token")
    return None if bits is None or not nats else bits / nats


def bytes_per_token(runs: Sequence[RunResults]) -> float | None:
    """UTF-8 bytes per scored token of the held-out text, from the first run that has read it."""
    for run in runs:
        tokens, size = run.hebbian.number("tokens"), run.hebbian.number("bytes")
        if tokens and size:
            return size / tokens
    return None


def uniform_bits(facts: CorpusFacts, runs: Sequence[RunResults]) -> float | None:
    """Bits per byte of a guess that gives every token of the vocabulary the same chance."""
    vocabulary, size = facts.stats.number("tokenizer/vocab_size"), bytes_per_token(runs)
    return math.log2(vocabulary) / size if vocabulary and size else None


def unigram_bits(facts: CorpusFacts, runs: Sequence[RunResults]) -> float | None:
    """Bits per byte under the add-one unigram of the training split: of the tokens that models were judged on.

    Before any of `runs` has read them, of the whole test split.
    """
    same = (bits for run in runs if (bits := run.hebbian.number("unigram_bits_per_byte")) is not None)
    return next(same, facts.stats.number("unigram_bits_per_byte"))


def floor_bits(facts: CorpusFacts) -> float | None:
    """Bits per byte of the generator's own choices on the test split; only sample corpora have it."""
    return facts.stats.number("entropy_floor/test")


@dataclass(frozen=True)
class NGram:
    """An n-gram model of the training split: its name in the files and on the page, and what it reaches.

    bits: per byte of the scored tokens of the test split. nats: per token of them. validation_bits: per byte of the
    validation split, None where it was not read.
    """

    key: str
    title: str
    bits: float
    nats: float
    validation_bits: float | None


def ngrams(facts: CorpusFacts) -> list[NGram]:
    """The n-gram model of each kind, its order chosen on the validation split, in the order of NGRAMS."""
    return [_ngram(facts, "floors", _chosen_ngram(facts, kind)) for kind in NGRAMS]


def strongest_ngram(facts: CorpusFacts) -> NGram:
    """The best of `ngrams` on the validation split: what a model must beat before its mechanism is worth a word."""
    return _ngram(facts, "floors", _chosen_ngram(facts, STRONGEST))


def ngram_across_windows(facts: CorpusFacts) -> NGram:
    """The Kneser-Ney model of `ngrams` when it may read on across the borders of windows."""
    return _ngram(facts, "across_windows", _chosen_ngram(facts, "kneser_ney"))


def _chosen_ngram(facts: CorpusFacts, kind: str) -> str:
    found = facts.floors.text(f"chosen/{kind}")
    if found is None or found.rpartition("_")[0] not in NGRAMS:
        raise damaged(facts.floors.path, f"chosen/{kind} is {found!r}, not the name of a model")
    return found


def _ngram(facts: CorpusFacts, section: str, key: str) -> NGram:
    values, (kind, _, order) = facts.floors, key.rpartition("_")
    bits, nats, validation = (
        values.number(f"{section}/{key}/{name}")
        for name in ("bits_per_byte", "nats_per_token", "validation_bits_per_byte")
    )
    if bits is None or nats is None:
        raise damaged(values.path, f"{section}/{key} has no bits_per_byte and nats_per_token")
    return NGram(key, f"{NGRAMS[kind]} {order}-gram", bits, nats, validation)


def over(runs: Sequence[RunResults], measure: Measure) -> Spread | None:
    """Spread of one quantity over the seeds of one variant."""
    return over_seeds(measure(run) for run in runs)


def number_of(stage: str, key: str) -> Measure:
    """The quantity `key` of the file of `stage` (train, timing, hebbian, frontier)."""
    return lambda run: getattr(run, stage).number(key)


def arm_units(run: RunResults, arm: str = "static") -> pd.DataFrame | None:
    """Rows of one arm in the order in which they were read, columns kind, id, nats, bytes; None when there are none."""
    if run.units is None:
        return None
    chosen = run.units.loc[run.units["arm"] == arm, ["kind", "id", "nats", "bytes"]]
    return chosen.reset_index(drop=True) if len(chosen) else None


def compare_variants(inputs: Inputs, corpus: str, a: str, b: str) -> Difference | None:
    """Test bits per byte of variant `a` minus variant `b` on one corpus, with the best interval that can be had.

    Paired by seed, and by document (or block of text) where both runs of every seed have them; without a seed in
    common, Welch's interval over seeds.
    """
    return compare_runs(inputs.of(corpus, a), inputs.of(corpus, b))


def compare_runs(runs_a: Sequence[RunResults], runs_b: Sequence[RunResults]) -> Difference | None:
    """The same of any two groups of runs on one corpus, such as those of two recipes."""
    spread_a, spread_b = over(runs_a, test_bits), over(runs_b, test_bits)
    if spread_a is None or spread_b is None:
        return None
    by_seed = {run.seed: run for run in runs_b}
    pairs = [(_side(run), _side(by_seed[run.seed])) for run in runs_a if run.seed in by_seed]
    whole = [(mine, theirs) for mine, theirs in pairs if mine is not None and theirs is not None]
    if whole:
        return over_pairs(whole)
    return seed_difference(spread_a, spread_b)


def _side(run: RunResults, arm: str = "static") -> Side | None:
    """One run's bits per byte in one arm, with its units of text; None without the number."""
    bits = run.hebbian.number(f"arms/{arm}/bits_per_byte")
    return None if bits is None else Side(bits, arm_units(run, arm))


def compare_arms(runs: Sequence[RunResults], arm: str, against: str = "static") -> Difference | None:
    """Bits per byte of one arm minus another over the seeds of one variant, in pairs as above."""
    pairs = [(_side(run, arm), _side(run, against)) for run in runs]
    whole = [(mine, other) for mine, other in pairs if mine is not None and other is not None]
    return over_pairs(whole) if whole else None


def stratum_difference(runs: Sequence[RunResults], arm: str, kind: str, label: str) -> Difference | None:
    """Bits per byte of one arm minus static in one stratum, over seeds; of one seed its interval over the text."""
    path = f"arms/{arm}/{kind}/{label}"
    found = [run for run in runs if run.hebbian.number(f"{path}/difference_to_static") is not None]
    values = [value for run in found if (value := run.hebbian.number(f"{path}/difference_to_static")) is not None]
    if len(values) == 1:
        low, high = (found[0].hebbian.number(f"{path}/{end}") for end in ("ci_low", "ci_high"))
        return Difference(values[0], low, high, "units of text", seeds=1)
    return paired_seeds(values) if values else None


def sweep_rows(run: RunResults) -> dict[float, dict[str, float | None]]:
    """Numbers of one run by damping; empty when it carries no state."""
    return {float(row["damping"]): row for row in run.hebbian.rows("damping_sweep/rows", "damping")}


def sweep_difference(runs: Sequence[RunResults], damping: float) -> Difference | None:
    """Bits per byte of arm carry at one damping minus static, over seeds; of one seed its interval over the text."""
    rows = [row for run in runs if (row := sweep_rows(run).get(damping))]
    found = [(value, row) for row in rows if (value := row.get("difference_to_static")) is not None]
    if len(found) == 1:
        value, row = found[0]
        return Difference(value, row.get("ci_low"), row.get("ci_high"), "units of text", seeds=1)
    return paired_seeds([value for value, _ in found]) if found else None


def metric_chance(runs: Sequence[RunResults], path: str) -> float | None:
    """The p of a frontier metric over seeds: the largest of every seed, null and twins, since all must be beaten.

    None for one seed, and where a seed has none.
    """
    found = [
        max(chances)
        for run in runs
        if run.frontier.number(f"{path}/value") is not None and (chances := _null_chances(run, path))
    ]
    measured = sum(run.frontier.number(f"{path}/value") is not None for run in runs)
    return max(found) if len(found) == measured > 1 else None


def _null_chances(run: RunResults, path: str) -> list[float]:
    names = [f"{path}/nulls/{name}/p" for name in run.frontier.children(f"{path}/nulls")]
    keys = (f"{path}/p", f"{path}/untrained_p", *names)
    return [p for key in keys if (p := run.frontier.number(key)) is not None]


@functools.lru_cache(maxsize=4)
def adjusted(inputs: Inputs) -> dict[Key, float]:
    """The p-value of everything that the page judges, adjusted in one family; empty for one seed.

    Keys: ("variant", corpus, variant) against bdh; ("arm", corpus, variant, arm) against static; ("stratum", corpus,
    variant, arm, kind, label) against static; ("sweep", corpus, variant, damping) against static; ("beyond", corpus,
    variant, arm) against overlap; ("metric", corpus, variant, path) against its nulls.
    """
    found: dict[Key, float | None] = {}
    for corpus in inputs.corpora:
        for variant in inputs.variants:
            runs = inputs.of(corpus, variant)
            if variant != BASE and BASE in inputs.variants:
                found["variant", corpus, variant] = _chance(compare_variants(inputs, corpus, variant, BASE))
            for arm in dict.fromkeys(name for run in runs for name in run.hebbian.children("arms")):
                if arm in UNREAD:
                    continue
                found["arm", corpus, variant, arm] = _chance(compare_arms(runs, arm))
                for kind in STRATA:
                    for label in dict.fromkeys(n for run in runs for n in run.hebbian.children(f"arms/{arm}/{kind}")):
                        gap = stratum_difference(runs, arm, kind, label)
                        found["stratum", corpus, variant, arm, kind, label] = _chance(gap)
            for damping in {damping for run in runs for damping in sweep_rows(run)}:
                found["sweep", corpus, variant, f"{damping:g}"] = _chance(sweep_difference(runs, damping))
            for arm in STATE_ARMS:
                found["beyond", corpus, variant, arm] = _chance(compare_arms(runs, arm, "overlap"))
            for row in metric_rows():
                found["metric", corpus, variant, row.path] = metric_chance(runs, row.path)
    return discoveries({key: p for key, p in found.items() if p is not None})


def _chance(gap: Difference | None) -> float | None:
    return None if gap is None or gap.seeds < 2 else gap.p


def family_note(inputs: Inputs) -> str:
    """How many p-values are adjusted together, and what they are of; empty for one seed."""
    count = len(adjusted(inputs))
    if not count:
        return ""
    return (
        f"p-values are adjusted together (Benjamini and Yekutieli, false discovery rate 5 %): the family is all {count}"
        " tests behind verdicts of variants, arms, dampings, strata and frontier metrics on this page."
    )


def judge(inputs: Inputs, key: Key, gap: Difference | None) -> Verdict:
    """The verdict on one difference of the family: by its interval over seeds, its size, and its adjusted p."""
    return of_difference(gap, inputs.smallest_effect, adjusted(inputs).get(key))


def judge_arm(inputs: Inputs, corpus: str, variant: str, arm: str) -> Verdict | None:
    """The verdict on one arm against static, None where no run measured it."""
    gap = compare_arms(inputs.of(corpus, variant), arm)
    return None if gap is None else judge(inputs, ("arm", corpus, variant, arm), gap)


def ranking(inputs: Inputs, corpus: str) -> list[tuple[str, Spread]]:
    """Variants with their test bits per byte on one corpus, lowest first; those without a result are left out."""
    found = [(variant, over(inputs.of(corpus, variant), test_bits)) for variant in inputs.variants]
    return sorted(((v, s) for v, s in found if s is not None), key=lambda pair: pair[1].mean)


def taps(runs: Sequence[RunResults]) -> list[str]:
    """Names of the activations whose density was recorded, in the order in which the runs name them."""
    return list(dict.fromkeys(name for run in runs for name in run.frontier.children("density")))


def density(run: RunResults, tap: str) -> float | None:
    """Share of non-zeros of one activation on held-out text, mean over layers."""
    return run.frontier.number(f"density/{tap}/mean")


def state_bytes(run: RunResults) -> float | None:
    """Bytes that one stream carries before it has read anything."""
    return run.train.number("state_bytes")


def state_bytes_by_length(run: RunResults) -> dict[int, float]:
    """Bytes that one stream carries after texts of several lengths (tokens), the shortest first."""
    lengths = sorted(int(name) for name in run.train.children("state_bytes_after") if name.isdigit())
    found = {length: run.train.number(f"state_bytes_after/{length}") for length in lengths}
    return {length: size for length, size in found.items() if size is not None}
