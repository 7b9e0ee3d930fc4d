"""The texts: where they came from, how large they are, how they were cut, and what limits them."""

from __future__ import annotations

from bdh.report import formats, measures
from bdh.report.inputs import CorpusFacts, Inputs
from bdh.report.table import Cell, Column, Row, Table, missing_cell

SPLITS = ("train", "validation", "test")
COLUMNS = (
    Column("origin", "", "Where the text was taken from."),
    Column("sha256", "first 12 digits", "Of the source files."),
    Column("licence", "", "As stated by the source."),
    Column("tokenizer", "vocabulary"),
    *(
        Column(f"{split} {what}", unit)
        for split in SPLITS
        for what, unit in (("documents", "count"), ("text", "bytes"), ("tokens", "count"))
    ),
    Column("duplicates", "removed", "Documents whose text was already there."),
    Column("unigram", "bits per byte", "Test split under add-one counts of the training split."),
)
SURVIVORS = (
    "{name}: companies come from a list of index members; firms that left the index or failed are under-represented "
    "(survivorship bias), and training and test years differ on purpose."
)


def corpora_table(inputs: Inputs) -> Table:
    """One row per corpus."""
    rows = [_row(inputs.facts[name]) for name in inputs.corpora]
    notes = [SURVIVORS.format(name=n) for n in inputs.corpora if _has_companies(inputs, n)]
    made = [name for name in inputs.corpora if origin(inputs.facts[name]).startswith("generated")]
    if made:
        notes.insert(0, f"{', '.join(made)}: made by this project from a seed; no real author, company or call.")
    return Table("corpora", "Corpora", COLUMNS, rows, first=Column("corpus"), notes=notes)


def origin(facts: CorpusFacts) -> str:
    """Kind of source and the first address, generator or path that the provenance names."""
    flat = facts.provenance.values
    kind = next((str(flat[key]) for key in ("kind", "source/kind", "origin") if key in flat), "")
    places = ("generator", "source/generator", "mirror", "url", "path", "source/path")
    where = next((str(flat[key]) for key in places if flat.get(key)), "")
    if not where:
        where = next((str(item.get("url") or item.get("path")) for item in source_files(facts)), "")
    return f"{kind} {where}".strip() or formats.ABSENT


def source_files(facts: CorpusFacts) -> list[dict[str, object]]:
    """Entries of the source's files in the provenance, an empty list when it names none."""
    files = facts.provenance.values.get("files")
    return [item for item in files if isinstance(item, dict)] if isinstance(files, list) else []


def _row(facts: CorpusFacts) -> Row:
    reason = "; ".join(facts.missing)
    stats = facts.stats
    counts = [
        _count(facts, f"splits/{split}/{what}", reason) for split in SPLITS for what in ("documents", "bytes", "tokens")
    ]
    unigram = measures.unigram_bits(facts)
    vocabulary = stats.number("tokenizer/vocab_size")
    tokenizer = f"{stats.text('tokenizer/name') or formats.ABSENT}, {formats.whole(vocabulary)}"
    cells = [
        Cell(origin(facts), origin(facts)),
        _digest(facts),
        _licence(facts),
        Cell(tokenizer, tokenizer, reason),
        *counts,
        _count(facts, "duplicates_removed", reason),
        missing_cell(reason) if unigram is None else Cell(formats.fixed(unigram), unigram),
    ]
    return Row(facts.name, cells, note=reason)


def _count(facts: CorpusFacts, key: str, reason: str) -> Cell:
    value = facts.stats.number(key)
    return missing_cell(reason or "not recorded") if value is None else Cell(formats.whole(value), value)


def _digest(facts: CorpusFacts) -> Cell:
    found = [str(item["sha256"]) for item in source_files(facts) if item.get("sha256")]
    found = found or [text for key in ("sha256", "digest") if (text := facts.provenance.text(key))]
    if not found:
        return missing_cell("the provenance names none")
    return Cell(", ".join(digest[:12] for digest in found), found[0], ", ".join(found))


def _licence(facts: CorpusFacts) -> Cell:
    found = [str(item["licence"]) for item in source_files(facts) if item.get("licence")]
    found = found or [text for key in ("licence", "source/licence") if (text := facts.provenance.text(key))]
    text = "; ".join(dict.fromkeys(found))
    return Cell(text, text) if text else missing_cell("the provenance names none")


def _has_companies(inputs: Inputs, corpus: str) -> bool:
    real = not origin(inputs.facts[corpus]).startswith("generated")
    return real and any(run.hebbian.children("arms/static/by_sector") for run in inputs.of(corpus))
