"""What a table of the page is made of: plain data, which page.html marks up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from bdh.report.data.inputs import RunResults
from bdh.report.data.spread import Verdict
from bdh.report.formats import ABSENT


@dataclass(frozen=True)
class Column:
    """Heading, unit (may be empty) and an explanation that shows on hovering.

    source: the kind of result file that its numbers stand in (train, timing, hebbian, frontier), empty where they come
    from several.
    """

    title: str
    unit: str = ""
    note: str = ""
    source: str = ""


@dataclass(frozen=True)
class Cell:
    """What a cell shows, what it sorts by, a note on hovering, its tone, whether it is best, what stands below.

    detail: small print. links: pairs of words and address. shade: 0 to 1, how dark the cell is drawn, None for a plain
    one.
    """

    text: str
    value: float | str | None = None
    note: str = ""
    tone: str = "none"
    best: bool = False
    detail: str = ""
    links: Sequence[tuple[str, str]] = ()
    shade: float | None = None

    @property
    def is_number(self) -> bool:
        """Whether the cell belongs into a column of numbers: it holds one, or nothing."""
        return self.value is None or isinstance(self.value, int | float)

    @property
    def classes(self) -> str:
        """Names of the style rules that hold for the cell."""
        marks = (("num", self.is_number), (self.tone, self.tone != "none"), ("best", self.best))
        return " ".join(name for name, on in marks if on)


@dataclass(frozen=True)
class Row:
    """One row: its heading, its cells, the colour slot of the variant (None: no colour) and whether it is a reference
    that stays below the others when the table is sorted.

    runs: keys of the runs that its numbers come from. file: where they stand instead, a result below the page's own.
    """

    title: str
    cells: Sequence[Cell]
    slot: int | None = None
    reference: bool = False
    note: str = ""
    runs: Sequence[str] = ()
    file: str = ""

    def sources(self, column: Column, cell: Cell) -> list[tuple[str, str]]:
        """(seed, file among the results) of every run that a number comes from; none where there is no number."""
        if cell.value is None or not cell.is_number or cell.links:
            return []
        if self.file:
            return [("", self.file)]
        return [(key.rpartition("-")[2], f"{column.source}/{key}.json") for key in self.runs if column.source]


@dataclass(frozen=True)
class Table:
    """A table with its caption (what stands in it), notes below it, and the heading of its first column.

    filtered: whether the page offers to show only the rows that hold some text.
    """

    name: str
    caption: str
    columns: Sequence[Column]
    rows: Sequence[Row]
    first: Column = field(default_factory=lambda: Column("variant"))
    notes: Sequence[str] = ()
    filtered: bool = False

    def is_numeric(self, column: int) -> bool:
        """Whether a column, counted without the first, holds numbers alone."""
        return all(row.cells[column].is_number for row in self.rows)


def verdict_cell(verdict: Verdict, note: str = "") -> Cell:
    """A cell that shows a verdict in its tone."""
    return Cell(verdict.word, verdict.word, note, verdict.tone)


def keys_of(runs: Sequence[RunResults]) -> tuple[str, ...]:
    """Keys of the runs that have numbers."""
    return tuple(run.key for run in runs if not run.divergence)


def missing_cell(reason: str = "") -> Cell:
    """An empty cell that says why on hovering."""
    return Cell(ABSENT, None, reason)
