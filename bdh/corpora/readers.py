"""Readers of documents: UTF-8 text files, or tables with one document per row; their number and size do not matter.

A text file is searched through a memory map and read in blocks, a table is read row by row (`bdh.corpora.tables`).
"""

from __future__ import annotations

import bisect
import codecs
import difflib
import hashlib
import itertools
import mmap
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import regex

from bdh.corpora.documents import Document, cut
from bdh.corpora.plain import looks_like
from bdh.corpora.speakers import read_turns
from bdh.corpora.tables import (
    CellError,
    JsonLines,
    Parquet,
    TextTable,
    bytes_of,
    date_of,
    name_of,
    open_table,
    quarter_of,
    turns_of,
    year_of,
)
from bdh.params import Columns
from bdh.project.errors import CorpusError, one_line, visible

R = TypeVar("R")
BLOCK = 1 << 22
SEARCH_S = 5.0
SEARCHED_BYTES_PER_S = 4e6
"""How long the search for the next separator may take: a moment, and more in a long text."""

BATCH_BYTES = 1 << 22
SYMBOL_COLUMNS = ("symbol", "Symbol")
SECTOR_COLUMNS = ("gics_sector", "GICS Sector", "Sector", "sector")


class PlainReader:
    """Text files: each one document, or several with a separator between them that belongs to none.

    `separator` is literal text, `pattern` a regular expression over a file's bytes; at most one is given. Places of
    documents count the bytes of all files, one after the other. Raises CorpusError when a file is missing, all are
    empty, or (while reading) one is not UTF-8 or, with `must_match`, the separator stands in none of them.
    """

    def __init__(
        self,
        path: Path | Sequence[Path],
        separator: str | None = None,
        pattern: str | None = None,
        must_match: bool = False,
    ) -> None:
        """Check the files and the separator."""
        self.paths = [path] if isinstance(path, Path) else list(path)
        self.path = self.paths[0]
        for one in self.paths:
            if not one.is_file():
                raise CorpusError(f"{one} is missing; it should hold the text")
        self._ends = list(itertools.accumulate(one.stat().st_size for one in self.paths))
        if not self._ends[-1]:
            raise CorpusError(f"{self.path} is empty; it should hold the text")
        self._literal, self._must_match = separator, must_match
        expression = pattern if separator is None else regex.escape(separator)
        try:
            self._separator = None if expression is None else regex.compile(expression.encode("utf-8"))
        except (regex.error, UnicodeEncodeError) as error:
            told = pattern if separator is None else separator
            raise CorpusError(f"text.separator {told!r} is no regular expression: {one_line(error)}") from None

    def documents(self) -> Iterator[Document]:
        """See DocumentReader; documents are numbered, and white space alone is no text."""
        source = itertools.count()
        matched = self._separator is None or not self._must_match
        for path, base in zip(self.paths, [0, *self._ends], strict=False):
            if not path.stat().st_size:
                continue
            with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                for start, end in self._spans(data):
                    matched = matched or end < len(data)
                    yield self._document(next(source), data, base, start, end)
        if not matched:
            raise CorpusError(self._why_no_match())

    def _document(self, source: int, data: mmap.mmap, base: int, start: int, end: int) -> Document:
        digest = hashlib.sha256()
        blank = True
        for place in range(start, end, BLOCK):
            block = data[place : min(place + BLOCK, end)]
            digest.update(block)
            blank = blank and not block.strip()
        first = base + start
        return Document(source, first, first if blank else base + end, digest.digest(), f"{source:06d}")

    def pieces(self, documents: Iterable[Document]) -> Iterator[tuple[int, str]]:
        """See DocumentReader."""
        for position, document in enumerate(documents):
            number, base = self._file_at(document.start)
            with self.paths[number].open("rb") as file:
                file.seek(document.start - base)
                rest = ""
                decoder = codecs.getincrementaldecoder("utf-8")()
                for place in range(document.start, document.end, BLOCK):
                    block = file.read(min(BLOCK, document.end - place))
                    final = place + len(block) == document.end
                    rest += self._decode(decoder, block, place - base, self.paths[number], final)
                    *whole, rest = [*cut(rest)] or [""]
                    for piece in whole:
                        yield position, piece
                if rest:
                    yield position, rest

    def split_points(self, fractions: list[float]) -> list[int]:
        """Places at these fractions of the text, moved back to where a character starts."""
        return self.character_starts(int(self._ends[-1] * fraction) for fraction in fractions)

    def character_starts(self, offsets: Iterable[int]) -> list[int]:
        """Places in the text, each moved back to where a character starts."""
        starts = []
        with ExitStack() as stack:
            files = {}
            for start in offsets:
                number, base = self._file_at(start)
                if number not in files:
                    files[number] = stack.enter_context(self.paths[number].open("rb"))
                file = files[number]
                file.seek(start - base)
                while start > base and (file.read(1) or b"a")[0] & 0xC0 == 0x80:
                    start -= 1
                    file.seek(start - base)
                starts.append(start)
        return starts

    def _file_at(self, place: int) -> tuple[int, int]:
        """Which file holds a place, and where that file begins; the end of the text belongs to the last one."""
        number = min(bisect.bisect_right(self._ends, place), len(self.paths) - 1)
        return number, self._ends[number - 1] if number else 0

    def _spans(self, data: mmap.mmap) -> Iterator[tuple[int, int]]:
        start = 0
        while (match := self._next(data, start)) is not None:
            yield start, match.start()
            start = match.end()
        yield start, len(data)

    def _next(self, data: mmap.mmap, start: int) -> regex.Match[bytes] | None:
        """The next separator from `start` on; CorpusError for a pattern that is no separator, or searches for ever."""
        if self._separator is None:
            return None
        told = f"text.separator {self._separator.pattern.decode('utf-8')!r}"
        seconds = SEARCH_S + (len(data) - start) / SEARCHED_BYTES_PER_S
        try:
            match = self._separator.search(data, start, timeout=seconds)
        except TimeoutError:
            raise CorpusError(
                f"{told} was searched for {seconds:.0f} s from byte {start} on without an end: repetitions of "
                "repetitions like (a+)+ try everything; write it without them, or as a literal text"
            ) from None
        if match is not None and match.start() == match.end():
            raise CorpusError(
                f"{told} fits the empty text at byte {match.start()}; a separator has a character at least"
            )
        if match is not None and any(data[at] & 0xC0 == 0x80 for at in match.span() if at < len(data)):
            raise CorpusError(
                f"{told} cuts a character in two at byte {match.start()}: it is matched against bytes of UTF-8, of "
                "which a class like [Ää] or . takes one; write (?:Ä|ä)"
            )
        return match

    def _why_no_match(self) -> str:
        """For a message: the separator stands nowhere; whether it would with other line ends or escapes."""
        assert self._separator is not None
        told = repr(self._separator.pattern.decode("utf-8") if self._literal is None else self._literal)
        where = self.path if len(self.paths) == 1 else f"none of the {len(self.paths)} files from {self.path} on"
        problem = f"text.separator {told} stands {'nowhere in' if len(self.paths) == 1 else 'in'} {where}"
        with self.path.open("rb") as file:
            head = file.read(BLOCK)
        if b"\r" in head and "\n" in (self._literal or told.replace("\\n", "\n")):
            return f"{problem}: its lines end in CRLF; set source.newlines: lf"
        if self._literal is not None:
            plain = self._literal.encode("latin-1", "ignore").decode("unicode_escape", "ignore")
            if plain != self._literal and plain.encode("utf-8", "ignore") in head:
                return f"{problem}, {plain!r} does: in YAML write it in double quotes with single backslashes"
            near = [line for line in head.decode("utf-8", "replace").splitlines() if 0 < len(line) <= 80]
            close = difflib.get_close_matches(self._literal.strip(), near, n=1, cutoff=0.7)
            if close:
                return f"{problem}; did you mean {close[0]!r}?"
        return f"{problem}; correct it, or set separator: null where every file is one text"

    def _decode(self, decoder: codecs.IncrementalDecoder, block: bytes, place: int, path: Path, final: bool) -> str:
        waiting = len(decoder.getstate()[0])
        try:
            return decoder.decode(block, final)
        except UnicodeDecodeError as error:
            where = place - waiting + error.start
            raise CorpusError(
                f"{path} is not UTF-8 at byte {where} ({error.reason}): {looks_like(block)}, or save it as UTF-8"
            ) from None


