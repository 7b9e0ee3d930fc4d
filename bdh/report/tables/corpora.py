"""The texts: where they came from, how they were cut, what limits them; and bits per byte by year, sector and role.

Each stratum has n, an interval, and paired tests.
"""

from __future__ import annotations

from collections.abc import Sequence

from bdh.report import formats
from bdh.report.data import measures
from bdh.report.data.inputs import CorpusFacts, Inputs, RunResults
from bdh.report.data.spread import over_seeds
from bdh.report.plots.figure import slot_of
from bdh.report.tables.arms import arms_of
from bdh.report.tables.table import Cell, Column, Row, Table, keys_of, missing_cell

KINDS = {"by_year": "year", "by_sector": "sector", "by_role": "role of the speaker"}
COUNTS = ("documents", "tokens", "bytes")
NOT_MEASURABLE = "not measurable"


def strata_tables(inputs: Inputs, corpus: str, variant: str | None = None) -> list[Table]:
    """A table by year, one by sector and one by role, each only when some run has a stratum of that kind.

    Of one variant with all its arms, or of all variants.
    """
    runs = inputs.of(corpus, variant)
    return [_table(inputs, corpus, variant, kind, labels) for kind in KINDS if (labels := strata(runs, "static", kind))]


def strata(runs: Sequence[RunResults], arm: str, kind: str) -> list[str]:
    """Labels of the strata of one arm in any run, sorted."""
    return sorted({label for run in runs for label in run.hebbian.children(f"arms/{arm}/{kind}")})


def stratum_bits(run: RunResults, arm: str, kind: str, label: str) -> float | None:
    """Bits per byte of one stratum."""
    return run.hebbian.number(f"arms/{arm}/{kind}/{label}/bits_per_byte")


def _table(inputs: Inputs, corpus: str, only: str | None, kind: str, labels: list[str]) -> Table:
    arms = [arm for arm in arms_of(inputs.of(corpus)) if arm != "observe"]
    rows: list[Row] = []
    left_out: list[str] = []
    for variant in inputs.variants if only is None else (only,):
        runs, slot = inputs.of(corpus, variant), slot_of(inputs.variants, variant)
        if strata(runs, "static", kind):
            cells = [_bits_cell(runs, kind, label) for label in labels]
            rows.append(Row(f"{variant}, static", cells, slot, runs=keys_of(runs)))
        for arm in arms:
            if strata(runs, arm, kind):
                cells = [_difference_cell(inputs, runs, (arm, kind, label)) for label in labels]
                title = f"{variant}, {arm.replace('_', ' ')} minus static"
                row = Row(title, cells, slot, runs=keys_of(runs))
                if all(cell.text == NOT_MEASURABLE for cell in cells):
                    left_out.append(row.title)
                else:
                    rows.append(row)
    counted = [[_count(inputs.of(corpus), kind, label, name) for label in labels] for name in COUNTS]
    rows += [Row(name, cells, reference=True) for name, cells in zip(COUNTS, counted, strict=True)]
    name = "" if only is None else f"-{only}"
    return Table(
        f"{corpus}-{kind.replace('_', '-')}{name}",
        f"{corpus}: test bits per byte by {KINDS[kind]}",
        [Column(label, "bits per byte", "", "hebbian") for label in labels],
        rows,
        first=Column("variant, arm"),
        notes=[
            "Intervals of static: 95 %, bootstrap over the units of text in the stratum; several seeds: from the lowest"
            " to the highest end. Of differences: over seeds; one seed: over its text. A stratum with fewer than 8"
            " units is not measurable.",
            "Strata are not tested against each other.",
            *_notes_on(left_out, rows),
        ],
    )


def _notes_on(left_out: list[str], rows: list[Row]) -> list[str]:
    """What says which rows are not shown because no stratum has enough units."""
    if not left_out:
        return []
    some = any(row.title.endswith("minus static") for row in rows)
    which = "; ".join(left_out) if some else "every arm minus static, of every variant"
    return [f"Left out, since no stratum has enough units: {which}."]


def _bits_cell(runs: Sequence[RunResults], kind: str, label: str) -> Cell:
    value = over_seeds(stratum_bits(run, "static", kind, label) for run in runs)
    if value is None:
        return missing_cell("no documents")
    span = _span(runs, f"arms/static/{kind}/{label}", "bits_low", "bits_high", sign=False)
    detail = "\n".join(part for part in (formats.deviation(value), span or "no interval: too few units") if part)
    return Cell(formats.fixed(value.mean), value.mean, detail=detail)


def _difference_cell(inputs: Inputs, runs: Sequence[RunResults], stratum: tuple[str, str, str]) -> Cell:
    path = f"arms/{'/'.join(stratum)}"
    gap = measures.stratum_difference(runs, *stratum)
    if gap is None:
        reason = next((text for run in runs if (text := run.hebbian.text(f"{path}/reason"))), "no documents")
        return Cell(NOT_MEASURABLE if reason.startswith(NOT_MEASURABLE) else formats.ABSENT, None, reason)
    verdict = measures.judge(inputs, ("stratum", runs[0].corpus, runs[0].variant, *stratum), gap)
    count = f"n {gap.seeds}" if gap.seeds > 1 else ""
    parts = (formats.interval(gap.low, gap.high), count, verdict.word)
    return Cell(formats.signed(gap.value), gap.value, "", verdict.tone, detail="\n".join(p for p in parts if p))


def _span(runs: Sequence[RunResults], path: str, low: str, high: str, sign: bool = True) -> str:
    """From the lowest to the highest end over the seeds, empty without any."""
    bounds = ((run.hebbian.number(f"{path}/{low}"), run.hebbian.number(f"{path}/{high}")) for run in runs)
    return formats.widest(bounds, sign=sign)


def _count(runs: Sequence[RunResults], kind: str, label: str, name: str) -> Cell:
    for run in runs:
        count = run.hebbian.number(f"arms/static/{kind}/{label}/{name}")
        if count is not None:
            return Cell(formats.whole(count), count)
    return missing_cell("not counted")


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
    rows = [_corpus(inputs.facts[name]) for name in inputs.corpora]
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


def _corpus(facts: CorpusFacts) -> Row:
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
