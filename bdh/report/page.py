"""One self-contained page: verdict, tables, plots, samples. It loads nothing from anywhere.

The page's style sheet: light and dark, narrow and wide, on screen and on paper.

The page's only script: click a heading to sort a table. Without it everything is still there to read.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from bdh.report import headline
from bdh.report.claims.ledger import claims_table
from bdh.report.data.inputs import Inputs
from bdh.report.plots.figure import DARK as DARK_PAINTS
from bdh.report.plots.figure import LIGHT as LIGHT_PAINTS
from bdh.report.plots.figure import Panel, render_panel, swatch_rules, variables
from bdh.report.plots.outcomes import outcome_panels
from bdh.report.plots.training import synapse_panels, training_panels
from bdh.report.tables.activity import activity_table
from bdh.report.tables.arms import sweep_table, synapse_table
from bdh.report.tables.corpora import corpora_table
from bdh.report.tables.frontier import frontier_tables
from bdh.report.tables.quality import against_bdh_table, quality_table
from bdh.report.tables.strata import strata_tables
from bdh.report.tables.table import Table, render_table

LIGHT = "--page: #ffffff; --panel: #f5f6f8; --ink: #1b1f24; --soft: #59636e; --rule: #d5d9de; --good: #0b6b3a; \
--bad: #a3271f; --even: #6b5300; --warn: #fff4d6;"
DARK = "--page: #14171a; --panel: #1d2126; --ink: #e6e9ec; --soft: #a3adb8; --rule: #3a414a; --good: #63d198; \
--bad: #ff9a8f; --even: #e0c060; --warn: #33290d;"
RULES = """
* { box-sizing: border-box; }
html { color-scheme: light dark; }
body { margin: 0 auto; max-width: 1400px; padding: 0 20px 60px; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; }
h1 { margin: 28px 0 4px; font-size: 28px; line-height: 1.2; }
h2 { margin: 44px 0 12px; padding-top: 10px; border-top: 1px solid var(--rule); font-size: 21px; }
h3 { margin: 28px 0 8px; font-size: 17px; }
h4 { margin: 0 0 4px; font-size: 14px; }
p { margin: 6px 0; max-width: 85ch; }
.label { padding: 8px 12px; border-left: 4px solid var(--even); background: var(--warn); font-weight: 600; }
.facts { display: flex; flex-wrap: wrap; gap: 6px 28px; margin: 14px 0; }
.facts div { min-width: 80px; }
.facts dt { color: var(--soft); font-size: 12px; }
.facts dd { margin: 0; }
.verdicts li { margin: 3px 0; max-width: 100ch; }
nav ul { display: flex; flex-wrap: wrap; gap: 4px 18px; margin: 14px 0; padding: 0; list-style: none; }
a { color: inherit; text-underline-offset: 3px; }
.scroll { margin: 10px 0 4px; overflow-x: auto; }
table { border-collapse: separate; border-spacing: 0; font-size: 13px; font-variant-numeric: tabular-nums; }
caption { padding: 2px 0 8px; font-size: 15px; font-weight: 600; text-align: left; white-space: nowrap; }
th, td { padding: 4px 10px; border-bottom: 1px solid var(--rule); text-align: left; vertical-align: top; }
thead th { border-bottom: 2px solid var(--soft); vertical-align: bottom; font-weight: 600; line-height: 1.25; }
thead button { padding: 0; border: 0; background: none; color: inherit; font: inherit; text-align: inherit;
  cursor: pointer; }
