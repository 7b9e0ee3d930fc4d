"""From the fetched files of a corpus to data/tokens/<corpus>: documents, splits, tokens, tables, statistics.

Token shards of a corpus: text streams in, memory-mapped arrays and the table of documents come out.

documents.parquet, speakers.parquet and labels.parquet of a tokenized corpus; equal input gives equal bytes.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bdh.corpora import splits
from bdh.corpora.documents import Entry, Reader, drop_empty_and_repeated
from bdh.corpora.planted import LABEL_COLUMNS, Span, read_floors, read_spans, token_spans
from bdh.corpora.progress import bytes_progress
from bdh.corpora.provenance import Provenance
from bdh.corpora.readers import PlainReader, TableReader, read_sectors
from bdh.corpora.speakers import spans_of
from bdh.corpora.splits import Splits
from bdh.corpora.statistics import digest_of, statistics_of
from bdh.corpora.tokenizer import BytePairs, Bytes, Characters, Tokenizer
from bdh.corpora.tokens import DOCUMENTS, LABELS, SPEAKERS, STATS
from bdh.params import BpeTokenizer, ByteTokenizer, CharacterTokenizer, Corpus, PlainText, SeparatorPattern, SplitByDate
from bdh.params import Tokenizer as TokenizerParams
from bdh.project.errors import CorpusError
from bdh.project.files import write_json


def tokenize_corpus(name: str, corpus: Corpus, raw: Path, out: Path) -> dict[str, Any]:
    """Tokenize the corpus in folder `raw` into folder `out`, which is replaced as a whole; returns its statistics.

    The result depends on the bytes in `raw` and on the parameters alone. Raises CorpusError when the files are
    missing, damaged or do not fit the parameters.
    """
    provenance = Provenance.read(raw)
    provenance.check(raw)
    reader = reader_of(corpus, raw, raw / provenance.text)
    chosen, other_sectors = _of_sectors(reader.entries(), corpus)
    entries, dropped = drop_empty_and_repeated(chosen, reader.path)
    parts = _split(name, corpus, reader, entries)
    tokenizer = _tokenizer(corpus.tokenizer, reader, parts["train"], len(entries) > 1, raw)
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        tokenizer.save(partial)
        spans = write_shards(reader, parts, tokenizer, partial, name)
        write_tables(raw, partial, parts, spans, tokenizer)
        stats = {
            "name": name,
            "digest": digest_of(partial),
            "tokenizer": tokenizer.description(),
            **statistics_of(partial, parts, spans, tokenizer),
            "removed": dropped | {"other_sectors": other_sectors},
            "provenance": provenance.origins(),
        }
        write_json(partial / STATS, stats)
        shutil.rmtree(out, ignore_errors=True)
        partial.rename(out)
        _say_removed(name, stats["removed"])
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return stats


def _say_removed(name: str, removed: dict[str, int]) -> None:
    parts = [f"{count} {why.replace('_', ' ')}" for why, count in removed.items() if count]
    if parts:
        sys.stderr.write(f"{name}: documents left out: {', '.join(parts)}\n")


def reader_of(corpus: Corpus, raw: Path, path: Path) -> Reader:
    """The reader for the corpus' text at `path`; a table of sectors lies in folder `raw`."""
    text = corpus.text
    if isinstance(text, PlainText):
        if isinstance(text.separator, SeparatorPattern):
            return PlainReader(path, pattern=text.separator.pattern)
        return PlainReader(path, separator=text.separator)
    return TableReader(path, text.columns, None if text.sectors is None else read_sectors(raw / text.sectors))


def _of_sectors(entries: Iterator[Entry], corpus: Corpus) -> tuple[list[Entry], int]:
    every = list(entries)
    keep = [] if isinstance(corpus.text, PlainText) else corpus.text.keep_sectors
    if not keep:
        return every, 0
    known = sorted({entry.sector for entry in every if entry.sector})
    for sector in keep:
        if sector not in known:
            there = ", ".join(known) or "none"
            raise CorpusError(f"text.keep_sectors: no document is of sector {sector!r}; there are: {there}")
    kept = [entry for entry in every if entry.sector in keep]
    return kept, len(every) - len(kept)


