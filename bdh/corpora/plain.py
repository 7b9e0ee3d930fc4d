"""Documents of a UTF-8 text file, read through a memory map so that its size does not matter."""

from __future__ import annotations

import codecs
import hashlib
import mmap
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from bdh.corpora.documents import Entry, cut
from bdh.errors import CorpusError

BLOCK = 1 << 22


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

    def entries(self) -> Iterator[Entry]:
        """See Reader; documents are numbered, and white space alone is no text."""
        with self.path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            for source, (start, end) in enumerate(self._spans(data)):
                digest = hashlib.sha256()
                blank = True
                for place in range(start, end, BLOCK):
                    block = data[place : min(place + BLOCK, end)]
                    digest.update(block)
                    blank = blank and not block.strip()
                yield Entry(source, start, start if blank else end, digest.digest(), f"{source:06d}")

    def pieces(self, entries: Iterable[Entry]) -> Iterator[tuple[int, str]]:
        """See Reader."""
        with self.path.open("rb") as file:
            for position, entry in enumerate(entries):
                file.seek(entry.start)
                rest = ""
                decoder = codecs.getincrementaldecoder("utf-8")()
                for place in range(entry.start, entry.end, BLOCK):
                    block = file.read(min(BLOCK, entry.end - place))
                    rest += self._decode(decoder, block, place, place + len(block) == entry.end)
                    *whole, rest = [*cut(rest)] or [""]
                    for piece in whole:
                        yield position, piece
                if rest:
                    yield position, rest

    def split_points(self, fractions: list[float]) -> list[int]:
        """Byte offsets at these fractions of the file, moved back to where a character starts."""
        size = self.path.stat().st_size
        points = []
        with self.path.open("rb") as file:
            for fraction in fractions:
                point = int(size * fraction)
                file.seek(point)
                while point > 0 and (file.read(1) or b"a")[0] & 0xC0 == 0x80:
                    point -= 1
                    file.seek(point)
                points.append(point)
        return points

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
