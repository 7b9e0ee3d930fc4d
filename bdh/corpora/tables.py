"""Tables with one document per row - parquet, csv, JSON lines - read row by row, and what may stand in a cell.

A row is a list of plain Python values, the text of a parquet file among them as bytes. What a column may hold is
decided here, cell by cell, for all three alike: years as numbers or text, quarters as "Q1", symbols that are numbers.
"""

from __future__ import annotations

import csv
import datetime
import io
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from bdh.project.errors import CorpusError, one_line

QUARTER = re.compile(r"(?:\d{4}\s*-?\s*)?[Qq]?\s*([1-4])(?:\.0)?(?:\s*-?\s*\d{4})?")
YEAR = re.compile(r"\d{1,4}(?:\.0)?")
TURNS = pa.list_(pa.struct({"speaker": pa.string(), "text": pa.string()}))
LONGEST_CELL = 1 << 30
csv.field_size_limit(LONGEST_CELL)


class CellError(Exception):
    """What is wrong with a cell; the reader adds where it stands."""


class TextTable(Protocol):
    """A file of rows."""

    path: Path
    names: list[str]

    def rows(self, names: list[str], batch_bytes: int) -> Iterator[list[Any]]:
        """The values of the columns `names`, row by row; about `batch_bytes` are held at a time."""
        ...


def open_table(path: Path, form: str) -> TextTable:
    """The table at `path`, a file of the format `form`; raises CorpusError when it is missing or is none."""
    if not path.is_file():
        raise CorpusError(f"{path} is missing; it should hold the documents")
    if form == "parquet":
        return Parquet(path)
    return JsonLines(path) if form == "jsonl" else Csv(path)


class Parquet:
    """A parquet file, read in batches of rows."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.schema = self._open().schema_arrow
            self.names = list(self.schema.names)
        except ValueError as error:
            raise self._damaged(error) from None

    def kind(self, name: str) -> pa.DataType:
        """Type of a column, that of the values where it is dictionary-encoded."""
        kind = self.schema.field(name).type
        return kind.value_type if pa.types.is_dictionary(kind) else kind

    def rows(self, names: list[str], batch_bytes: int) -> Iterator[list[Any]]:
        """See TextTable."""
        file = self._open()
        size = sum(file.metadata.row_group(i).total_byte_size for i in range(file.metadata.num_row_groups))
        rows = max(1, min(8192, batch_bytes * file.metadata.num_rows // max(size, 1)))
        try:
            for batch in file.iter_batches(batch_size=rows, columns=names, use_threads=False):
                yield from zip(*(_plain(batch.column(name)) for name in names), strict=True)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise self._damaged(error) from None

    def _open(self) -> pq.ParquetFile:
        try:
            return pq.ParquetFile(self.path, buffer_size=1 << 20, pre_buffer=False)
        except (pa.ArrowException, OSError) as error:
            raise self._damaged(error) from None

    def _damaged(self, error: Exception) -> CorpusError:
        return CorpusError(f"{self.path} is no whole parquet file ({one_line(error)}); fetch it again")


def _plain(column: pa.Array) -> list[Any]:
    """Values of a column; text as bytes, for whether it is UTF-8 is asked where its row is known."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_string_view(column.type):
        column = column.cast(pa.binary_view())
    if pa.types.is_string(column.type) or pa.types.is_binary_view(column.type) or pa.types.is_large_string(column.type):
        column = column.cast(pa.large_binary())
    if pa.types.is_decimal(column.type):
        column = column.cast(pa.float64())
    if pa.types.is_timestamp(column.type) and column.type.unit == "ns":
        column = column.cast(pa.timestamp("us", column.type.tz), safe=False)
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        return list(column)
    return column.to_pylist()


class JsonLines:
    """One JSON object per line; blank lines are passed over. The names are those of the first object."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.names = list(next((row for _, row in self._objects()), {}))

    def rows(self, names: list[str], batch_bytes: int) -> Iterator[list[Any]]:
        """See TextTable."""
        for number, row in self._objects():
            if names[0] not in row:
                there = ", ".join(row) or "nothing"
                raise CorpusError(f"{self.path}: line {number} has no {names[0]!r}; it has: {there}")
            yield [row.get(name) for name in names]

    def _objects(self) -> Iterator[tuple[int, dict[str, Any]]]:
        with self.path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError) as error:
                    told = "a list" if number == 1 and line.lstrip().startswith(b"[") else one_line(error)
                    raise CorpusError(
                        f"{self.path}: line {number} is no JSON ({told}); write one object per line"
                    ) from None
                if not isinstance(row, dict):
                    raise CorpusError(f"{self.path}: line {number} is no JSON object; write one object per line")
                yield number, row


class Csv:
    """Comma-separated values under a header; an empty cell holds nothing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.names = next(self._lines(), [])

    def rows(self, names: list[str], batch_bytes: int) -> Iterator[list[Any]]:
        """See TextTable."""
        places = [self.names.index(name) for name in names]
        lines = self._lines()
        next(lines, None)
        for number, line in enumerate(lines, 2):
            if not line:
                continue
            if len(line) != len(self.names):
                raise CorpusError(
                    f"{self.path}: row {number} has {len(line)} cells under a header of {len(self.names)}; a text with "
                    "commas or line ends needs quotation marks"
                )
            yield [line[place] for place in places]

    def _lines(self) -> Iterator[list[str]]:
        with self.path.open("rb") as raw, io.TextIOWrapper(raw, encoding="utf-8-sig", newline="") as file:
            lines = csv.reader(file, strict=True)
            while True:
                try:
                    yield next(lines)
                except StopIteration:
                    return
                except UnicodeDecodeError as error:
                    raise CorpusError(
                        f"{self.path} is not UTF-8 near row {lines.line_num + 1} ({error.reason}); name what it is "
                        "written in: source.encoding"
                    ) from None
                except csv.Error as error:
                    raise CorpusError(f"{self.path}: row {lines.line_num} is no CSV ({one_line(error)})") from None