class TableReader:
    """Tables of one format; `columns` says which of their columns hold what, `sectors` maps symbols to sectors.

    Raises CorpusError when a file is missing or damaged, lacks a column, or (while reading) a cell holds what its
    column cannot mean.
    """

    def __init__(
        self,
        path: Path | Sequence[Path],
        columns: Columns,
        sectors: dict[str, str] | None = None,
        form: str = "parquet",
    ) -> None:
        """Check the files and their columns."""
        self.paths = [path] if isinstance(path, Path) else list(path)
        self.path = self.paths[0]
        self.columns = columns
        self.sectors = sectors
        self._roles = {role: name for role, name in columns.model_dump().items() if name is not None}
        self._names = list(dict.fromkeys([columns.text, *self._roles.values()]))
        self._tables = [open_table(one, form) for one in self.paths]
        for table in self._tables:
            self._check_columns(table)

    def documents(self) -> Iterator[Document]:
        """See DocumentReader; a document's id is its symbol and date where it has them, else its row."""
        taken: Counter[str] = Counter()
        source = 0
        for table in self._tables:
            for row, values in enumerate(table.rows(self._names, BATCH_BYTES)):
                cells = dict(zip(self._names, values, strict=True))
                yield self._document(source, table.path, row, cells, taken)
                source += 1

    def pieces(self, documents: Iterable[Document]) -> Iterator[tuple[int, str]]:
        """See DocumentReader."""
        waiting = enumerate(documents)
        position, document = next(waiting, (0, None))
        rows = chain.from_iterable(table.rows([self.columns.text], BATCH_BYTES) for table in self._tables)
        for source, (text,) in enumerate(rows):
            while document is not None and document.source == source:
                for piece in cut(bytes_of(text).decode("utf-8")):
                    yield position, piece
                position, document = next(waiting, (0, None))
            if document is None:
                return

    def _check_columns(self, table: TextTable) -> None:
        for role, name in self._roles.items():
            if table.names.count(name) != 1 and (role == "text" or not isinstance(table, JsonLines)):
                if not table.names:
                    raise CorpusError(f"{table.path} is empty; it should hold the documents")
                has = ", ".join(map(visible, table.names))
                if len(table.names) == 1 and any(sign in table.names[0] for sign in ";\t|"):
                    has += "; separate its cells by commas (tabs where its name ends in .tsv)"
                often = "has no column" if name not in table.names else f"has {table.names.count(name)} columns named"
                raise CorpusError(f"{table.path} {often} {name!r} (text.columns.{role}); it has: {has}")
            if isinstance(table, Parquet):
                self._check_kind(table, role, name)

    def _check_kind(self, table: Parquet, role: str, name: str) -> None:
        kind = table.kind(name)
        is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
        is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
        if pa.types.is_null(kind):
            return
        if role == "text" and not (is_text or pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
            raise CorpusError(f"{table.path}: column {name!r} (text.columns.text) holds {kind}, not text")
        if role == "turns" and not is_list:
            raise CorpusError(f"{table.path}: column {name!r} (text.columns.turns) holds {kind}, not lists")

    def _document(self, source: int, path: Path, row: int, cells: dict[str, Any], taken: Counter[str]) -> Document:
        def value(role: str, read: Callable[[Any], R]) -> R | None:
            name = self._roles.get(role)
            if name is None:
                return None
            try:
                return read(cells[name])
            except CellError as error:
                raise CorpusError(f"{path}: row {row}, column {name!r}: {error} (text.columns.{role})") from None

        content = value("text", bytes_of) or b""
        date, symbol, year = value("date", date_of), value("symbol", name_of), value("year", year_of)
        name = "-".join(part for part in (symbol, date) if part) or f"{source:06d}"
        taken[name] += 1
        listed = value("turns", lambda cell: read_turns(memoryview(content), turns_of(cell)))
        speaker_turns, turns = listed or read_turns(memoryview(content), None)
        return Document(
            source=source,
            start=0,
            end=len(content) if content.strip() else 0,
            digest=hashlib.sha256(content).digest(),
            id=name if taken[name] == 1 else f"{name}-{taken[name]}",
            symbol=symbol,
            company=value("company", name_of),
            sector=value("sector", name_of) or (self.sectors or {}).get(_plain_symbol(symbol)),
            date=date,
            year=int(date[:4]) if year is None and date else year,
            quarter=value("quarter", quarter_of),
            speaker_turns=speaker_turns,
            turns=turns,
        )


def read_sectors(path: Path) -> dict[str, str]:
    """Sector of every symbol from a CSV with a symbol and a sector column; symbols as `_plain_symbol` writes them.

    Raises CorpusError when the file is missing or has no such columns.
    """
    if not path.is_file():
        raise CorpusError(f"{path} is missing; it should hold the sector of every symbol")
    table = open_table(path, "csv")
    symbol = next((name for name in SYMBOL_COLUMNS if name in table.names), None)
    sector = next((name for name in SECTOR_COLUMNS if name in table.names), None)
    if symbol is None or sector is None:
        raise CorpusError(
            f"{path} needs a column {' or '.join(SYMBOL_COLUMNS)} and a column {' or '.join(SECTOR_COLUMNS)}; "
            f"none of its {len(table.names)} columns is one of them"
        )
    found: dict[str, str] = {}
    for key, value in table.rows([symbol, sector], BATCH_BYTES):
        name = name_of(value)
        if name is not None and found.setdefault(_plain_symbol(key), name) != name:
            raise CorpusError(
                f"{path}: {visible(key)} is of sector {found[_plain_symbol(key)]!r} in one row and of {name!r} in "
                "another; keep one"
            )
    return found


def _plain_symbol(symbol: str | None) -> str:
    return (symbol or "").strip().upper().replace("-", ".")
