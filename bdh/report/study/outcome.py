"""The numbers of a study: one row per cell that was run, the cells that were not, and what they say over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from bdh.project.files import REPORTS, write_json
from bdh.report.claims.ledger import ledger_rows
from bdh.report.data import measures
from bdh.report.data.inputs import CorpusFacts, Inputs, RunResults, inputs_of, load_run, read_values
from bdh.report.data.spread import Spread, over_seeds
from bdh.report.data.summary import result_rows
from bdh.report.study.plan import SUMMARY, Study, StudyCell

ARMS = ("carry", "overlap", "overlap_quarter")
MEASURES = ("bits_per_byte", "nats_per_token")


def recipe_inputs(study: Study, recipe: str) -> Inputs | None:
    """What the pages and the ledger of one recipe are made of; None when none of its cells was run."""
    done = [cell for cell in study.of(recipe) if study.done(cell)]
    if not done:
        return None
    home = study.home(recipe)
    runs = [load_run(cell.variant, cell.corpus, cell.seed, home, study.done(cell)) for cell in done]
    return inputs_of(study.settings(recipe, done), runs, home, absent_lines(study, recipe))


def absent_lines(study: Study, recipe: str) -> list[str]:
    """Every cell of a recipe that has no result that counts, or lacks a part of it, and why."""
    lines = []
    for cell in study.of(recipe):
        reasons = study.reasons[cell]
        if reasons["train"]:
            lines.append(f"{cell.name}: {reasons['train']}")
        else:
            lines += [f"{cell.name}: {stage}: {reason}" for stage, reason in reasons.items() if reason]
    return lines


def summarise_study(study: Study, by_recipe: Mapping[str, Inputs]) -> dict[str, Any]:
    """`rows` of every cell that was run, `not_run` with reasons, and the strongest n-gram model of every corpus."""
    rows, missing = [], []
    runs = {(recipe, run.key): run for recipe, inputs in by_recipe.items() for run in inputs.runs}
    for cell in study.cells:
        if (run := runs.get((cell.recipe, cell.key))) is not None:
            rows.append(row_of(study, cell, run))
        else:
            missing.append(cell.axes() | {"reason": study.reasons[cell]["train"]})
    facts = {name: found for inputs in by_recipe.values() for name, found in inputs.facts.items()}
    corpora = {name: _floor(found) for name, found in facts.items()}
    counts = {"planned": len(study.cells), "run": len(rows), "not_run": len(missing)}
    verdicts = {
        recipe: {f"claim_{row['number']:02d}": row["verdict"] for row in ledger_rows(inputs)}
        for recipe, inputs in by_recipe.items()
    }
    return {
        "title": study.title, "scale": study.params.scale, "cells": counts, "corpora": corpora, "claims": verdicts,
        "rows": rows, "not_run": missing,
    }  # fmt: skip


def _floor(facts: CorpusFacts) -> dict[str, Any]:
    model = measures.strongest_ngram(facts)
    return {"strongest_ngram": model.title, "bits_per_byte": model.bits, "nats_per_token": model.nats}


def row_of(study: Study, cell: StudyCell, run: RunResults) -> dict[str, Any]:
    """One row of the summary; what a cell does not have is null, and `missing` says why."""
    origin, reasons = study.origin(cell), study.reasons[cell]
    train, held_out, timing = run.train, run.hebbian, run.timing
    arms = {f"{arm}_{name}": held_out.number(f"arms/{arm}/{name}") for arm in ARMS for name in MEASURES}
    missing = {stage: reason for stage, reason in reasons.items() if reason}
    if run.divergence:
        missing["train"] = run.divergence
    seconds = timing.number("seconds")
    devices = timing.number("devices") or 1
    return cell.axes() | {
        "split": study.params.corpus[cell.corpus].text.split.by,
        "nats_per_token": held_out.number("arms/static/nats_per_token"),
        "bits_per_byte": held_out.number("arms/static/bits_per_byte"),
        **arms,
        "validation_nats_per_token": train.number("validation/nats_per_token"),
        "validation_bits_per_byte": train.number("validation/bits_per_byte"),
        "parameters": _whole(train.number("parameters")),
        "steps": _whole(train.number("best_step")),
        "steps_done": _whole(train.number("steps_done")),
        "tokens_seen": _whole(train.number("tokens_seen")),
        "refit": bool(train.values.get("refit", False)),
        "gpu_seconds": None if seconds is None else seconds * devices,
        "stage_seconds": _stage_seconds(study, cell),
        "joules": timing.number("joules"),
        "peak_memory_mib": timing.number("peak_memory_mib"),
        "machine": timing.text("device"),
        "commit": origin["train"]["commit"],
        "commits": {stage: origin[stage]["commit"] for stage in study.done(cell)},
        "missing": missing,
    }


def _whole(value: float | None) -> int | None:
    return None if value is None else round(value)


def _stage_seconds(study: Study, cell: StudyCell) -> dict[str, float]:
    """Seconds from the beginning to the end of every stage, its start included; those that were recorded."""
    found = {}
    for stage in study.done(cell):
        record = read_values(study.home(cell.recipe) / REPORTS / f"run/{stage}/{cell.key}.json")
        started, ended = record.text("started"), record.text("ended")
        if started and ended:
            found[stage] = round((datetime.fromisoformat(ended) - datetime.fromisoformat(started)).total_seconds(), 1)
    return found


def study_results(by_recipe: Mapping[str, Inputs]) -> list[dict[str, Any]]:
    """The rows of results.csv, the recipe in front."""
    return [{"recipe": recipe} | row for recipe, inputs in by_recipe.items() for row in result_rows(inputs)]


def study_ledger(by_recipe: Mapping[str, Inputs]) -> list[dict[str, Any]]:
    """The rows of the ledger, the recipe in front: every claim is judged for every recipe."""
    return [{"recipe": recipe} | row for recipe, inputs in by_recipe.items() for row in ledger_rows(inputs)]


def over_cells(rows: Sequence[Mapping[str, Any]], measure: str = "bits_per_byte", **axes: Any) -> Spread | None:
    """Spread over seeds of one number of the summary's rows with these axes."""
    return over_seeds(row[measure] for row in rows if all(row[name] == value for name, value in axes.items()))


def axis(rows: Sequence[Mapping[str, Any]], name: str) -> list[Any]:
    """The values of one axis in the order of the rows."""
    return list(dict.fromkeys(row[name] for row in rows))


def write_summary(study: Study, summary: Mapping[str, Any]) -> Path:
    """Write summary.json in one step."""
    write_json(study.folder / SUMMARY, summary)
    return study.folder / SUMMARY
