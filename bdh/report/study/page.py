"""What a study shows: a page with its recipes side by side, a page and a ledger per recipe, and all rows in tables.

Every cell is read from the study's own folder: no weights, no text, no MLflow, nothing of the default comparison.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bdh.project.files import replacing, write_csv, write_json
from bdh.report import formats
from bdh.report.claims.ledger import FIELDS, TONES, write_ledger
from bdh.report.data import measures
from bdh.report.data.inputs import Inputs
from bdh.report.data.spread import Spread
from bdh.report.data.summary import result_rows, write_results
from bdh.report.page import render_page, source_of, templates
from bdh.report.plots.dots import recipe_dots
from bdh.report.plots.figure import DARK, LIGHT
from bdh.report.sections import dotted
from bdh.report.study.outcome import (
    absent_lines,
    axis,
    over_cells,
    recipe_inputs,
    study_ledger,
    study_results,
    summarise_study,
    write_summary,
)
from bdh.report.study.plan import Study
from bdh.report.tables.quality import spread_cell
from bdh.report.tables.table import Cell, Column, Row, Table, missing_cell

RESULTS = "reports/"
"""Where the results of a recipe lie, seen from its page."""

TUNED_MINUS_REFERENCE = ("tuned", "reference")


def render_study(study: Study) -> list[Path]:
    """Write everything that is made of a study's cells; returns the files. The same bytes for the same cells."""
    found = {recipe: recipe_inputs(study, recipe) for recipe in study.recipes}
    by_recipe = {recipe: inputs for recipe, inputs in found.items() if inputs is not None}
    summary, ledger = summarise_study(study, by_recipe), study_ledger(by_recipe)
    pages = {study.folder / "index.html": front_page(study, by_recipe, summary, ledger)}
    pages |= {study.home(recipe) / "index.html": render_page(inputs, RESULTS) for recipe, inputs in by_recipe.items()}
    for path, html in pages.items():
        with replacing(path) as temporary:
            temporary.write_text(html, encoding="utf-8")
    written = [write_summary(study, summary), *pages]
    for recipe, inputs in by_recipe.items():
        write_results(study.home(recipe) / "results.csv", result_rows(inputs))
        written += [study.home(recipe) / "results.csv", *write_ledger(study.home(recipe), inputs)]
    write_results(study.folder / "results.csv", study_results(by_recipe))
    write_json(study.folder / "claims.json", {"scale": study.params.scale, "rows": ledger})
    joined = (row | {"evidence": " ".join(row["evidence"])} for row in ledger)
    write_csv(study.folder / "claims.csv", ("recipe", *FIELDS), joined)
    return written + [study.folder / name for name in ("results.csv", "claims.json", "claims.csv")]


def front_page(
    study: Study, by_recipe: Mapping[str, Inputs], summary: Mapping[str, Any], ledger: Sequence[Mapping[str, Any]]
) -> str:
    """The page on which recipes stand side by side."""
    pages = templates()
    rows, counts = summary["rows"], summary["cells"]
    gaps = [line for recipe in study.recipes for line in absent_lines(study, recipe)]
    gaps += [f"{row['recipe']}/{row['variant']}-{row['corpus']}-{row['seed']}: {row['missing']['train']}"
             for row in rows if "train" in row["missing"]]  # fmt: skip
    return pages.get_template("study.html").render(
        title=study.title,
        style=source_of(pages, "page.css"),
        light=LIGHT,
        dark=DARK,
        script=source_of(pages, "sort.js"),
        facts=[
            ("cells run", f"{counts['run']} of {counts['planned']}"),
            ("recipes", ", ".join(axis(rows, "recipe")) or formats.ABSENT),
            ("corpora", ", ".join(axis(rows, "corpus")) or formats.ABSENT),
            ("scale", summary["scale"]),
            ("machines", ", ".join(sorted({str(row["machine"]) for row in rows})) or formats.ABSENT),
            ("GPU seconds of training", formats.whole(sum(row["gpu_seconds"] or 0.0 for row in rows))),
        ],
        recipes=list(by_recipe),
        pictures=dotted([recipe_dots(by_recipe, corpus, RESULTS) for corpus in axis(rows, "corpus")]),
        quality=[_quality(by_recipe, summary, corpus) for corpus in axis(rows, "corpus")],
        ledger=_ledger(ledger, list(by_recipe)),
        made=_made(rows),
        gaps=gaps,
    )


