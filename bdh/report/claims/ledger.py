"""The claims ledger: what the references state, what was measured here, and a verdict by rule from the numbers.

A rule is a function of the results that returns the measurement in words and a verdict. A claim without a rule or
without the numbers that it needs is `not measured yet`. A new rule is one function and one line of `CLAIMS`.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bdh.project.files import replacing, write_json
from bdh.report.claims import frontier_rules, model_rules
from bdh.report.claims.finding import NOT_MEASURED, NOT_SUPPORTED, SUPPORTED, Finding
from bdh.report.data.inputs import Inputs
from bdh.report.data.spread import NOT_DISTINCT
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

    evidence: stages whose results the rule reads; about: families of the variants that it reads.
    """

    number: int
    statement: str
    made_in: str
    rule: Rule | str
    evidence: tuple[str, ...] = ("frontier",)
    about: tuple[str, ...] = ("bdh",)


TWO_STAGE = "two-stage protocol"
RECURRENT = "recurrent references"
CLAIMS = (
    Claim(1, "TMI: Q 0.5 to 0.8 trained, 0 to 0.2 untrained", TWO_STAGE, frontier_rules.tmi_range),
    Claim(2, "SPS: H 0.6 to 0.8 trained, 0.5 untrained", TWO_STAGE, frontier_rules.sps_range),
    Claim(3, "SEC: r 0.2 to 0.5 trained, 0 untrained", TWO_STAGE, frontier_rules.sec_range),
    Claim(
        4,
        "Perplexity 50 to 150 per token after training on transcripts",
        TWO_STAGE,
        frontier_rules.transcript_perplexity,
        ("hebbian",),
    ),
    Claim(
        5,
        "5 to 15 % of neurons active when trained, 50 % untrained",
        "BDH paper; two-stage protocol",
        frontier_rules.density,
    ),
    Claim(6, "Damping 0.95 gives H 0.52, 0.99 gives 0.68", TWO_STAGE, frontier_rules.damping_sets_persistence),
    Claim(7, "The L2,1 penalty raises TMI", TWO_STAGE, frontier_rules.penalty_raises_tmi),
    Claim(8, "The model adapts at inference through its synaptic state", TWO_STAGE, model_rules.adapts, ("hebbian",)),
    Claim(
        9,
        "GELU units are never exactly zero",
        "BDH-SLIM",
        model_rules.gelu,
        ("frontier", "train"),
        ("transformer", "slim"),
    ),
    Claim(
        10,
        "State memory is constant in text length, a KV cache grows",
        "BDH paper",
        model_rules.constant_state,
        ("hebbian",),
        ("bdh", "transformer"),
    ),
    Claim(
        11,
        "TMI low after 2,000 steps, about 0.5 after 5,000, about 0.7 after 8,000",
        TWO_STAGE,
        frontier_rules.training_length,
        ("train", "frontier"),
    ),
    Claim(
        12,
        "Hybrid learning beats backprop and Hebbian learning alone",
        "BDH-SLIM",
        model_rules.hybrid,
        ("hebbian",),
        ("slim",),
    ),
    Claim(
        13,
        "BDH matches a GPT of equal parameters",
        "BDH paper",
        model_rules.matches_gpt,
        ("hebbian", "train"),
        ("bdh", "transformer"),
    ),
    Claim(14, "Near-linear speed-up over 8 GPUs", RECURRENT, model_rules.near_linear, ("scaling",)),
    Claim(
        15,
        "Each mechanism of neuro earns its place",
        RECURRENT,
        model_rules.neuro_mechanisms,
        ("hebbian",),
        ("neuro",),
    ),
    Claim(
        16,
        "Memory half-life 13.5, 69, 693 tokens at damping 0.95, 0.99, 0.999",
        TWO_STAGE,
        model_rules.half_life,
        ("hebbian",),
    ),
)
COLUMNS = (
    Column("made in"),
    Column("measured here"),
    Column("interval and null"),
    Column("verdict", "by rule"),
    Column("rule"),
    Column("evidence", "", "Results that the verdict rests on; claims.json names the files."),
)


def judge(inputs: Inputs) -> list[tuple[Claim, Finding]]:
    """Every claim with its finding, in the order of their numbers."""
    return [(claim, _finding(claim.rule, inputs)) for claim in CLAIMS]


def _finding(rule: Rule | str, inputs: Inputs) -> Finding:
    return Finding(NOT_MEASURED, rule=rule) if isinstance(rule, str) else rule(inputs)


def evidence(claim: Claim, inputs: Inputs) -> list[str]:
    """Files of results that the rule of a claim reads, those that are there."""
    if claim.evidence == ("scaling",):
        records = [inputs.scaling]
    else:
        records = [getattr(run, stage) for run in inputs.measured(*claim.about) for stage in claim.evidence]
    return [record.path.as_posix() for record in records if record]


def _links(claim: Claim, finding: Finding, inputs: Inputs) -> Cell:
    """How many files the verdict rests on and links to their sections of the page; none where nothing was measured."""
    paths = evidence(claim, inputs)
    if finding.verdict == NOT_MEASURED or not paths:
        return missing_cell()
    stages = [stage for stage in claim.evidence if any(path.startswith(f"reports/{stage}/") for path in paths)]
    return Cell(f"{len(paths)} files ", str(len(paths)), links=[SECTIONS[stage] for stage in stages])


def claims_table(inputs: Inputs) -> Table:
    """One row per claim."""
    rows = [
        Row(
            f"{claim.number}. {claim.statement}",
            [
                Cell(claim.made_in, claim.made_in),
                Cell(finding.measured, finding.measured),
                Cell(finding.uncertainty, finding.uncertainty),
                Cell(finding.verdict, finding.verdict, "", TONES.get(finding.verdict, "none")),
                Cell(finding.rule, finding.rule),
                _links(claim, finding, inputs),
            ],
        )
        for claim, finding in judge(inputs)
    ]
    notes = ["A verdict is about the runs on this page and their scale, not about the claim's own setting."]
    if len(inputs.seeds) == 1:
        notes.append("One seed: intervals are over text, and the chance of training is not in them.")
    return Table("claims", "Claims of the references", COLUMNS, rows, first=Column("claim"), notes=notes)


FIELDS = ("number", "claim", "made_in", "verdict", "measured", "uncertainty", "rule", "evidence")


def ledger_rows(inputs: Inputs) -> list[dict[str, Any]]:
    """One row per claim; `evidence` lists the files of results that were there, relative to the project."""
    return [
        {
            "number": claim.number,
            "claim": claim.statement,
            "made_in": claim.made_in,
            "verdict": finding.verdict,
            "measured": finding.measured,
            "uncertainty": finding.uncertainty,
            "rule": finding.rule,
            "evidence": evidence(claim, inputs),
        }
        for claim, finding in judge(inputs)
    ]


def write_ledger(folder: Path, inputs: Inputs) -> list[Path]:
    """Write claims.json (scale, axes and rows) and claims.csv (the rows, evidence joined by spaces)."""
    rows = ledger_rows(inputs)
    axes = {"variants": list(inputs.variants), "corpora": list(inputs.corpora), "seeds": list(inputs.seeds)}
    write_json(folder / "claims.json", {"scale": inputs.scale, **axes, "rows": rows})
    table = folder / "claims.csv"
    with replacing(table) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(row | {"evidence": " ".join(row["evidence"])} for row in rows)
    return [folder / "claims.json", table]
