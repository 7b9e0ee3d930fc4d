"""The numbers that people track from commit to commit: nested for `dvc metrics`, deterministic ones alone."""

from __future__ import annotations

from typing import Any

from bdh.report import measures
from bdh.report.against_bdh import Standing, standings
from bdh.report.claims import judge
from bdh.report.frontier_table import METRICS
from bdh.report.inputs import Inputs
from bdh.report.measures import Measure
from bdh.report.spread import Spread

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
        f"{name}_{part}": measures.number_of("frontier", f"{name}/{part}")
        for name in METRICS
        for part in ("value", "z")
    },
}
COUNTS = {"parameters", "flops_per_token_forward", "tokens_seen"}


def summarise(inputs: Inputs) -> dict[str, Any]:
    """Numbers by corpus and variant, the lowest run per corpus, the verdicts.

    A mean over several seeds has its sample standard deviation `_sd`, its 95 % t interval `_low`, `_high` and its
    number `_n` beside it; with one seed `over_seeds` says that nothing over seeds is measured. `minus_bdh` is paired by
    seed and unit of text; its interval and `p_adjusted` (Holm) cover the chance of training only where `seeds` is above
    1.

    Times are left out: they differ from machine to machine and are in results.csv.
    """
    return {
        "scale": inputs.scale,
        "over_seeds": f"{len(inputs.seeds)} seeds" if len(inputs.seeds) > 1 else "not measured: one seed",
        "runs": {"expected": len(inputs.runs), "complete": sum(not run.missing for run in inputs.runs)},
        "corpora": {corpus: _corpus(inputs, corpus) for corpus in inputs.corpora},
        "claims": {f"claim_{claim.number:02d}": finding.verdict for claim, finding in judge(inputs)},
    }


def numbers_in(summary: dict[str, Any]) -> dict[str, float]:
    """The numbers of a summary by path, for a tracker."""
    from bdh.report.records import flatten

    flat = flatten(summary)
    return {key: float(value) for key, value in flat.items() if isinstance(value, int | float)}


def _corpus(inputs: Inputs, corpus: str) -> dict[str, Any]:
    facts, runs = inputs.facts[corpus], inputs.of(corpus)
    baselines = {
        "unigram_bits_per_byte": measures.unigram_bits(facts, runs),
        "uniform_bits_per_byte": measures.uniform_bits(facts, runs),
        "floor_bits_per_byte": measures.floor_bits(facts),
    }
    found: dict[str, Any] = {name: value for name, value in baselines.items() if value is not None}
    judged = [(bits, run) for run in runs if (bits := measures.test_bits(run)) is not None]
    if judged:
        bits, run = min(judged, key=lambda pair: pair[0])
        found["lowest"] = {"variant": run.variant, "seed": run.seed, "key": run.key, "test_bits_per_byte": bits}
    beside = standings(inputs, corpus)
    found["variants"] = {v: _variant(inputs, corpus, v, beside.get(v)) for v in inputs.variants}
    return found


def _variant(inputs: Inputs, corpus: str, variant: str, standing: Standing | None) -> dict[str, Any]:
    runs = inputs.of(corpus, variant)
    found: dict[str, Any] = {"seeds": sum(bool(run.train) for run in runs)}
    spreads = {name: measures.over(runs, measure) for name, measure in QUANTITIES.items()}
    bits, unigram = spreads["test_bits_per_byte"], measures.unigram_bits(inputs.facts[corpus], inputs.of(corpus))
    if bits is not None and unigram is not None:
        spreads["gain_over_unigram_bits_per_byte"] = Spread(unigram - bits.mean, bits.sd, bits.n)
    for name, spread in spreads.items():
        if spread is not None:
            found[name] = int(spread.mean) if name in COUNTS and spread.mean.is_integer() else spread.mean
            if spread.half is not None:
                found[f"{name}_sd"] = spread.sd
                found[f"{name}_low"], found[f"{name}_high"] = spread.mean - spread.half, spread.mean + spread.half
                found[f"{name}_n"] = spread.n
    if standing is not None and (gap := standing.gap) is not None and gap.low is not None:
        found["minus_bdh"] = {
            "bits_per_byte": gap.value, "low": gap.low, "high": gap.high, "p": gap.p, "p_adjusted": standing.adjusted,
            "seeds": max(1, gap.seeds), "units_of_text": gap.units,
        }  # fmt: skip
    return found
