"""The texts: where they came from, how large they are, how they were cut, and what limits them."""

from __future__ import annotations

from bdh.report import formats
from bdh.report.data import measures
from bdh.report.data.inputs import CorpusFacts, Inputs
from bdh.report.tables.table import Cell, Column, Row, Table, missing_cell

SPLITS = ("train", "validation", "test")
COLUMNS = (
    Column("origin", "", "Where the text was taken from."),
    Column("sha256", "first 12 digits", "Of the source files."),
    Column("licence", "", "As stated by the source."),
    Column("tokenizer", "vocabulary"),
    *(Column(split, "tokens; text, documents") for split in SPLITS),
    Column("removed", "documents", "Empty ones, ones whose text was already there, ones of other sectors."),
    Column("unigram", "bits per byte", "Test split under add-one counts of the training split."),
)
NOT_RECORDED = missing_cell("not recorded")
SURVIVORS = (
    "{name}: companies come from a list of index members; firms that left the index or failed are under-represented "
    "(survivorship bias), and training and test years differ on purpose."
)


def corpora_table(inputs: Inputs) -> Table:
    """One row per corpus."""
    rows = [_row(inputs.facts[name]) for name in inputs.corpora]
    notes = [SURVIVORS.format(name=n) for n in inputs.corpora if _has_companies(inputs, n)]
    made = [name for name in inputs.corpora if origin(inputs.facts[name]).startswith("generator")]
    if made:
        notes.insert(0, f"{', '.join(made)}: made by this project from a seed; no real author, company or call.")
    return Table("corpora", "Corpora", COLUMNS, rows, first=Column("corpus"), notes=notes)


def origin(facts: CorpusFacts) -> str:
    """Address, path or generator of every source file, each once."""
    return "\n".join(dict.fromkeys(str(item["origin"]) for item in source_files(facts)))


def source_files(facts: CorpusFacts) -> list[dict[str, object]]:
    """Entries of the source's files in the statistics."""
    return facts.stats.rows("provenance", "origin", "sha256", "licence")


def _row(facts: CorpusFacts) -> Row:
    unigram = measures.unigram_bits(facts, ())
    vocabulary = facts.stats.number("tokenizer/vocab_size")
    tokenizer = f"{facts.stats.text('tokenizer/name') or formats.ABSENT}, {formats.whole(vocabulary)}"
    digests = [str(item["sha256"]) for item in source_files(facts)]
    cells = [
        _text(origin(facts)),
        Cell("\n".join(digest[:12] for digest in digests), digests[0], "\n".join(digests)) if digests else NOT_RECORDED,
        _text("\n".join(dict.fromkeys(str(item["licence"]) for item in source_files(facts)))),
        Cell(tokenizer, tokenizer),
        *(_split(facts, split) for split in SPLITS),
        _removed(facts),
        missing_cell() if unigram is None else Cell(formats.fixed(unigram), unigram),
    ]
    return Row(facts.name, cells)


def _text(text: str) -> Cell:
    return Cell(text, text) if text else NOT_RECORDED


def _removed(facts: CorpusFacts) -> Cell:
    names = facts.stats.children("removed")
    counts = {name: facts.stats.number(f"removed/{name}") for name in names}
    known = {name: count for name, count in counts.items() if count is not None}
    if not known:
        return NOT_RECORDED
    detail = "\n".join(f"{formats.whole(count)} {name.replace('_', ' ')}" for name, count in known.items())
    return Cell(formats.whole(sum(known.values())), sum(known.values()), detail=detail)


def _split(facts: CorpusFacts, split: str) -> Cell:
    names = ("tokens", "utf8_bytes", "documents")
    tokens, size, documents = (facts.stats.number(f"splits/{split}/{name}") for name in names)
    if tokens is None:
        return NOT_RECORDED
    days = [text for key in ("first_date", "last_date") if (text := facts.stats.text(f"splits/{split}/{key}"))]
    lines = [f"{formats.whole(size)} bytes", f"{formats.whole(documents)} documents", " to ".join(days)]
    detail = "\n".join(line for line in lines if line)
    return Cell(formats.whole(tokens), tokens, detail=detail)


def _has_companies(inputs: Inputs, corpus: str) -> bool:
    real = not origin(inputs.facts[corpus]).startswith("generator")
    return real and any(run.hebbian.children("arms/static/by_sector") for run in inputs.of(corpus))
