"""What is known of a document before it is tokenized, what a reader of documents offers, and how tables are read."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from bdh.project.errors import CorpusError, one_line

PIECE_CHARACTERS = 1 << 16
LONGEST_PIECE = 1 << 20
FIRST_CUT = re.compile(r"(?<=\S)[ \n]|(?<=[^\W\d_])[。、，！？；：…」』）]")


@dataclass(frozen=True, slots=True)
class Document:
    """One document: its place in the source and what is known of it; `start` and `end` are UTF-8 byte offsets.

    `source` counts the documents of the source from 0, before any is removed. `turns`: who speaks where, packed (see
    `bdh.corpora.speakers`). `part`: it is a piece of the document, cut out by a split.
    """

    source: int
    start: int
    end: int
    digest: bytes
    id: str
    symbol: str | None = None
    company: str | None = None
    sector: str | None = None
    date: str | None = None
    year: int | None = None
    quarter: int | None = None
    speaker_turns: int | None = None
    turns: bytes = b""
    part: bool = False

    @property
    def utf8_bytes(self) -> int:
        """Length of the text in UTF-8 bytes."""
        return self.end - self.start


class DocumentReader(Protocol):
    """A source of documents that is walked twice: once for what is known of them, once for their text."""

    path: Path

    def documents(self) -> Iterator[Document]:
        """Every document of the source in its order, empty and repeated ones included."""
        ...

    def pieces(self, documents: Iterable[Document]) -> Iterator[tuple[int, str]]:
        """Text of `documents`, which stand in the order of the source, in pieces (position in `documents`, text).

        Joined, the pieces of a document are its text; see `cut` for where they end.
        """
        ...


def cut(text: str, size: int = PIECE_CHARACTERS) -> Iterator[str]:
    """Cut `text` into pieces of about `size` characters that tokenize separately as they do together.

    A piece ends before a space or line end that follows a character that is no white space, or where there is none
    before a sign like 。 that follows a letter: no rule of the GPT-2 pre-tokenizer reaches across such a place. Text
    without one stays whole up to LONGEST_PIECE characters and is cut there.
    """
    start = 0
    while len(text) - start > size:
        end = _last_cut(text, start + 1, start + size)
        if end is None and (found := FIRST_CUT.search(text, max(start + size, 1), start + LONGEST_PIECE)):
            end = found.start()
        if end is None and len(text) - start <= LONGEST_PIECE:
            break
        end = start + LONGEST_PIECE if end is None else end
        yield text[start:end]
        start = end
    if start < len(text):
        yield text[start:]


def _is_cut(text: str, place: int) -> bool:
    return text[place] in " \n" and not text[place - 1].isspace()


def _last_cut(text: str, low: int, high: int) -> int | None:
    while high > low:
        high = max(text.rfind(" ", low, high), text.rfind("\n", low, high))
        if high < 0:
            return None
        if _is_cut(text, high):
            return high
    return None


def drop_empty_and_repeated(documents: Iterable[Document], path: Path) -> tuple[list[Document], dict[str, int]]:
    """The documents that have text, each content once, and how many were dropped for either reason.

    Of several documents with one content the earliest stays, by date and then by place in the source.
    Raises CorpusError when none is left.
    """
    whole = list(documents)
    with_text = [document for document in whole if document.end > document.start]
    first: dict[bytes, Document] = {}
    for document in sorted(with_text, key=lambda document: (document.date or "", document.source)):
        first.setdefault(document.digest, document)
    kept = [document for document in with_text if first[document.digest] is document]
    if not kept:
        raise CorpusError(f"{path} holds no text")
    return kept, {"empty": len(whole) - len(with_text), "duplicates": len(with_text) - len(kept)}


def read_table(path: Path, columns: Mapping[str, pa.DataType], remedy: str) -> pa.Table:
    """A parquet file that this project wrote.

    Raises CorpusError naming the file, and what to do (`remedy`), when it is damaged or has other columns.
    """
    try:
        table = pq.read_table(path)
        table.validate(full=True)
        found = dict(zip(table.schema.names, table.schema.types, strict=True))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise CorpusError(f"{path} is damaged ({one_line(error)}); {remedy}") from None
    for name, kind in columns.items():
        if found.get(name) != kind:
            raise CorpusError(f"{path}: column {name!r} should hold {kind}, it holds {found.get(name)}; {remedy}")
    return table
