"""Readers of documents: a UTF-8 text file, or a parquet file with one document per row; their size does not matter.

A text file is searched through a memory map and read in blocks, a parquet file is read in batches of rows.
"""

from __future__ import annotations

import codecs
import csv
import datetime
import hashlib
import mmap
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from bdh.corpora.documents import Document, cut
from bdh.corpora.speakers import read_turns
from bdh.params import Columns
from bdh.project.errors import CorpusError

BLOCK = 1 << 22
BATCH_BYTES = 1 << 22
SYMBOL_COLUMNS = ("symbol", "Symbol")
SECTOR_COLUMNS = ("gics_sector", "GICS Sector", "Sector", "sector")


class PlainReader:
    """A text file: one document, or several with a separator between them that belongs to none.

    `separator` is literal text, `pattern` a regular expression over the file's bytes; at most one is given.
    Raises CorpusError when the file is missing or empty, or (while reading) is not UTF-8.
    """

    def __init__(self, path: Path, separator: str | None = None, pattern: str | None = None) -> None:
        """Check the file and the separator."""
        self.path = path
        if not path.is_file() or not path.stat().st_size:
            raise CorpusError(f"{path} is {'empty' if path.exists() else 'missing'}; it should hold the text")
        expression = pattern if separator is None else re.escape(separator)
        try:
            self._separator = None if expression is None else re.compile(expression.encode("utf-8"))
        except re.error as error:
            raise CorpusError(f"separator pattern {pattern!r} is no regular expression: {error}") from None

    def documents(self) -> Iterator[Document]:
        """See DocumentReader; documents are numbered, and white space alone is no text."""
        with self.path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            for source, (start, end) in enumerate(self._spans(data)):
                digest = hashlib.sha256()
                blank = True
                for place in range(start, end, BLOCK):
                    block = data[place : min(place + BLOCK, end)]
                    digest.update(block)
                    blank = blank and not block.strip()
                yield Document(source, start, start if blank else end, digest.digest(), f"{source:06d}")

    def pieces(self, documents: Iterable[Document]) -> Iterator[tuple[int, str]]:
        """See DocumentReader."""
        with self.path.open("rb") as file:
            for position, document in enumerate(documents):
                file.seek(document.start)
                rest = ""
                decoder = codecs.getincrementaldecoder("utf-8")()
                for place in range(document.start, document.end, BLOCK):
                    block = file.read(min(BLOCK, document.end - place))
                    rest += self._decode(decoder, block, place, place + len(block) == document.end)
                    *whole, rest = [*cut(rest)] or [""]
                    for piece in whole:
                        yield position, piece
                if rest:
                    yield position, rest

    def split_points(self, fractions: list[float]) -> list[int]:
        """Byte offsets at these fractions of the file, moved back to where a character starts."""
        size = self.path.stat().st_size
        return self.character_starts(int(size * fraction) for fraction in fractions)

    def character_starts(self, offsets: Iterable[int]) -> list[int]:
        """Byte offsets of the file, each moved back to where a character starts."""
        starts = []
        with self.path.open("rb") as file:
            for start in offsets:
                file.seek(start)
                while start > 0 and (file.read(1) or b"a")[0] & 0xC0 == 0x80:
                    start -= 1
                    file.seek(start)
                starts.append(start)
        return starts

    def _spans(self, data: mmap.mmap) -> Iterator[tuple[int, int]]:
        start = 0
        if self._separator is not None:
            for match in self._separator.finditer(data):
                yield start, match.start()
                start = match.end()
        yield start, len(data)

    def _decode(self, decoder: codecs.IncrementalDecoder, block: bytes, place: int, final: bool) -> str:
        waiting = len(decoder.getstate()[0])
        try:
            return decoder.decode(block, final)
        except UnicodeDecodeError as error:
            where = place - waiting + error.start
            raise CorpusError(
                f"{self.path} is not UTF-8 at byte {where} ({error.reason}): cut short or in another encoding; "
                "save it as UTF-8"
            ) from None


