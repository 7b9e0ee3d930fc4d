"""What a file is written in, and plain UTF-8 made of it: unpacked, decoded, without a byte-order mark.

Stage fetch does this once, so that whatever reads a corpus finds plain files; provenance.json says what was done.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import lzma
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, cast

import pyarrow as pa

from bdh.params import Written
from bdh.project.errors import CorpusError, one_line

BLOCK = 1 << 20
HEAD = 4096
SIGNS = (
    (b"\x1f\x8b", "gzip"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"PAR1", "parquet"),
    (b"PK\x03\x04", "zip"),
    (b"%PDF", "PDF"),
    (b"SQLite format 3", "SQLite"),
    (b"ARROW1", "Arrow"),
)
"""How files of a kind begin."""

MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
PACKED: dict[str, Callable[[Path], BinaryIO]] = {
    "gzip": lambda path: cast(BinaryIO, gzip.open(path)),  # noqa: SIM115
    "bzip2": lambda path: cast(BinaryIO, bz2.open(path)),  # noqa: SIM115
    "xz": lambda path: cast(BinaryIO, lzma.open(path)),  # noqa: SIM115
    "zstd": lambda path: cast(BinaryIO, pa.CompressedInputStream(pa.OSFile(str(path)), "zstd")),
}
SUFFIXES = {".gz", ".zst", ".zstd", ".bz2", ".xz"}
TABLES = {".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
"""Endings of names that are never plain text."""

LF = "line ends made LF"
FOLDER_SUFFIXES = {
    "text": (".txt", ".text", ".md"),
    "jsonl": (".jsonl", ".ndjson", ".json"),
    "csv": (".csv",),
    "parquet": (".parquet", ".pq"),
}
"""Which files of a folder are meant, by `text.format`; a suffix of SUFFIXES may follow."""


def unpacked_name(name: str) -> str:
    """The name of a file once it is unpacked."""
    path = Path(name)
    return str(path.with_suffix("")) if path.suffix.lower() in SUFFIXES and path.stem else name


def is_meant(name: str, form: str) -> bool:
    """Whether a file of a folder belongs to a corpus of the format `form`."""
    return unpacked_name(name).lower().endswith(FOLDER_SUFFIXES[form])


def kind_of(head: bytes) -> str | None:
    """The name of what begins like this (gzip, zip, utf-16, ...), None for what may be UTF-8 text.

    ASCII in UTF-16 without a mark is valid UTF-8; what gives it away is that every second byte is zero.
    """
    for sign, kind in (*SIGNS, *MARKS):
        if head.startswith(sign):
            return kind
    zeros = [head[start::2].count(0) for start in (0, 1)]
    if len(head) >= 8 and max(zeros) > 0.3 * len(head) / 2 and min(zeros) < 0.02 * len(head):
        return "utf-16-be" if zeros[0] > zeros[1] else "utf-16-le"
    return None


def looks_like(data: bytes) -> str:
    """For a message: what text that is no UTF-8 seems to be written in, and what to do."""
    kind = kind_of(data[:HEAD])
    if kind in PACKED or kind in {sign for _, sign in SIGNS}:
        return f"it is {kind}"
    if kind is not None:
        return f"it is {kind.upper()}: set source.encoding: {kind}"
    high = [byte for byte in data if byte >= 0x80]
    name = "cp1252" if any(byte < 0xA0 for byte in high) else "latin-1"
    if high and len(high) < 0.3 * len(data) and not any(byte < 9 for byte in data):
        told = "Windows-1252 (cp1252)" if name == "cp1252" else "Latin-1"
        return f"perhaps it is {told}: set source.encoding: {name}"
    return "cut short or in another encoding: name it in source.encoding"


def make_plain(path: Path, form: str, written: Written, where: str) -> tuple[str, str] | None:
    """Make the file at `path` plain in place; (its name now, what was done), None when it was plain already.

    `where` names the section in messages (`corpus.mine`). Raises CorpusError for what cannot be text of this format:
    the message names what it is and what to set.
    """
    done = []
    name = path.name
    kind = kind_of(_head(path))
    if kind in PACKED:
        _rewrite(path, _unpacked(path, kind))
        done.append(f"unpacked from {kind}")
        name = unpacked_name(name)
        kind = kind_of(_head(path))
    _check_kind(path, name, kind, form, written, where)
    if form == "parquet":
        return (name, ", ".join(done)) if done else None
    encoding, to_lf = codecs.lookup(written.encoding).name, written.newlines == "lf"
    if encoding != "utf-8":
        done.append(f"decoded from {encoding}")
    if encoding != "utf-8" or to_lf or _head(path).startswith(codecs.BOM_UTF8):
        _rewrite(path, _decoded(path, encoding, to_lf, where, done))
    return (name, ", ".join(done)) if done else None


def _check_kind(path: Path, name: str, kind: str | None, form: str, written: Written, where: str) -> None:
    ending = TABLES.get(Path(name).suffix.lower())
    if form == "parquet":
        return
    if kind in {sign for _, sign in SIGNS}:
        remedy = "text.format: parquet reads it" if kind == "parquet" else "take the text out of it"
        raise CorpusError(f"{where}: {path.name} is {kind}, not {form}; {remedy}")
    if form == "text" and ending is not None:
        raise CorpusError(
            f"{where}: {path.name} is {ending} by its name, and text.format: text would make its braces and quotes "
            f"part of the text; set text.format: {ending} and text.columns: {{text: NAME}}"
        )
    if kind is not None and not codecs.lookup(written.encoding).name.startswith(("utf-16", "utf-32")):
        raise CorpusError(
            f"{where}: {path.name} is {kind.upper()}, not {written.encoding}; set {where}.source.encoding: {kind}"
        )


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(HEAD)


def _unpacked(path: Path, kind: str) -> Iterator[bytes]:
    try:
        with PACKED[kind](path) as file:
            while block := file.read(BLOCK):
                yield block
    except (OSError, EOFError, zlib.error, lzma.LZMAError, pa.ArrowException) as error:
        raise CorpusError(f"{path.name} is {kind} and cannot be unpacked ({one_line(error)}); fetch it again") from None


def _decoded(path: Path, encoding: str, to_lf: bool, where: str, done: list[str]) -> Iterator[bytes]:
    """The text in UTF-8; adds to `done` what was changed beside the encoding."""
    decoder = codecs.getincrementaldecoder(encoding)()
    waiting, place = "", 0
    with path.open("rb") as file:
        while True:
            block = file.read(BLOCK)
            try:
                text = decoder.decode(block, not block)
                if place == 0 and text.startswith("\ufeff"):
                    text = text[1:]
                    done.append("byte-order mark removed")
                text, waiting = waiting + text, ""
                if to_lf and text.endswith("\r") and block:
                    text, waiting = text[:-1], "\r"
                if to_lf and "\r" in text:
                    text = re.sub("\r\n?", "\n", text)
                    done += [] if LF in done else [LF]
                yield text.encode("utf-8")
            except UnicodeError as error:
                reason = error.reason if isinstance(error, UnicodeDecodeError) else one_line(error)
                raise CorpusError(
                    f"{where}: {path.name} is not {encoding} in the bytes from {place} on ({reason}): "
                    f"{looks_like(block)}"
                ) from None
            if not block:
                return
            place += len(block)


def _rewrite(path: Path, blocks: Iterator[bytes]) -> None:
    other = path.with_name(f"{path.name}.plain")
    with other.open("wb") as file:
        file.writelines(blocks)
    other.replace(path)
