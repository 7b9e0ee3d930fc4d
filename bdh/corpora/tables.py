"""Tables with one document per row - parquet, csv, JSON lines - read row by row, and what may stand in a cell.

A row is a list of plain Python values, the text of a parquet file among them as bytes. What a column may hold is
decided here, cell by cell, for all three alike: years as numbers or text, quarters as "Q1", symbols that are numbers.
"""

from __future__ import annotations

import csv
import datetime
import decimal
import io
import json
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from bdh.corpora.plain import FREE_UNPACKED, MOST_UNPACKED, looks_like
from bdh.project.errors import CorpusError, one_line, visible

QUARTER = re.compile(r"(?:\d{4}\s*-?\s*)?[Qq]?\s*([1-4])(?:\.0)?(?:\s*-?\s*\d{4})?")
YEAR = re.compile(r"\d{1,4}(?:\.0)?")
TURNS = pa.list_(pa.struct({"speaker": pa.string(), "text": pa.string()}))
LONGEST_CELL = 1 << 30
LONGEST_NAME = 1000
FREE_VALUES, MOST_VALUES = 1 << 22, 8
"""How many values a parquet file may have: some at least, and so many for each of its bytes."""

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
        file = self._open([name for name in names if _is_bytes(self.kind(name))])
        self._check_size(file.metadata, set(names))
        size = sum(file.metadata.row_group(i).total_byte_size for i in range(file.metadata.num_row_groups))
        rows = max(1, min(8192, batch_bytes * file.metadata.num_rows // max(size, 1)))
        try:
            for batch in file.iter_batches(batch_size=rows, columns=names, use_threads=False):
                yield from zip(*(_plain(batch.column(name)) for name in names), strict=True)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise self._damaged(error) from None

    def _check_size(self, metadata: pq.FileMetaData, names: set[str]) -> None:
        """Refuse a file that unpacks to far more than text can: repeated values are read once, however many rows."""
        groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
        chunks = [group.column(i) for group in groups for i in range(group.num_columns)]
        wanted = [chunk for chunk in chunks if chunk.path_in_schema.partition(".")[0] in names]
        packed, unpacked = self.path.stat().st_size, sum(chunk.total_uncompressed_size for chunk in wanted)
        values = max(sum(chunk.num_values for chunk in wanted), metadata.num_rows)
        if unpacked > max(FREE_UNPACKED, MOST_UNPACKED * packed) or values > max(FREE_VALUES, MOST_VALUES * packed):
            raise CorpusError(
                f"{self.path}, {packed} bytes, unpacks to {unpacked} bytes in {values} values, as no text does; write "
                "it anew without what repeats, or without compression if that is meant"
            )

    def _open(self, repeated: Sequence[str] = ()) -> pq.ParquetFile:
        """Open it; of the columns `repeated` a value that stands in many rows is held once."""
        try:
            return pq.ParquetFile(self.path, buffer_size=1 << 20, pre_buffer=False, read_dictionary=list(repeated))
        except (pa.ArrowException, OSError) as error:
            raise self._damaged(error) from None

    def _damaged(self, error: Exception) -> CorpusError:
        return CorpusError(f"{self.path} is no whole parquet file ({one_line(error)}); fetch it again")


def _is_bytes(kind: pa.DataType) -> bool:
    kinds = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)
    return any(is_kind(kind) for is_kind in kinds)


def _plain(column: pa.Array) -> list[Any]:
    """Values of a column; text as bytes, for whether it is UTF-8 is asked where its row is known."""
    if pa.types.is_dictionary(column.type):
        values = _plain(column.dictionary)
        return [None if place is None else values[place] for place in column.indices.to_pylist()]
    if pa.types.is_string_view(column.type):
        column = column.cast(pa.binary_view())
    if pa.types.is_string(column.type) or pa.types.is_binary_view(column.type) or pa.types.is_large_string(column.type):
        column = column.cast(pa.large_binary())
    if pa.types.is_timestamp(column.type) and column.type.unit == "ns":
        column = column.cast(pa.timestamp("us", column.type.tz), safe=False)
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        return list(column)
    try:
        values = column.to_pylist()
    except (OverflowError, ValueError):  # a date before the year 1 or after 9999, which Python has not
        return [_python(value) for value in column]
    return [_of_decimal(value) for value in values] if pa.types.is_decimal(column.type) else values


def _python(value: pa.Scalar) -> Any:
    try:
        return value.as_py()
    except (OverflowError, ValueError):
        return value


def _of_decimal(value: decimal.Decimal | None) -> int | float | None:
    """A decimal number without losing digits of a whole one."""
    if value is None:
        return None
    return int(value) if value.is_finite() and value == value.to_integral_value() else float(value)


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
                    raise CorpusError(f"{self.path}: line {number} is no JSON {_why(line, number, error)}") from None
                if not isinstance(row, dict):
                    raise CorpusError(f"{self.path}: line {number} is no JSON object; write one object per line")
                yield number, row


def _why(line: bytes, number: int, error: Exception) -> str:
    """What keeps a line from being a JSON object, and what to do."""
    if isinstance(error, UnicodeDecodeError):
        return f"in UTF-8: {looks_like(line)}, or save it as UTF-8"
    if b"\r" in line.strip():
        return "(its lines end in CR); set source.newlines: lf"
    told = "a list" if number == 1 and line.lstrip().startswith(b"[") else one_line(error)
    return f"({told}); write one object per line"


class Csv:
    """Values under a header, separated by commas, in a .tsv by tabs; an empty cell holds nothing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.sign = "\t" if path.suffix.lower() == ".tsv" else ","
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
            lines = csv.reader(file, delimiter=self.sign, strict=True)
            while True:
                try:
                    yield next(lines)
                except StopIteration:
                    return
                except UnicodeDecodeError as error:
                    raise CorpusError(
                        f"{self.path} is not UTF-8 near row {lines.line_num + 1}: {looks_like(error.object)}, or save "
                        "it as UTF-8"
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
    """A symbol, company or sector; a whole number becomes its digits, an empty text nothing.

    It ends up in tables and on screens: signs that control these are written out, and no white space stands around it.
    """
    if isinstance(value, int | float) and not isinstance(value, bool) and _whole(value) is not None:
        return str(_whole(value))
    if isinstance(value, float) and not math.isnan(value):
        return repr(value)
    name = bytes_of(value)
    if len(name) > LONGEST_NAME:
        raise CellError(f"holds {len(name)} bytes, and a name has at most {LONGEST_NAME}; is it another column?")
    return visible(name.decode("utf-8").strip()) or None


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
        raise CellError(f"{_of_bytes(value)!r} is no year; it should be from 1 to 9999")
    return year


def quarter_of(value: Any) -> int | None:
    """A quarter from 1 to 4, from a number, a text like "Q1" or "2019Q1", or a date."""
    quarter = _number(value, QUARTER, lambda date: (date.month + 2) // 3)
    if quarter is not None and not 1 <= quarter <= 4:
        raise CellError(f"{_of_bytes(value)!r} is no quarter; it should be from 1 to 4, or like Q1")
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


def _of_bytes(value: Any) -> Any:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _told(value: Any) -> str:
    if isinstance(value, pa.Scalar):
        text = str(getattr(value, "value", value))
        return f"{value.type} {text[:20]!r}"
    return f"{type(value).__name__} {str(value)[:20]!r}"
