"""The claims ledger: what the references state, what was measured here, and a verdict by rule from the numbers.

A rule is a function of the results that returns the measurement in words and a verdict. A claim without a rule or
without the numbers that it needs is `not measured yet`. A new rule is one function and one line of `CLAIMS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bdh.project.files import exported, write_csv, write_json
from bdh.report import formats
from bdh.report.claims import frontier_rules, model_rules
from bdh.report.claims.finding import (
    JUDGED,
    NOT_MEASURABLE,
    NOT_MEASURED,
    NOT_SUPPORTED,
    SUPPORTED,
    TOO_SMALL,
    Finding,
    fewest_seeds,
)
from bdh.report.data.inputs import Inputs
from bdh.report.data.spread import NOT_DISTINCT, ONE_SEED
from bdh.report.tables.table import Cell, Column, Row, Table, missing_cell

TONES = {SUPPORTED: "good", NOT_SUPPORTED: "bad", NOT_DISTINCT: "even"}
SECTIONS = {
    "frontier": ("Frontier metrics", "#frontier"),
    "hebbian": ("Living synapses", "#synapses"),
    "train": ("Prediction", "#quality"),
}
Rule = Callable[[Inputs], Finding]


@dataclass(frozen=True)
class Claim:
    """A numbered statement, where it is made, and the rule that judges it, or what a measurement would need.

    evidence: stages whose results the rule reads; about: families of the variants that it reads. change: what would
    change the verdict. at_scale: it is about what training at the references' scale does; the others are about the form
    of a model, its state, or a machine.
    """

    number: int
    statement: str
    made_in: str
    rule: Rule | str
    evidence: tuple[str, ...] = ("frontier",)
    about: tuple[str, ...] = ("bdh",)
    change: str = ""
    at_scale: bool = True


TWO_STAGE = "two-stage protocol"
RECURRENT = "recurrent references"
CLAIMS = (
    Claim(
        1,
        "TMI: Q 0.5 to 0.8 trained, 0 to 0.2 untrained",
        TWO_STAGE,
        frontier_rules.tmi_range,
        change="Runs at the references' scale over several seeds with every run in both ranges and above its null.",
    ),
    Claim(
        2,
        "SPS: H 0.6 to 0.8 trained, 0.5 untrained",
        TWO_STAGE,
        frontier_rules.sps_range,
        change="A reference protocol whose H is 0.5 on noise.",
    ),
    Claim(
        3,
        "SEC: r 0.2 to 0.5 trained, 0 untrained",
        TWO_STAGE,
        frontier_rules.sec_range,
        change="Runs at the references' scale over several seeds with every run in both ranges and above its null.",
    ),
    Claim(
        4,
        "Perplexity 50 to 150 per token after training on transcripts",
        TWO_STAGE,
        frontier_rules.transcript_perplexity,
        ("hebbian",),
        change="Runs on transcripts at the references' scale over several seeds.",
    ),
    Claim(
        5,
        "5 to 15 % of neurons active when trained, 50 % untrained",
        "BDH paper; two-stage protocol",
        frontier_rules.density,
        change="Densities at the references' scale over several seeds, in or out of both ranges.",
    ),
    Claim(
        6,
        "Damping 0.95 gives H 0.52, 0.99 gives 0.68",
        TWO_STAGE,
        frontier_rules.damping_sets_persistence,
        change="A reference protocol whose H is 0.5 on noise.",
    ),
    Claim(
        7,
        "The L2,1 penalty raises TMI",
        TWO_STAGE,
        frontier_rules.penalty_raises_tmi,
        change="Two variants that differ in train.l21 alone, over several seeds.",
    ),
    Claim(
        8,
        "The model adapts at inference through its synaptic state",
        TWO_STAGE,
        model_rules.adapts,
        ("hebbian",),
        change="Several seeds at the references' scale whose interval lies on the other side of 0.",
    ),
    Claim(
        9,
        "GELU units are never exactly zero",
        "BDH-SLIM",
        model_rules.gelu,
        ("frontier", "train"),
        ("transformer", "slim"),
        change="A single run with an exact zero; or several seeds without one.",
        at_scale=False,
    ),
    Claim(
        10,
        "State memory is constant in text length, a KV cache grows",
        "BDH paper",
        model_rules.constant_state,
        ("hebbian",),
        ("bdh", "transformer"),
        change="A BDH run without a state of constant size, or a transformer with one.",
        at_scale=False,
    ),
    Claim(
        11,
        "TMI low after 2,000 steps, about 0.5 after 5,000, about 0.7 after 8,000",
        TWO_STAGE,
        frontier_rules.training_length,
        ("train", "frontier"),
        change="Runs whose best weights are of 2,000, 5,000 and 8,000 steps, over several seeds.",
    ),
    Claim(
        12,
        "Hybrid learning beats backprop and Hebbian learning alone",
        "BDH-SLIM",
        model_rules.hybrid,
        ("hebbian",),
        ("slim",),
        change="Several seeds with the control slim_readout, and slim_backprop at its own best rate.",
    ),
    Claim(
        13,
        "BDH matches a GPT of equal parameters",
        "BDH paper",
        model_rules.matches_gpt,
        ("hebbian", "train"),
        ("bdh", "transformer"),
        change="Recipe tuned on both sides, equal parameters, several seeds, the references' scale.",
    ),
    Claim(
        14,
        "Near-linear speed-up over 8 GPUs",
        RECURRENT,
        model_rules.near_linear,
        ("scaling",),
        change="A repeated measurement of recurrent_trained on 8 GPUs.",
        at_scale=False,
    ),
    Claim(
        15,
        "Each mechanism of neuro earns its place",
        RECURRENT,
        model_rules.neuro_mechanisms,
        ("hebbian",),
        ("neuro",),
        change="Over several seeds, one ablation as good as its base, or all of them worse.",
    ),
    Claim(
        16,
        "Memory half-life 13.5, 69, 693 tokens at damping 0.95, 0.99, 0.999",
        TWO_STAGE,
        model_rules.half_life,
        ("hebbian",),
        change="Longer documents or shorter windows, so that all three dampings are resolved, over several seeds.",
        at_scale=False,
    ),
)
COLUMNS = (
    Column("made in"),
    Column("evidence", "runs, seeds, scale"),
    Column("measured here"),
    Column("interval and null"),
    Column(
        "decides", "effect", "The value or difference that the verdict hangs on, with its 95 % interval over seeds."
    ),
    Column("verdict", "by rule"),
    Column("rule"),
    Column("what would change it"),
    Column("files", "", "Results that the verdict rests on; claims.json names the files."),
)


REFERENCE_SCALE = "gpu"
SCALING = ("scaling",)


@dataclass(frozen=True)
class Judged:
    """One claim with its finding after the gates of scale and seeds, and what it rests on.

    runs, seeds: how many trainings the rule read, and the seeds of the variant and corpus that has the fewest; 0 where
    no training bears on the claim.
    """

    claim: Claim
    finding: Finding
    runs: int
    seeds: int


def judge(inputs: Inputs) -> list[tuple[Claim, Finding]]:
    """Every claim with its finding, in the order of their numbers."""
    return [(judged.claim, judged.finding) for judged in judgements(inputs)]


def judgements(inputs: Inputs) -> list[Judged]:
    """Every claim as it is judged: the one place where scale and seeds are asked for, of all claims alike."""
    return [_judged(claim, inputs) for claim in CLAIMS]


def _judged(claim: Claim, inputs: Inputs) -> Judged:
    rule = claim.rule
    finding = Finding(NOT_MEASURED, rule=rule) if isinstance(rule, str) else rule(inputs)
    if claim.evidence == SCALING:
        return Judged(claim, finding, 0, 0)
    runs = finding.runs or inputs.measured(*claim.about)
    seeds = fewest_seeds(runs)
    if finding.effect is not None and finding.effect.seeds:
        seeds = min(seeds, finding.effect.seeds)
    without_interval = finding.verdict == NOT_MEASURABLE and not finding.reason
    judged = finding.verdict in JUDGED or without_interval
    if judged and claim.at_scale and inputs.scale != REFERENCE_SCALE:
        reason = f"The claim is about the references' scale; these runs are of scale {inputs.scale}."
        finding = replace(finding, verdict=TOO_SMALL, reason=reason)
    elif judged and seeds < 2:
        finding = replace(finding, verdict=ONE_SEED)
    elif without_interval:
        finding = replace(finding, reason="No interval over seeds can be had.")
    return Judged(claim, finding, len(runs), seeds)


def evidence(claim: Claim, inputs: Inputs) -> list[str]:
    """Files of results that the rule of a claim reads, those that are there."""
    if claim.evidence == SCALING:
        records = [inputs.scaling]
    else:
        records = [getattr(run, stage) for run in inputs.measured(*claim.about) for stage in claim.evidence]
    return [exported(record.path).as_posix() for record in records if record]


def _links(claim: Claim, finding: Finding, inputs: Inputs) -> Cell:
    """How many files the verdict rests on and links to their sections of the page; none where nothing was measured."""
    paths = evidence(claim, inputs)
    if finding.verdict == NOT_MEASURED or not paths:
        return missing_cell()
    stages = [stage for stage in claim.evidence if any(f"reports/{stage}/" in path for path in paths)]
    return Cell(f"{len(paths)} files ", str(len(paths)), links=[SECTIONS[stage] for stage in stages])


def claims_table(inputs: Inputs) -> Table:
    """One row per claim."""
    rows = [_row(judged, inputs) for judged in judgements(inputs)]
    notes = ["A verdict is about the runs on this page and their scale, not about the claim's own setting."]
    return Table("claims", "Claims of the references", COLUMNS, rows, first=Column("claim"), notes=notes)


def _row(judged: Judged, inputs: Inputs) -> Row:
    claim, finding = judged.claim, judged.finding
    rests = _rests_on(judged, inputs)
    return Row(
        f"{claim.number}. {claim.statement}",
        [
            Cell(claim.made_in, claim.made_in),
            Cell(rests, rests),
            Cell(finding.measured, finding.measured),
            Cell(finding.uncertainty, finding.uncertainty),
            Cell(_effect(finding), _effect(finding)),
            Cell(finding.verdict, finding.verdict, "", TONES.get(finding.verdict, "none"), detail=finding.reason),
            Cell(finding.rule, finding.rule),
            Cell(claim.change, claim.change),
            _links(claim, finding, inputs),
        ],
    )


def _rests_on(judged: Judged, inputs: Inputs) -> str:
    if not judged.runs:
        return formats.ABSENT
    return f"n {judged.runs} runs, {judged.seeds} seed{'' if judged.seeds == 1 else 's'}, scale {inputs.scale}"


def _effect(finding: Finding) -> str:
    """`1.234 [1.200, 1.268]` of the deciding value; without an interval the value alone."""
    gap = finding.effect
    if gap is None:
        return formats.ABSENT
    return f"{formats.fixed(gap.value)} {formats.interval(*_bounds(finding), sign=False)}".strip()


def _bounds(finding: Finding) -> tuple[float | None, float | None]:
    """The interval over seeds of the deciding effect; one over the text of a single seed is not one."""
    gap = finding.effect
    return (None, None) if gap is None or gap.seeds < 2 else (gap.low, gap.high)


FIELDS = (
    "number", "claim", "made_in", "verdict", "reason", "runs", "seeds", "scale", "effect", "low", "high", "measured",
    "uncertainty", "rule", "would_change", "evidence",
)  # fmt: skip


def ledger_rows(inputs: Inputs) -> list[dict[str, Any]]:
    """One row per claim; `evidence` lists the files of results that were there, relative to the project.

    runs, seeds: what the verdict rests on. effect, low, high: the deciding value with its 95 % interval over seeds.
    """
    rows = []
    for judged in judgements(inputs):
        claim, finding = judged.claim, judged.finding
        low, high = _bounds(finding)
        values = (
            claim.number, claim.statement, claim.made_in, finding.verdict, finding.reason, judged.runs, judged.seeds,
            inputs.scale, finding.effect.value if finding.effect else None, low, high, finding.measured,
            finding.uncertainty, finding.rule, claim.change, evidence(claim, inputs),
        )  # fmt: skip
        rows.append(dict(zip(FIELDS, values, strict=True)))
    return rows


def write_ledger(folder: Path, inputs: Inputs) -> list[Path]:
    """Write claims.json (scale, axes and rows) and claims.csv (the rows, evidence joined by spaces)."""
    rows = ledger_rows(inputs)
    axes = {"variants": list(inputs.variants), "corpora": list(inputs.corpora), "seeds": list(inputs.seeds)}
    write_json(folder / "claims.json", {"scale": inputs.scale, **axes, "rows": rows})
    table = folder / "claims.csv"
    write_csv(table, FIELDS, (row | {"evidence": " ".join(row["evidence"])} for row in rows))
    return [folder / "claims.json", table]
