"""Tables of the page: plain data first, markup last."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

from bdh.report.data.spread import Verdict
from bdh.report.formats import ABSENT


@dataclass(frozen=True)
class Column:
    """Heading, unit (may be empty) and an explanation that shows on hovering."""

    title: str
    unit: str = ""
    note: str = ""


@dataclass(frozen=True)
class Cell:
    """What a cell shows, what it sorts by, a note on hovering, its tone, whether it is best, what stands below.

    detail: small print. links: pairs of words and address.
    """

    text: str
    value: float | str | None = None
    note: str = ""
    tone: str = "none"
    best: bool = False
    detail: str = ""
    links: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class Row:
    """One row: its heading, its cells, the colour slot of the variant (None: no colour) and whether it is a reference
    that stays below the others when the table is sorted."""

    title: str
    cells: Sequence[Cell]
    slot: int | None = None
    reference: bool = False
    note: str = ""


@dataclass(frozen=True)
class Table:
    """A table with its caption (what stands in it), notes below it, and the heading of its first column."""

    name: str
    caption: str
    columns: Sequence[Column]
    rows: Sequence[Row]
    first: Column = field(default_factory=lambda: Column("variant"))
    notes: Sequence[str] = ()


def verdict_cell(verdict: Verdict, note: str = "") -> Cell:
    """A cell that shows a verdict in its tone."""
    return Cell(verdict.word, verdict.word, note, verdict.tone)


def missing_cell(reason: str = "") -> Cell:
    """An empty cell that says why on hovering; one whose file is missing says so at once."""
    return Cell("missing" if "is missing" in reason else ABSENT, None, reason)


def render_table(table: Table) -> str:
    """HTML of a table: caption, column and row headings with scope, a wrapper that scrolls on a narrow window."""
    numeric = [False, *(all(_is_number(row.cells[i]) for row in table.rows) for i in range(len(table.columns)))]
    heads = "".join(map(_head, (table.first, *table.columns), numeric))
    rows = "\n".join(_row(row) for row in table.rows)
    notes = "".join(f'<p class="note">{escape(note)}</p>' for note in table.notes)
    label = escape(table.caption, quote=True)
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{label}">\n'
        f'<table id="{escape(table.name)}" class="sortable"><caption>{escape(table.caption)}</caption>\n'
        f"<thead><tr>{heads}</tr></thead>\n<tbody>\n{rows}\n</tbody></table></div>\n{notes}"
    )


def _is_number(cell: Cell) -> bool:
    return cell.value is None or isinstance(cell.value, int | float)


def _head(column: Column, numeric: bool) -> str:
    unit = f'<span class="unit">{escape(column.unit)}</span>' if column.unit else ""
    kind = ' class="num"' if numeric else ""
    return f'<th scope="col"{kind}{_title(column.note)}><span class="name">{escape(column.title)}</span>{unit}</th>'


def _row(row: Row) -> str:
    swatch = f'<span class="swatch s{row.slot}" aria-hidden="true"></span>' if row.slot is not None else ""
    kind = ' class="reference"' if row.reference else ""
    heading = f'<th scope="row"{_title(row.note)}>{swatch}{escape(row.title)}</th>'
    return f"<tr{kind}>{heading}{''.join(_cell(cell) for cell in row.cells)}</tr>"


def _cell(cell: Cell) -> str:
    classes = [
        name for name, on in (("num", _is_number(cell)), (cell.tone, cell.tone != "none"), ("best", cell.best)) if on
    ]
    kind = f' class="{" ".join(classes)}"' if classes else ""
    value = "" if cell.value is None else f' data-value="{escape(str(cell.value), quote=True)}"'
    mark = '<span class="mark" title="lowest, tested">★</span> ' if cell.best else ""
    detail = f'<span class="detail">{escape(cell.detail)}</span>' if cell.detail else ""
    links = " ".join(f'<a href="{escape(address, quote=True)}">{escape(words)}</a>' for words, address in cell.links)
    return f"<td{kind}{value}{_title(cell.note)}>{mark}{escape(cell.text)}{detail}{links}</td>"


def _title(note: str) -> str:
    return f' title="{escape(note, quote=True)}"' if note else ""