def _split(name: str, corpus: Corpus, reader: Reader, entries: list[Entry]) -> splits.Splits:
    split = corpus.text.split
    if isinstance(split, SplitByDate):
        return splits.by_date(entries, split, name)
    return splits.by_position(entries, split, name, reader)


def _tokenizer(params: TokenizerParams, reader: Reader, train: list[Entry], several: bool, raw: Path) -> Tokenizer:
    if isinstance(params, ByteTokenizer):
        return Bytes(several)
    in_order = sorted(train, key=lambda entry: entry.source)
    texts = (text for _, text in reader.pieces(in_order))
    if isinstance(params, CharacterTokenizer):
        return Characters("".join(sorted(set(chain.from_iterable(map(set, texts))))), several)
    if isinstance(params, BpeTokenizer):
        return BytePairs.train(texts, params.vocab_size)
    return BytePairs.gpt2(raw / Path(params.vocab.path).name, raw / Path(params.merges.path).name)


BATCH_CHARACTERS = 1 << 22
Group = list[tuple[int, str]]
Places = list[tuple[int, int]]


def write_shards(reader: Reader, splits: Splits, tokenizer: Tokenizer, folder: Path, name: str) -> dict[str, Places]:
    """Tokenize every document and write `<split>.bin`; returns the token span of each document by split.

    A document is encoded on its own, so a span's tokens depend on no other document; the end of text follows it
    where the tokenizer has one, outside the span. Peak memory does not grow with the corpus.
    """
    order = sorted(chain.from_iterable(splits.values()), key=lambda entry: (entry.source, entry.start))
    unordered = folder / "unordered.part"
    with unordered.open("wb") as file:
        lengths = _encode(reader, order, tokenizer, file.write, f"tokenize {name}")
    ends = np.cumsum(lengths)
    place = {id(entry): (int(end - length), int(end)) for entry, end, length in zip(order, ends, lengths, strict=True)}
    with unordered.open("rb") as file:
        spans = {
            split: _write_split(folder / f"{split}.bin", file, [place[id(e)] for e in entries], tokenizer)
            for split, entries in splits.items()
        }
    unordered.unlink()
    return spans


def _encode(
    reader: Reader, order: list[Entry], tokenizer: Tokenizer, write: Callable[[bytes], int], what: str
) -> np.ndarray:
    """Encode `order` and write its tokens; reading goes on in a thread while the cores encode."""
    lengths = np.zeros(len(order), dtype=np.int64)
    total = sum(entry.utf8_bytes for entry in order)
    with bytes_progress(what, total) as advance, ThreadPoolExecutor(1) as pool:
        groups = _groups(reader.pieces(order), BATCH_CHARACTERS)
        coming = pool.submit(next, groups, None)
        while (group := coming.result()) is not None:
            coming = pool.submit(next, groups, None)
            for (position, _), ids in zip(group, tokenizer.encode_many([text for _, text in group]), strict=True):
                lengths[position] += len(ids)
                write(ids.tobytes())
            advance(sum(len(text) for _, text in group))
    return lengths


def _groups(pieces: Iterable[tuple[int, str]], characters: int) -> Iterator[Group]:
    group: Group = []
    size = 0
    for position, text in pieces:
        group.append((position, text))
        size += len(text)
        if size >= characters:
            yield group
            group, size = [], 0
    if group:
        yield group


