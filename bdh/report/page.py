"""One self-contained page: verdict, tables, plots, samples. It loads nothing from anywhere.

What stands on the page is gathered here. How it is marked up stands beside this file: page.html, page.css, sort.js.
"""

from __future__ import annotations

import unicodedata
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from bdh.report import headline, sections
from bdh.report.data.inputs import Inputs
from bdh.report.data.spread import EQUAL, NO_DIFFERENCE, ONE_SEED
from bdh.report.plots.dots import of_seeds
from bdh.report.plots.figure import DARK, LIGHT, swatches

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


ODD = ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")
"""Kinds of characters that are not seen or that move others: control, format (direction too), surrogates."""

PLAIN = "\n\t"


def visible(value: Any) -> Any:
    """Text as it goes into a page: what is not seen, or would turn the text around it, is shown by its number.

    Texts of a corpus and of a model hold anything. Markup of our own is left as it is.
    """
    if not isinstance(value, str) or isinstance(value, Markup) or (value.isascii() and value.isprintable()):
        return value
    return "".join(
        char if char in PLAIN or unicodedata.category(char) not in ODD else f"[U+{ord(char):04X}]" for char in value
    )


def templates() -> Environment:
    """The templates beside this file; a name that a template does not get is an error."""
    return Environment(
        loader=PackageLoader("bdh.report", ""),
        autoescape=True,
        finalize=visible,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def render_page(inputs: Inputs, results: str = "") -> str:
    """The whole page as HTML; the same bytes for the same results.

    results: where the files of results lie, seen from the page, empty or with a slash at its end.
    """
    pages = templates()
    diverged = headline.without_result(inputs)
    gaps = [*diverged, *inputs.absent]
    chapters = sections.chapters(inputs, results)
    claims, told = headline.claim_states(inputs)
    more = [("gaps", "Gaps", "Runs without a result")] if gaps else []
    more.append(("definitions", "Definitions", "What do the words mean?"))
    return pages.get_template("page.html").render(
        inputs=inputs,
        results=results,
        style=source_of(pages, "page.css"),
        script=source_of(pages, "sort.js"),
        light=LIGHT,
        dark=DARK,
        swatches=swatches(len(inputs.variants)),
        label=headline.label(inputs),
        facts=headline.facts(inputs),
        answers=headline.answers(inputs),
        sentences=headline.sentences(inputs),
        claims=claims,
        claims_told=told,
        first=sections.first_pictures(inputs, results),
        first_note=of_seeds(inputs),
        contents=[*((c.name, c.short) for c in chapters), *((name, short) for name, short, _ in more)],
        chapters=chapters,
        samples_note=SAMPLES_NOTE,
        diverged=diverged,
        gaps=gaps,
        definitions=DEFINITIONS + (OF_ONE_SEED if inputs.one_seed else OF_SEVERAL_SEEDS),
    )


def source_of(pages: Environment, name: str) -> str:
    """The text of a file that goes into the page as it is."""
    assert pages.loader is not None
    return pages.loader.get_source(pages, name)[0].rstrip("\n")