class TableReader:
    """A parquet file; `columns` says which of its columns hold what, `sectors` maps symbols to sectors.

    Raises CorpusError when the file is missing or cut short, lacks a column, or a date is no date.
    """

    def __init__(self, path: Path, columns: Columns, sectors: dict[str, str] | None = None) -> None:
        """Check the file and its columns."""
        self.path = path
        self.columns = columns
        self.sectors = sectors
        self._schema = self._open().schema_arrow
        self._check_columns()

    def documents(self) -> Iterator[Document]:
        """See DocumentReader; a document's id is its symbol and date where it has them, else its row."""
        taken: Counter[str] = Counter()
        source = 0
        wanted = [name for name in self.columns.model_dump().values() if name is not None]
        for batch in self._batches(wanted):
            data = {role: batch.column(name) for role, name in self._present().items()}
            for row in range(batch.num_rows):
                yield self._document(source, row, data, taken)
                source += 1

    def pieces(self, documents: Iterable[Document]) -> Iterator[tuple[int, str]]:
        """See DocumentReader."""
        waiting = enumerate(documents)
        position, document = next(waiting, (0, None))
        source = 0
        for batch in self._batches([self.columns.text]):
            while document is not None and document.source < source + batch.num_rows:
                text = batch.column(0)[document.source - source].as_py()
                for piece in cut(text):
                    yield position, piece
                position, document = next(waiting, (0, None))
            source += batch.num_rows
            if document is None:
                return

    def _present(self) -> dict[str, str]:
        return {role: name for role, name in self.columns.model_dump().items() if name is not None}

    def _open(self) -> pq.ParquetFile:
        if not self.path.is_file():
            raise CorpusError(f"{self.path} is missing; it should hold the documents")
        try:
            return pq.ParquetFile(self.path, buffer_size=1 << 20, pre_buffer=False)
        except (pa.ArrowException, OSError) as error:
            raise self._damaged(error) from None

    def _damaged(self, error: Exception) -> CorpusError:
        return CorpusError(f"{self.path} is no whole parquet file ({error}); fetch it again")

    def _check_columns(self) -> None:
        for role, name in self._present().items():
            if name not in self._schema.names:
                has = ", ".join(self._schema.names)
                raise CorpusError(f"{self.path} has no column {name!r} (text.columns.{role}); it has: {has}")
            kind = self._schema.field(name).type
            if role == "text" and not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
                raise CorpusError(f"{self.path}: column {name!r} (text.columns.text) holds {kind}, not text")
            if role == "turns" and not (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
                raise CorpusError(f"{self.path}: column {name!r} (text.columns.turns) holds {kind}, not lists")

    def _batches(self, names: list[str]) -> Iterator[pa.RecordBatch]:
        file = self._open()
        size = sum(file.metadata.row_group(i).total_byte_size for i in range(file.metadata.num_row_groups))
        rows = max(1, min(8192, BATCH_BYTES * file.metadata.num_rows // max(size, 1)))
        try:
            for batch in file.iter_batches(batch_size=rows, columns=names, use_threads=False):
                yield batch.select(names)
        except (pa.ArrowException, OSError) as error:
            raise self._damaged(error) from None

    def _document(self, source: int, row: int, data: dict[str, pa.Array], taken: Counter[str]) -> Document:
        def value(role: str) -> Any:
            return data[role][row].as_py() if role in data else None

        buffer = data["text"][row].as_buffer()
        content = memoryview(b"") if buffer is None else memoryview(buffer)
        blank = not content.tobytes().strip()
        date = self._date(source, value("date"))
        symbol = value("symbol")
        name = "-".join(part for part in (symbol, date) if part) or f"{source:06d}"
        taken[name] += 1
        year = value("year")
        speaker_turns, turns = read_turns(content, data["turns"][row] if "turns" in data else None)
        return Document(
            source=source,
            start=0,
            end=0 if blank else len(content),
            digest=hashlib.sha256(content).digest(),
            id=name if taken[name] == 1 else f"{name}-{taken[name]}",
            symbol=symbol,
            company=value("company"),
            sector=value("sector") or (self.sectors or {}).get(_plain_symbol(symbol)),
            date=date,
            year=int(date[:4]) if year is None and date else year,
            quarter=value("quarter"),
            speaker_turns=speaker_turns,
            turns=turns,
        )

    def _date(self, source: int, value: Any) -> str | None:
        if value is None:
            return None
        day = str(value)[:10]
        try:
            return datetime.date.fromisoformat(day).isoformat()
        except ValueError:
            raise CorpusError(
                f"{self.path}: row {source}, column {self.columns.date!r}: {day!r} is no date; its first 10 characters "
                "should be like 2018-12-31"
            ) from None


def read_sectors(path: Path) -> dict[str, str]:
    """Sector of every symbol from a CSV with a symbol and a sector column; symbols as `_plain_symbol` writes them.

    Raises CorpusError when the file is missing or has no such columns.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = csv.DictReader(file)
            names = rows.fieldnames or []
            symbol = next((name for name in SYMBOL_COLUMNS if name in names), None)
            sector = next((name for name in SECTOR_COLUMNS if name in names), None)
            if symbol is None or sector is None:
                raise CorpusError(
                    f"{path} needs a column {' or '.join(SYMBOL_COLUMNS)} and a column {' or '.join(SECTOR_COLUMNS)}; "
                    f"it has: {', '.join(names)}"
                )
            return {_plain_symbol(row[symbol]): row[sector] for row in rows if row[sector]}
    except FileNotFoundError:
        raise CorpusError(f"{path} is missing; it should hold the sector of every symbol") from None
    except UnicodeDecodeError as error:
        raise CorpusError(f"{path} is not UTF-8 ({error.reason})") from None


def _plain_symbol(symbol: str | None) -> str:
    return (symbol or "").strip().upper().replace("-", ".")