th[aria-sort="ascending"] .name::after { content: " ▲"; }
th[aria-sort="descending"] .name::after { content: " ▼"; }
tbody th { position: sticky; left: 0; background: var(--page); font-weight: 600; white-space: nowrap; }
thead th.num, thead th.num button { text-align: right; }
td { white-space: pre-line; }
td.num { text-align: right; white-space: pre; }
.detail { display: block; color: var(--soft); font-size: 0.85em; font-weight: 400; }
.good .detail, .bad .detail, .even .detail { color: inherit; }
.name { display: block; }
.unit { display: block; color: var(--soft); font-size: 0.85em; font-weight: 400; }
.reference th, .reference td { color: var(--soft); font-weight: 400; font-style: italic; }
.good { color: var(--good); } .bad { color: var(--bad); } .even { color: var(--even); }
.best { font-weight: 700; }
.note { max-width: 120ch; color: var(--soft); font-size: 12.5px; }
.swatch { display: inline-block; width: 18px; margin-right: 7px; vertical-align: middle; }
#claims tbody th { min-width: 150px; max-width: 220px; white-space: normal; }
#claims td { min-width: 110px; max-width: 260px; }
#claims td:nth-of-type(2) { min-width: 290px; max-width: 420px; }
#claims td:nth-of-type(3) { min-width: 230px; }
#corpora td { min-width: 90px; max-width: 220px; overflow-wrap: break-word; }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 560px), 1fr)); gap: 22px; }
figure { margin: 0; padding: 12px; background: var(--panel); break-inside: avoid; }
figcaption { color: var(--soft); font-size: 12.5px; }
.plot { overflow-x: auto; }
.plot svg { display: block; width: 100%; min-width: 440px; height: auto; }
.key { columns: 220px; margin: 8px 0 16px; padding: 0; list-style: none; font-size: 13px; }
.key li { display: flex; align-items: center; break-inside: avoid; overflow-wrap: anywhere; }
.key .swatch { flex: none; }
details { margin: 8px 0; padding: 6px 12px; background: var(--panel); }
summary { cursor: pointer; }
pre { margin: 6px 0; white-space: pre-wrap; overflow-wrap: anywhere; font: 12.5px/1.45 ui-monospace, monospace; }
.prompt { font-weight: 700; }
footer { margin-top: 44px; color: var(--soft); font-size: 12.5px; }
@media (max-width: 640px) {
  body { padding: 0 12px 40px; }
  tbody th { min-width: 104px; max-width: 150px; white-space: normal; overflow-wrap: anywhere; }
  th, td { padding: 4px 7px; }
}
@media print {
  @page { size: A4 landscape; margin: 10mm; }
  body { max-width: none; padding: 0; font-size: 10pt; }
  nav { display: none; }
  .scroll, .plot { overflow: visible; }
  .note, figcaption, footer { font-size: 7.5pt; }
  table { font-size: 7pt; }
  th, td { padding: 1.5pt 3pt; }
  tbody th, td.num { white-space: pre-line; }
  tr, figure { break-inside: avoid; }
  thead { display: table-header-group; }
  .plots { grid-template-columns: 1fr 1fr; }
  .plot svg { min-width: 0; }
}
"""


def style_sheet(variants: int) -> str:
    """CSS of the page for a number of variants."""
    light = f":root {{ {LIGHT} {variables(LIGHT_PAINTS)} }}"
    dark = f"{DARK} {variables(DARK_PAINTS)}"
    return (
        f"{light}\n@media screen and (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}\n"
        f"{RULES}\n{swatch_rules(variants)}\n"
    )


SORT = """
document.querySelectorAll("table.sortable").forEach(table => {
  table.querySelectorAll("thead th").forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    while (head.firstChild) button.appendChild(head.firstChild);
    head.appendChild(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      const body = table.tBodies[0];
      const rows = Array.from(body.rows);
      const key = row => {
        const cell = row.cells[column];
        const raw = column === 0 ? cell.textContent : cell.dataset.value;
        return raw === undefined ? null : raw !== "" && !isNaN(raw) ? Number(raw) : raw;
      };
      rows.sort((a, b) => {
        const fixed = a.classList.contains("reference") - b.classList.contains("reference");
        if (fixed) return fixed;
        const x = key(a), y = key(b);
        if (x === null || y === null) return (x === null) - (y === null);
        const order = typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y));
        return down ? -order : order;
      });
      table.querySelectorAll("thead th").forEach(other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      rows.forEach(row => body.appendChild(row));
    });
  });
});
"""


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
