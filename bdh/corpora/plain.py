"""What a file is written in, and plain UTF-8 made of it: unpacked, decoded, without a byte-order mark.

Stage fetch does this once, so that whatever reads a corpus finds plain files; provenance.json says what was done.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import json
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
    (b"7z\xbc\xaf\x27\x1c", "7z"),
    (b"Rar!\x1a\x07", "rar"),
    (b"\x04\x22\x4d\x18", "lz4"),
    (b"\x5d\x00\x00", "lzma"),
    (b"\x1f\x9d", "compress"),
    (b"{\\rtf", "RTF"),
    (b"\xd0\xcf\x11\xe0", "an old Office file"),
    (b"\x89PNG", "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x93NUMPY", "NumPy"),
    (b"\x7fELF", "a program"),
)
"""How files of a kind begin."""

TAR_SIGN, TAR_PLACE = b"ustar", 257

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
NO_TEXT = {kind for _, kind in SIGNS} | {"tar"}
SUFFIXES = {".gz", ".zst", ".zstd", ".bz2", ".xz"}
MOST_UNPACKED = 200
"""How many times its size a packed text may have: text rarely reaches 20, gzip can make 1000 of one."""

FREE_UNPACKED = 1 << 26
TABLES = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".parquet": "parquet", ".csv": "csv", ".tsv": "csv"}
"""Endings of names that are never plain text."""

LF = "line ends made LF"
FOLDER_SUFFIXES = {
    "text": (".txt", ".text", ".md"),
    "jsonl": (".jsonl", ".ndjson", ".json"),
    "csv": (".csv", ".tsv"),
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
    if head.startswith(TAR_SIGN, TAR_PLACE):
        return "tar"
    fourths = [head[start::4].count(0) for start in range(4)]
    if len(head) >= 16 and sum(count > 0.9 * len(head) / 4 - 1 for count in fourths) == 3:
        return "utf-32-be" if fourths[0] > fourths[3] else "utf-32-le"
    zeros = [head[start::2].count(0) for start in (0, 1)]
    if len(head) >= 8 and max(zeros) > 0.3 * len(head) / 2 and min(zeros) < 0.02 * len(head):
        return "utf-16-be" if zeros[0] > zeros[1] else "utf-16-le"
    return None


def looks_like(data: bytes) -> str:
    """For a message: what text that is no UTF-8 seems to be written in, and what to do."""
    kind = kind_of(data[:HEAD])
    if kind in NO_TEXT:
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
        _rewrite(path, _unpacked(path, kind, where))
        done.append(f"unpacked from {kind}")
        name = unpacked_name(name)
        kind = kind_of(_head(path))
    _check_kind(path, name, kind, form, written, where)
    if form == "parquet":
        return (name, ", ".join(done)) if done else None
    if form == "text":
        _check_no_json(path, written, where)
    encoding, to_lf = codecs.lookup(written.encoding).name, written.newlines == "lf"
    if encoding != "utf-8":
        done.append(f"decoded from {encoding}")
    if encoding != "utf-8" or to_lf or _head(path).startswith(codecs.BOM_UTF8):
        _rewrite(path, _decoded(path, encoding, to_lf, where, done))
    _check_no_zero(path, where)
    return (name, ", ".join(done)) if done else None


def _check_kind(path: Path, name: str, kind: str | None, form: str, written: Written, where: str) -> None:
    ending = TABLES.get(Path(name).suffix.lower())
    if form == "parquet":
        if kind != "parquet" and ending not in (None, "parquet"):
            raise CorpusError(f"{where}: {path.name} is no parquet but {ending} by its name; set text.format: {ending}")
        return
    if kind in NO_TEXT:
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


def _check_no_json(path: Path, written: Written, where: str) -> None:
    """JSON lines may hide behind any name: a first line that is an object whole is not meant as text."""
    with path.open("rb") as file:
        head = file.read(BLOCK)
    line = head.decode(written.encoding, "replace").lstrip("\ufeff \r\n\t").partition("\n")[0]
    try:
        found = json.loads(line) if line.startswith("{") else None
    except (ValueError, RecursionError):
        return
    if isinstance(found, dict) and found:
        raise CorpusError(
            f"{where}: {path.name} holds JSON lines, and text.format: text would make their braces and quotes part of "
            f"the text; set text.format: jsonl and text.columns: {{text: NAME}}; its first line has: {', '.join(found)}"
        )


def _check_no_zero(path: Path, where: str) -> None:
    """No text has a zero byte: binary data that happens to be UTF-8 has."""
    with path.open("rb") as file:
        place = 0
        while block := file.read(BLOCK):
            if (found := block.find(0)) >= 0:
                raise CorpusError(
                    f"{where}: {path.name} holds a zero byte, at byte {place + found} of its UTF-8, and no text has "
                    "one: it is binary, or in another encoding (source.encoding); take the zero bytes out of it"
                )
            place += len(block)


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(HEAD)


def _unpacked(path: Path, kind: str, where: str) -> Iterator[bytes]:
    """The content of a packed file; what unpacks to far more than text can is refused before it fills the disk."""
    size, packed = 0, path.stat().st_size
    most = max(FREE_UNPACKED, MOST_UNPACKED * packed)
    try:
        with PACKED[kind](path) as file:
            while block := file.read(BLOCK):
                size += len(block)
                if size > most:
                    raise CorpusError(
                        f"{where}: {path.name}, {packed} bytes of {kind}, unpacks to more than {most} bytes, as no "
                        "text does; unpack it yourself if that is meant"
                    )
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
                    text = text.lstrip("\ufeff")
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