def _quality(by_recipe: Mapping[str, Inputs], summary: Mapping[str, Any], corpus: str) -> Table:
    rows = [row for row in summary["rows"] if row["corpus"] == corpus]
    columns = []
    for recipe in by_recipe:
        columns += [
            Column(f"parameters, {recipe}", "count"),
            Column(f"steps, {recipe}", "mean", "Optimizer steps of the weights that were judged."),
            Column(f"test, {recipe}", "bits per byte", "Held-out text, state reset at every window (arm static)."),
            Column(f"test, {recipe}", "nats per token"),
            Column(f"carry, {recipe}", "nats per token", "The same with the state kept through a document."),
        ]
    both = all(recipe in by_recipe for recipe in TUNED_MINUS_REFERENCE)
    if both:
        columns.append(Column("tuned minus reference", "bits per byte", "Paired by seed, 95 % interval."))
    lines = []
    for variant in axis(rows, "variant"):
        cells = [cell for recipe in by_recipe for cell in _cells(rows, variant, recipe)]
        lines.append(Row(variant, [*cells, _gap(by_recipe, corpus, variant)] if both else cells))
    floor = summary["corpora"][corpus]
    notes = [
        f"Mean over seeds, half its 95 % interval and n below. The strongest n-gram model ({floor['strongest_ngram']}) "
        f"reaches {formats.fixed(floor['bits_per_byte'])} bits per byte, {formats.fixed(floor['nats_per_token'])} nats "
        "per token."
    ]
    return Table(f"{corpus}-recipes", f"{corpus}: prediction of held-out text by recipe", columns, lines, notes=notes)


def _cells(rows: Sequence[Mapping[str, Any]], variant: str, recipe: str) -> list[Cell]:
    def over(measure: str) -> Spread | None:
        return over_cells(rows, measure, variant=variant, recipe=recipe)

    own = [row for row in rows if row["variant"] == variant and row["recipe"] == recipe]
    reason = "" if own else "not run"
    size, steps = over("parameters"), over("steps")
    return [
        missing_cell(reason) if size is None else Cell(formats.whole(size.mean), size.mean),
        missing_cell(reason) if steps is None else Cell(formats.whole(steps.mean), steps.mean),
        *(spread_cell(over(name), 4, reason) for name in ("bits_per_byte", "nats_per_token", "carry_nats_per_token")),
    ]


def _gap(by_recipe: Mapping[str, Inputs], corpus: str, variant: str) -> Cell:
    first, second = (by_recipe[recipe].of(corpus, variant) for recipe in TUNED_MINUS_REFERENCE)
    gap = measures.compare_runs(first, second)
    return (
        missing_cell("not run in both") if gap is None else Cell(formats.difference(gap), gap.value, f"n {gap.seeds}")
    )


def _ledger(ledger: Sequence[Mapping[str, Any]], recipes: Sequence[str]) -> Table:
    columns = [Column(f"verdict, {recipe}", "by rule") for recipe in recipes]
    lines = []
    for number in axis(ledger, "number"):
        found = {row["recipe"]: row for row in ledger if row["number"] == number}
        first = next(iter(found.values()))
        cells = [_verdict(found[recipe]) for recipe in recipes]
        lines.append(Row(f"{number}. {first['claim']}", cells))
    notes = ["What was measured, by which rule, and what would change a verdict: on the page of the recipe."]
    return Table("claims", "Claims of the references, by recipe", columns, lines, first=Column("claim"), notes=notes)


def _verdict(row: Mapping[str, Any]) -> Cell:
    effect = "" if row["effect"] is None else formats.fixed(row["effect"])
    bounds = formats.interval(row["low"], row["high"], sign=False)
    rests = f"n {row['runs']} runs, {row['seeds']} seeds" if row["runs"] else ""
    detail = "; ".join(text for text in (f"{effect} {bounds}".strip(), rests, row["reason"]) if text)
    return Cell(row["verdict"], row["verdict"], row["rule"], TONES.get(row["verdict"], "none"), detail=detail)


def _made(rows: Sequence[Mapping[str, Any]]) -> Table:
    columns = (
        Column("commit"), Column("machine"), Column("training", "GPU seconds"), Column("memory", "MiB"),
        Column("energy", "kJ", "Where the machine lets it be read."), Column("lacks"),
    )  # fmt: skip
    lines = []
    for row in rows:
        seconds, memory, joules = row["gpu_seconds"], row["peak_memory_mib"], row["joules"]
        lacks = ", ".join(row["missing"])
        cells = [
            Cell(row["commit"][:7], row["commit"]),
            Cell(str(row["machine"]), str(row["machine"])),
            Cell(formats.whole(seconds), seconds),
            Cell(formats.whole(memory), memory),
            missing_cell("not read") if joules is None else Cell(formats.whole(joules / 1000), joules),
            Cell(lacks, lacks),
        ]
        lines.append(Row(f"{row['recipe']}/{row['variant']}-{row['corpus']}-{row['seed']}", cells))
    return Table("made", "Cells that were run", columns, lines, first=Column("cell"))