def bytes_of(value: Any) -> bytes:
    """A text in UTF-8; nothing where there is none. Raises CellError for anything else."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return b""
    if isinstance(value, bytes):
        try:
            value.decode("utf-8")
        except UnicodeDecodeError as error:
            raise CellError(f"is not UTF-8 at its byte {error.start} ({error.reason}); write it as UTF-8") from None
        return value
    if not isinstance(value, str):
        raise CellError(f"holds {_told(value)}, not text")
    try:
        return value.encode("utf-8")
    except UnicodeEncodeError:
        raise CellError("holds half a surrogate pair, which is no text; mend its escapes") from None


def turns_of(value: Any) -> pa.Scalar:
    """A list of speaker turns as `bdh.corpora.speakers.read_turns` takes it. Raises CellError for anything else."""
    if isinstance(value, pa.Scalar):
        return value
    if value is not None and not isinstance(value, list):
        raise CellError(f"holds {_told(value)}, not a list of turns")
    try:
        return pa.scalar(value, TURNS)
    except (pa.ArrowException, TypeError, UnicodeError) as error:
        raise CellError(f"holds no list of {{speaker, text}} ({one_line(error)})") from None


def name_of(value: Any) -> str | None:
    """A symbol, company or sector; a whole number becomes its digits, an empty text nothing."""
    if isinstance(value, int | float) and not isinstance(value, bool) and _whole(value) is not None:
        return str(_whole(value))
    if isinstance(value, float) and not math.isnan(value):
        return repr(value)
    return bytes_of(value).decode("utf-8") or None


def date_of(value: Any) -> str | None:
    """A day like 2018-12-31, from a date, a time, or a text whose first 10 characters are one."""
    if isinstance(value, datetime.date):
        return value.isoformat()[:10]
    if isinstance(value, int | float) and not (isinstance(value, float) and math.isnan(value)):
        raise CellError(f"{value!r} is no date; write it like 2018-12-31")
    day = bytes_of(value).decode("utf-8").strip()[:10]
    if not day:
        return None
    try:
        return datetime.date.fromisoformat(day).isoformat()
    except ValueError:
        raise CellError(f"{day!r} is no date; its first 10 characters should be like 2018-12-31") from None


def year_of(value: Any) -> int | None:
    """A year from 1 to 9999, from a number, a text of digits, or a date."""
    year = _number(value, YEAR, lambda date: date.year)
    if year is not None and not 1 <= year <= 9999:
        raise CellError(f"{value!r} is no year; it should be from 1 to 9999")
    return year


def quarter_of(value: Any) -> int | None:
    """A quarter from 1 to 4, from a number, a text like "Q1" or "2019Q1", or a date."""
    quarter = _number(value, QUARTER, lambda date: (date.month + 2) // 3)
    if quarter is not None and not 1 <= quarter <= 4:
        raise CellError(f"{value!r} is no quarter; it should be from 1 to 4, or like Q1")
    return quarter


def _number(value: Any, pattern: re.Pattern[str], of_date: Any) -> int | None:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, datetime.date):
        return of_date(value)
    if isinstance(value, int | float) and not isinstance(value, bool) and _whole(value) is not None:
        return _whole(value)
    if isinstance(value, str | bytes):
        text = bytes_of(value).decode("utf-8").strip()
        if not text:
            return None
        if (match := pattern.fullmatch(text)) is not None:
            return int(float(match[1] if match.lastindex else match[0]))
        day = _day(text)
        if day is not None:
            return of_date(day)
        raise CellError(f"{text[:20]!r} is neither a number nor a date")
    raise CellError(f"holds {_told(value)}, not a number")


def _day(text: str) -> datetime.date | None:
    try:
        return datetime.date.fromisoformat(text[:10])
    except ValueError:
        return None


def _whole(value: float) -> int | None:
    """A number without a fraction as a whole one, None for any other."""
    try:
        return int(value) if int(value) == value else None
    except (ValueError, OverflowError):
        return None


def _told(value: Any) -> str:
    return f"{type(value).__name__} {str(value)[:20]!r}"
