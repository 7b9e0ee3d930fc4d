"""One self-contained page: verdict, tables, plots, samples. It loads nothing from anywhere.

What stands on the page is gathered here. How it is marked up stands beside this file: page.html, page.css, sort.js.
"""

from __future__ import annotations

from jinja2 import Environment, PackageLoader, StrictUndefined

from bdh.report import headline
from bdh.report.claims.ledger import claims_table
from bdh.report.data.inputs import Inputs
from bdh.report.data.spread import EQUAL, NO_DIFFERENCE, ONE_SEED
from bdh.report.plots.figure import DARK, LIGHT, Panel, draw_panel, swatches
from bdh.report.plots.outcomes import outcome_panels
from bdh.report.plots.training import synapse_panels, training_panels
from bdh.report.tables.activity import activity_table
from bdh.report.tables.arms import overlap_table, sweep_table, synapse_table
from bdh.report.tables.corpora import corpora_table
from bdh.report.tables.frontier import frontier_tables
from bdh.report.tables.quality import against_bdh_table, quality_table
from bdh.report.tables.search import search_tables
from bdh.report.tables.strata import strata_tables
from bdh.report.tables.table import Table

SECTIONS = (
    ("quality", "Prediction"),
    ("pairs", "Beside bdh"),
    ("search", "Search of settings"),
    ("synapses", "Living synapses"),
    ("activity", "Activity and cost"),
    ("frontier", "Frontier metrics"),
    ("strata", "By year, sector and speaker"),
    ("texts", "Corpora"),
    ("ledger", "Claims"),
    ("plots", "Plots"),
    ("samples", "Samples"),
    ("gaps", "Runs without a result"),
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
     "Static: reset at every window. Carry: kept through a document, damped. Overlap: no "
     "state, but windows moved by a half, and only the new half scored. Shuffled: another document's state. Observe: "
     "coactivation watched, never read."),
    ("density", "Share of activations that are not zero."),
    ("FLOP", "Floating-point operations, a multiply-add counts as two. Training operations are the forward operations "
     "times three, an upper bound where only a part of the model is trained."),
    ("TMI", "Modularity of the neuron graph: how much more its edges lie inside groups of neurons than by "
     "chance. Nulls: graphs of the same kind without groups."),
    ("SPS", "Persistence of what the synapses take in: Hurst exponent of its slow fluctuations, 0.5 without memory. "
     "Nulls: the same in random order, and series that forget as fast as this one (two fitted kinds of short memory)."),
    ("SEC", "Coupling of surprise and activity: rank correlation of a token's surprisal and the share of active "
     "neurons, among tokens with the same token before, at the same place in the window and of one stretch of text. "
     "Nulls: no coupling, judged over documents and over words."),
    ("MCL", "Share of active neurons that are selective for exactly one concept. Nulls: random sets of tokens that "
     "cover as much text, and random concepts with the shares of words and the runs of the real ones."),
    ("untrained twins", "The same shape with fresh weights, at least 20 of them, on the same text."),
    ("interval", "95 %: of a hundred such intervals about 95 hold the true value. One seed: paired bootstrap over "
     "documents (or blocks of text), this seed only. Several seeds: over seeds and documents, each with Student's "
     "quantile of its own number; over seeds alone where there are fewer than 8 documents."),
)  # fmt: skip
OF_ONE_SEED = ((ONE_SEED, "The page compares single trainings; why they are not judged stands at its top."),)
OF_SEVERAL_SEEDS = (
    ("better, worse", "Over several seeds the whole interval lies on one side of 0, the difference is at least the "
     "smallest effect of interest (report.smallest_effect), and p, adjusted for everything that is judged, is below "
     "0.05."),
    (EQUAL, "The whole interval lies within the smallest effect of interest of 0."),
    (NO_DIFFERENCE, "None of these: the runs do not tell."),
    ("p, adjusted", "The page asks many questions, and luck alone would seem to answer some. All p-values behind its "
     "verdicts (variants, arms, strata, frontier metrics) are raised together, so that at most 5 % of what is called "
     "different is expected to be luck (Benjamini and Yekutieli)."),
)  # fmt: skip


def templates() -> Environment:
    """The templates beside this file; a name that a template does not get is an error."""
    return Environment(
        loader=PackageLoader("bdh.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def render_page(inputs: Inputs) -> str:
    """The whole page as HTML; the same bytes for the same results."""
    pages = templates()
    tables = _tables(inputs)
    samples = [run for run in inputs.runs if run.samples]
    diverged = headline.without_result(inputs)
    gaps = [*diverged, *inputs.absent]
    empty = {name for name, found in (tables | {"samples": samples, "gaps": gaps}).items() if not found}
    return pages.get_template("page.html").render(
        inputs=inputs,
        style=source_of(pages, "page.css"),
        script=source_of(pages, "sort.js"),
        light=LIGHT,
        dark=DARK,
        swatches=swatches(len(inputs.variants)),
        label=headline.label(inputs),
        facts=headline.facts(inputs),
        sentences=headline.sentences(inputs),
        sections=[(name, title) for name, title in SECTIONS if name not in empty],
        tables=tables,
        plots=[(corpus, _plots(inputs, corpus)) for corpus in inputs.corpora],
        samples=samples,
        samples_note=SAMPLES_NOTE,
        diverged=diverged,
        gaps=gaps,
        definitions=DEFINITIONS + (OF_ONE_SEED if inputs.one_seed else OF_SEVERAL_SEEDS),
    )


def source_of(pages: Environment, name: str) -> str:
    """The text of a file that goes into the page as it is."""
    assert pages.loader is not None
    return pages.loader.get_source(pages, name)[0].rstrip("\n")


def _tables(inputs: Inputs) -> dict[str, list[Table]]:
    """The tables of every section that is made of tables."""
    corpora = inputs.corpora
    return {
        "quality": [quality_table(inputs, corpus) for corpus in corpora],
        "pairs": [against_bdh_table(inputs, corpus) for corpus in corpora],
        "search": search_tables(inputs),
        "synapses": [table for corpus in corpora for table in _synapses(inputs, corpus)],
        "activity": [activity_table(inputs, corpus) for corpus in corpora],
        "frontier": [table for corpus in corpora for table in frontier_tables(inputs, corpus)],
        "strata": [table for corpus in corpora for table in strata_tables(inputs, corpus)],
        "texts": [corpora_table(inputs)],
        "ledger": [claims_table(inputs)],
    }


def _synapses(inputs: Inputs, corpus: str) -> list[Table]:
    more = (overlap_table(inputs, corpus), sweep_table(inputs, corpus))
    return [synapse_table(inputs, corpus), *(table for table in more if table)]


def _plots(inputs: Inputs, corpus: str) -> list[tuple[Panel, str]]:
    """Every plot of one corpus that has a line, with its SVG."""
    panels = [*training_panels(inputs, corpus), *synapse_panels(inputs, corpus), *outcome_panels(inputs, corpus)]
    return [(panel, svg) for panel in panels if (svg := draw_panel(panel))]