def _write_split(path: Path, tokens: BinaryIO, places: Places, tokenizer: Tokenizer) -> Places:
    """Copy documents from `places` of the file `tokens`; plain reads, so that no mapped page counts as memory."""
    size = tokenizer.dtype.itemsize
    end = b"" if tokenizer.end_of_text is None else tokenizer.dtype.type(tokenizer.end_of_text).tobytes()
    spans: Places = []
    place = 0
    with path.open("wb") as file:
        for first, last in places:
            tokens.seek(first * size)
            file.write(tokens.read((last - first) * size))
            file.write(end)
            spans.append((place, place + last - first))
            place += last - first + bool(end)
        file.flush()
        os.fsync(file.fileno())
    return spans


Spans = dict[str, list[tuple[int, int]]]
KNOWN = {
    "id": pa.string(),
    "symbol": pa.string(),
    "company": pa.string(),
    "sector": pa.string(),
    "date": pa.string(),
    "year": pa.int32(),
    "quarter": pa.int32(),
    "speaker_turns": pa.int32(),
    "utf8_bytes": pa.int64(),
}
SPEAKER_COLUMNS = {"role" if name == "concept" else name: kind for name, kind in LABEL_COLUMNS.items()}
CLASS = "class_"
ROWS_AT_ONCE = 1 << 16


def write_tables(raw: Path, out: Path, parts: Splits, spans: Spans, tokenizer: Tokenizer) -> None:
    """Write the table of documents, and of planted concepts where `raw` has them, into `out`."""
    rows = [(split, entry) for split, entries in parts.items() for entry in entries]
    places = [place for split in parts for place in spans[split]]
    floors = read_floors(raw)
    known = {name: pa.array([getattr(entry, name) for _, entry in rows], kind) for name, kind in KNOWN.items()}
    columns = {
        "id": known.pop("id"),
        "split": pa.array([split for split, _ in rows], pa.string()),
        **known,
        "token_start": pa.array([start for start, _ in places], pa.int64()),
        "token_end": pa.array([end for _, end in places], pa.int64()),
        "floor_nats": pa.array([None if floors is None else floors[entry.source] for _, entry in rows], pa.float64()),
    }
    pq.write_table(pa.table(columns), out / DOCUMENTS)
    labels = read_spans(raw)
    documents = list(zip(rows, places, strict=True))
    speakers = [_speakers(entry, (labels or {}).get(entry.source, [])) for _, entry in rows]
    if any(speakers):
        _write_spans(out / SPEAKERS, out, documents, speakers, tokenizer, SPEAKER_COLUMNS)
    if labels is not None:
        planted = [labels.get(entry.source, []) for _, entry in rows]
        _write_spans(out / LABELS, out, documents, planted, tokenizer, LABEL_COLUMNS)


def _speakers(entry: Entry, planted: list[Span]) -> list[Span]:
    """Who speaks where: the turns that the source tells, else the planted classes of speakers."""
    if entry.turns:
        return spans_of(entry.turns)
    return [Span(p.concept.removeprefix(CLASS), p.start, p.end) for p in planted if p.concept.startswith(CLASS)]


def _write_spans(
    path: Path,
    out: Path,
    documents: list[tuple[tuple[str, Entry], tuple[int, int]]],
    spans: list[list[Span]],
    tokenizer: Tokenizer,
    columns: dict[str, pa.DataType],
) -> None:
    """Write byte spans of every document as token spans of its split's array, some thousand rows at a time."""
    schema = pa.schema(columns)
    found: list[tuple[int, str, str, int, int]] = []
    with pq.ParquetWriter(path, schema) as writer:
        for document, ((split, _), (start, end)) in enumerate(documents):
            if spans[document]:
                ids = np.memmap(out / f"{split}.bin", dtype=tokenizer.dtype, mode="r")[start:end]
                for name, first, last in token_spans(spans[document], ids, tokenizer):
                    found.append((document, split, name, start + first, start + last))
            if found and (len(found) >= ROWS_AT_ONCE or document == len(documents) - 1):
                arrays = zip(columns.values(), zip(*found, strict=True), strict=True)
                writer.write_table(pa.Table.from_arrays([pa.array(c, kind) for kind, c in arrays], schema=schema))
                found = []
