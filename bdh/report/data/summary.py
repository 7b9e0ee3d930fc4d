"""The numbers that people track from commit to commit: nested for `dvc metrics`, and every run in one flat table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bdh.frontier.registry import rows
from bdh.project.files import write_csv
from bdh.report.claims.ledger import judge
from bdh.report.data import measures
from bdh.report.data.inputs import CorpusFacts, Inputs, RunResults
from bdh.report.data.measures import Measure
from bdh.report.data.spread import ONE_SEED, Spread
from bdh.report.tables.quality import Standing, standings

STAGES = ("train", "timing", "hebbian", "frontier")
OWN = {"variant", "corpus", "seed"}
OF_STRATA = {"bits_per_byte", "bits_low", "bits_high", "difference_to_static", "ci_low", "ci_high", "documents"}


def result_rows(inputs: Inputs) -> list[dict[str, Any]]:
    """One row per run: key, variant, corpus, seed, why numbers are missing, `over_seeds/...`, then `stage/...`.

    `over_seeds` is the same in every row of a variant on a corpus: n, mean, 95 % interval (empty for one seed) and the
    paired difference to bdh. Of strata their bits per byte, differences, intervals and documents are here; the rest of
    them, and lists, are in the files of the stage.
    """
    beside = {corpus: standings(inputs, corpus) for corpus in inputs.corpora}
    rows = [_row(run, beside[run.corpus].get(run.variant)) for run in inputs.runs]
    return (
        [{name: value for name, value in row.items() if not _judges(name)} for row in rows] if inputs.one_seed else rows
    )


def _judges(name: str) -> bool:
    """Whether a column of stage frontier is a p-value or a verdict: one seed is not judged."""
    last = name.rpartition("/")[2]
    return last in ("p", "verdict") or last.endswith("_p")


def write_results(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write the rows as CSV in one step; columns in the order in which they first appear, absent values empty."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    write_csv(path, columns, rows)


def _row(run: RunResults, standing: Standing | None) -> dict[str, Any]:
    row: dict[str, Any] = {
        "key": run.key,
        "variant": run.variant,
        "corpus": run.corpus,
        "seed": run.seed,
        "missing": run.divergence,
    }
    row |= _over_seeds(standing) if standing is not None else {}
    for stage in STAGES:
        for name, value in getattr(run, stage).values.items():
            if name not in OWN and not isinstance(value, list) and not _minor(name):
                row[f"{stage}/{name}"] = value
    return row


def _minor(name: str) -> bool:
    """Whether this is a number of a stratum that the table leaves out."""
    return "/by_" in name and name.rpartition("/")[2] not in OF_STRATA


def _over_seeds(standing: Standing) -> dict[str, Any]:
    bits, gap = standing.bits, standing.gap
    found: dict[str, Any] = {"n": bits.n, "test_bits_per_byte_mean": bits.mean}
    if bits.half is not None:
        found |= {"low": bits.mean - bits.half, "high": bits.mean + bits.half}
    if gap is not None and gap.low is not None:
        found |= {
            "minus_bdh": gap.value,
            "minus_bdh_low": gap.low,
            "minus_bdh_high": gap.high,
            "minus_bdh_over": gap.over,
        }
        if gap.p is not None:
            found |= {"minus_bdh_p": gap.p, "minus_bdh_p_adjusted": standing.adjusted}
    if gap is not None:
        found["verdict"] = standing.verdict.word
    return {f"over_seeds/{name}": value for name, value in found.items()}


QUANTITIES: dict[str, Measure] = {
    "parameters": measures.parameters,
    "flops_per_token_forward": measures.number_of("train", "flops_per_token_forward"),
    "tokens_seen": measures.number_of("train", "tokens_seen"),
    "validation_bits_per_byte": measures.validation_bits,
    "test_bits_per_byte": measures.test_bits,
    "test_perplexity": measures.perplexity,
    "carry_minus_static_bits_per_byte": measures.number_of("hebbian", "arms/carry/difference_to_static"),
    "density_x": lambda run: measures.density(run, "x_sparse"),
    "density_y": lambda run: measures.density(run, "y_sparse"),
    "dead_neurons_share": measures.number_of("frontier", "dead_neurons_share"),
    **{
        f"{row.path.replace('/', '_')}_{number}": measures.number_of("frontier", f"{row.path}/{number}")
        for row in rows()
        for number in row.metric.headline
    },
}
COUNTS = {"parameters", "flops_per_token_forward", "tokens_seen"}


def summarise(inputs: Inputs) -> dict[str, Any]:
    """Numbers by corpus and variant, the lowest run per corpus, the verdicts.

    A mean over several seeds has its sample standard deviation `_sd`, its 95 % t interval `_low`, `_high` and its
    number `_n` beside it; with one seed `over_seeds` says that nothing over seeds is measured. `minus_bdh` is paired by
    seed and document; with one seed its interval is over the text that was read, and it has no p and no verdict.
    `p_adjusted` is over everything that the page judges (Benjamini and Yekutieli).

    Times are left out: they differ from machine to machine and are in results.csv.
    """
    return {
        "scale": inputs.scale,
        "over_seeds": f"{len(inputs.seeds)} seeds" if len(inputs.seeds) > 1 else ONE_SEED,
        "smallest_effect_bits_per_byte": inputs.smallest_effect,
        "tests_adjusted_together": len(measures.adjusted(inputs)),
        "runs": _runs(inputs),
        "corpora": {corpus: _corpus(inputs, corpus) for corpus in inputs.corpora},
        "claims": {f"claim_{claim.number:02d}": finding.verdict for claim, finding in judge(inputs)},
    }


def _runs(inputs: Inputs) -> dict[str, int]:
    """How many runs there are to be and have results; and how many diverged, where one did."""
    diverged = sum(bool(run.divergence) for run in inputs.runs)
    counts = {"expected": len(inputs.runs), "complete": len(inputs.runs) - diverged}
    return counts | ({"diverged": diverged} if diverged else {})


def _corpus(inputs: Inputs, corpus: str) -> dict[str, Any]:
    facts, runs = inputs.facts[corpus], inputs.of(corpus)
    baselines = {
        "unigram_bits_per_byte": measures.unigram_bits(facts, runs),
        "uniform_bits_per_byte": measures.uniform_bits(facts, runs),
        "floor_bits_per_byte": measures.floor_bits(facts),
    }
    found: dict[str, Any] = {name: value for name, value in baselines.items() if value is not None}
    found["floors"] = _floors(facts)
    judged = [(bits, run) for run in runs if (bits := measures.test_bits(run)) is not None]
    if judged:
        bits, run = min(judged, key=lambda pair: pair[0])
        found["lowest"] = {"variant": run.variant, "seed": run.seed, "key": run.key, "test_bits_per_byte": bits}
    beside = standings(inputs, corpus)
    found["variants"] = {v: _variant(inputs, corpus, v, beside.get(v)) for v in inputs.variants}
    return found


def _floors(facts: CorpusFacts) -> dict[str, Any]:
    """Bits per byte of the n-gram model of each kind, by name, and of the strongest."""
    strongest, across = measures.strongest_ngram(facts), measures.ngram_across_windows(facts)
    bits = {model.key: model.bits for model in measures.ngrams(facts)}
    return (
        {"strongest": strongest.key, "strongest_bits_per_byte": strongest.bits}
        | bits
        | {f"{across.key}_across_windows": across.bits}
    )


def _variant(inputs: Inputs, corpus: str, variant: str, standing: Standing | None) -> dict[str, Any]:
    runs = inputs.of(corpus, variant)
    found: dict[str, Any] = {"seeds": sum(not run.divergence for run in runs)}
    spreads = {name: measures.over(runs, measure) for name, measure in QUANTITIES.items()}
    bits, unigram = spreads["test_bits_per_byte"], measures.unigram_bits(inputs.facts[corpus], inputs.of(corpus))
    if bits is not None and unigram is not None:
        spreads["gain_over_unigram_bits_per_byte"] = Spread(unigram - bits.mean, bits.sd, bits.n)
    if bits is not None:
        floor = measures.strongest_ngram(inputs.facts[corpus]).bits
        spreads["gain_over_ngram_bits_per_byte"] = Spread(floor - bits.mean, bits.sd, bits.n)
    for name, spread in spreads.items():
        if spread is not None:
            found[name] = int(spread.mean) if name in COUNTS and spread.mean.is_integer() else spread.mean
            if spread.half is not None:
                found[f"{name}_sd"] = spread.sd
                found[f"{name}_low"], found[f"{name}_high"] = spread.mean - spread.half, spread.mean + spread.half
                found[f"{name}_n"] = spread.n
    if standing is not None and (gap := standing.gap) is not None and gap.low is not None:
        found["minus_bdh"] = {
            "bits_per_byte": gap.value, "low": gap.low, "high": gap.high, "seeds": max(1, gap.seeds),
            "units_of_text": gap.units, "verdict": standing.verdict.word,
            **({} if gap.p is None else {"p": gap.p, "p_adjusted": standing.adjusted}),
        }  # fmt: skip
    return found
