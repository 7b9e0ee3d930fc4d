"""One self-contained page: verdict, tables, plots, samples. It loads nothing from anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from bdh.report import headline
from bdh.report.activity_table import activity_table
from bdh.report.against_bdh import against_bdh_table
from bdh.report.claims import claims_table
from bdh.report.corpora_table import corpora_table
from bdh.report.figure import Panel, render_panel
from bdh.report.frontier_table import frontier_tables
from bdh.report.inputs import Inputs
from bdh.report.outcome_plots import outcome_panels
from bdh.report.quality_table import quality_table
from bdh.report.script import SORT
from bdh.report.strata_table import strata_tables
from bdh.report.style import style_sheet
from bdh.report.sweep_table import sweep_table
from bdh.report.synapse_plots import synapse_panels
from bdh.report.synapse_table import synapse_table
from bdh.report.table import Table, render_table
from bdh.report.training_plots import training_panels

POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
SECTIONS = (
    ("quality", "Prediction"),
    ("pairs", "Beside bdh"),
    ("synapses", "Living synapses"),
    ("activity", "Activity and cost"),
    ("frontier", "Frontier metrics"),
    ("strata", "By year, sector and speaker"),
    ("texts", "Corpora"),
    ("ledger", "Claims"),
    ("plots", "Plots"),
    ("samples", "Samples"),
    ("gaps", "Missing results"),
    ("definitions", "Definitions"),
)
SAMPLES_NOTE = (
    "Prompt in bold, then what the model wrote. Prompts are text of the corpus: mind its licence before you publish "
    "this page."
)
DEFINITIONS = (
    ("bits per byte", "Total nats over the scored tokens, over ln 2, over their UTF-8 bytes; end-of-text tokens are "
     "left out. It does not depend on the tokenizer."),
    ("arm", "A rule for what happens to the synaptic state while held-out text streams through frozen weights. "
     "Static: reset at every window. Carry: kept through a document, damped. Observe: coactivation watched, never "
     "read."),
    ("density", "Share of activations that are not zero."),
    ("FLOP", "Floating-point operations, a multiply-add counts as two. Training operations are the forward operations "
     "times three, an upper bound where only a part of the model is trained."),
    ("TMI, SPS, SEC, MCL", "Modularity of the neuron graph, persistence of the synaptic state, coupling of surprise "
     "and activity, share of neurons that are selective for exactly one concept; each beside draws of its null."),
    ("interval", "95 %. Over documents or blocks of text: paired bootstrap. Over seeds: Student's t, paired by seed, "
     "and by document or block where they are the same."),
)  # fmt: skip


def render_page(inputs: Inputs) -> str:
    """The whole page as HTML; the same bytes for the same results."""
    bodies = {name: body for name, body in _bodies(inputs).items() if body}
    links = "".join(f'<li><a href="#{name}">{title}</a></li>' for name, title in SECTIONS if name in bodies)
    sections = "\n".join(
        f'<section id="{name}"><h2>{title}</h2>\n{bodies[name]}\n</section>'
        for name, title in SECTIONS
        if name in bodies
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Hatchery: comparison of {len(inputs.variants)} variants</title>\n"
        f"<style>\n{style_sheet(len(inputs.variants))}</style>\n</head>\n<body>\n{_header(inputs)}\n"
        f'<nav aria-label="Sections"><ul>{links}</ul></nav>\n<main>\n{sections}\n</main>\n'
        "<footer>Made by Hatchery from the files under reports/ and data/. Every number is computed, none is typed."
        f"</footer>\n<script>{SORT}</script>\n</body>\n</html>\n"
    )


def _header(inputs: Inputs) -> str:
    facts = "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in headline.facts(inputs))
    lines = "".join(f"<li>{escape(line)}</li>" for line in headline.sentences(inputs))
    gaps = headline.missing(inputs)
    warning = f'<p class="bad"><a href="#gaps">{len(gaps)} results are missing.</a></p>' if gaps else ""
    return (
        f"<header>\n<h1>Hatchery: {len(inputs.variants)} variants on {len(inputs.corpora)} corpora</h1>\n"
        f'<p class="label">{escape(headline.label(inputs))}</p>\n<dl class="facts">{facts}</dl>\n{warning}'
        f'<ul class="verdicts">{lines}</ul>\n</header>'
    )


def _bodies(inputs: Inputs) -> dict[str, str]:
    corpora = inputs.corpora
    return {
        "quality": _tables([quality_table(inputs, corpus) for corpus in corpora]),
        "pairs": _tables([against_bdh_table(inputs, corpus) for corpus in corpora]),
        "synapses": _tables([table for corpus in corpora for table in _synapses(inputs, corpus)]),
        "activity": _tables([activity_table(inputs, corpus) for corpus in corpora]),
        "frontier": _tables([table for corpus in corpora for table in frontier_tables(inputs, corpus)]),
        "strata": _tables([table for corpus in corpora for table in strata_tables(inputs, corpus)]),
        "texts": _tables([corpora_table(inputs)]),
        "ledger": _tables([claims_table(inputs)]),
        "plots": _key(inputs) + "".join(_plots(inputs, corpus) for corpus in corpora),
        "samples": _samples(inputs),
        "gaps": "".join(f"<p>{escape(line)}</p>" for line in headline.missing(inputs)),
        "definitions": "<dl>" + "".join(f"<dt><b>{k}</b></dt><dd>{escape(v)}</dd>" for k, v in DEFINITIONS) + "</dl>",
    }


def _synapses(inputs: Inputs, corpus: str) -> list[Table]:
    swept = sweep_table(inputs, corpus)
    return [synapse_table(inputs, corpus), *([swept] if swept else [])]


def _tables(tables: Sequence[Table]) -> str:
    return "\n".join(render_table(table) for table in tables)


def _key(inputs: Inputs) -> str:
    names = enumerate(inputs.variants)
    items = "".join(f'<li><span class="swatch s{slot}"></span>{escape(name)}</li>' for slot, name in names)
    band = "Lines are means over seeds, bands their range. " if len(inputs.seeds) > 1 else ""
    return f'<p class="note">{band}Colour and line style of every variant:</p><ul class="key">{items}</ul>'


def _plots(inputs: Inputs, corpus: str) -> str:
    panels: list[Panel] = [
        *training_panels(inputs, corpus),
        *synapse_panels(inputs, corpus),
        *outcome_panels(inputs, corpus),
    ]
    drawn = "\n".join(figure for panel in panels if (figure := render_panel(panel)))
    return f'<h3>{escape(corpus)}</h3>\n<div class="plots">{drawn or "<p>Nothing to plot yet.</p>"}</div>'


def _samples(inputs: Inputs) -> str:
    blocks = []
    for run in inputs.runs:
        if run.samples:
            texts = "".join(
                f'<pre><span class="prompt">{escape(prompt)}</span>{escape(text)}</pre>' for prompt, text in run.samples
            )
            blocks.append(f"<details><summary>{escape(run.key)}</summary>{texts}</details>")
    note = f'<p class="note">{SAMPLES_NOTE}</p>' if blocks else ""
    return note + "\n".join(blocks)
