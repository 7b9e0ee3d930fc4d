"""From the fetched files of a corpus to data/tokens/<corpus>: documents, splits, token shards, tables, statistics.

Text streams in, memory-mapped arrays and tables come out; equal input gives equal bytes.
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

from bdh.corpora import splits, tokens
from bdh.corpora.documents import Document, DocumentReader, drop_empty_and_repeated
from bdh.corpora.planted import PlantedSpan, read_floors, read_spans, token_spans
from bdh.corpora.progress import bytes_progress, waiting
from bdh.corpora.provenance import Provenance
from bdh.corpora.readers import PlainReader, TableReader, read_sectors
from bdh.corpora.speakers import spans_of
from bdh.corpora.splits import Splits
from bdh.corpora.statistics import digest_of, statistics_of
from bdh.corpora.tokenizer import BytePairs, Bytes, Characters, Tokenizer
from bdh.params import (
    BpeTokenizer,
    ByteTokenizer,
    CharacterTokenizer,
    Corpus,
    GeneratedSource,
    PlainText,
    SeparatorPattern,
    SplitByBlocks,
    SplitByDate,
    SplitByHash,
)
from bdh.params import Tokenizer as TokenizerParams
from bdh.project.errors import CorpusError
from bdh.project.files import write_json

BATCH_CHARACTERS = 1 << 22
ROWS_AT_ONCE = 1 << 16
CLASS = "class_"
Group = list[tuple[int, str]]
Places = list[tuple[int, int]]


def tokenize_corpus(name: str, corpus: Corpus, raw: Path, out: Path) -> dict[str, Any]:
    """Tokenize the corpus in folder `raw` into folder `out`, which is replaced as a whole; returns its statistics.

    The result depends on the bytes in `raw` and on the parameters alone. Raises CorpusError when the files are
    missing, damaged or do not fit the parameters.
    """
    provenance = Provenance.read(raw)
    provenance.check(raw)
    reader = reader_of(corpus, raw, [raw / text for text in provenance.documents()])
    chosen, other_sectors = _of_sectors(reader.documents(), corpus)
    documents, dropped = drop_empty_and_repeated(chosen, reader.path)
    parts = _split(name, corpus, reader, documents)
    tokenizer = _tokenizer(corpus.tokenizer, reader, parts["train"], len(documents) > 1, raw, name)
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        tokenizer.save(partial)
        spans = write_shards(reader, parts, tokenizer, partial, name)
        for split, places in spans.items():
            if all(end - start < 2 for start, end in places):
                raise CorpusError(
                    f"corpus {name}: split {split} has nothing to predict, its documents have no second token; take "
                    "more text or move the split"
                )
        write_tables(raw, partial, parts, spans, tokenizer)
        stats = {
            "name": name,
            "digest": digest_of(partial),
            "tokenizer": tokenizer.description(),
            **statistics_of(partial, parts, spans, tokenizer),
            "removed": dropped | {"other_sectors": other_sectors},
            "provenance": provenance.origins(),
        }
        write_json(partial / tokens.STATS, stats)
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


def reader_of(corpus: Corpus, raw: Path, paths: list[Path]) -> DocumentReader:
    """The reader for the corpus' text in the files `paths`; a table of sectors lies in folder `raw`."""
    text = corpus.text
    if isinstance(text, PlainText):
        own = not isinstance(corpus.source, GeneratedSource)
        if isinstance(text.separator, SeparatorPattern):
            return PlainReader(paths, pattern=text.separator.pattern, must_match=own)
        return PlainReader(paths, separator=text.separator, must_match=own)
    sectors = None if text.sectors is None else read_sectors(raw / text.sectors)
    return TableReader(paths, text.columns, sectors, text.format)


def _of_sectors(documents: Iterator[Document], corpus: Corpus) -> tuple[list[Document], int]:
    every = list(documents)
    keep = [] if isinstance(corpus.text, PlainText) else corpus.text.keep_sectors
    if not keep:
        return every, 0
    known = sorted({document.sector for document in every if document.sector})
    for sector in keep:
        if sector not in known:
            there = ", ".join(known) or "none"
            raise CorpusError(f"text.keep_sectors: no document is of sector {sector!r}; there are: {there}")
    kept = [document for document in every if document.sector in keep]
    return kept, len(every) - len(kept)


def _split(name: str, corpus: Corpus, reader: DocumentReader, documents: list[Document]) -> Splits:
    split = corpus.text.split
    if isinstance(split, SplitByDate):
        return splits.by_date(documents, split, name)
    if isinstance(split, SplitByHash):
        return splits.by_hash(documents, split, name)
    if isinstance(split, SplitByBlocks):
        return splits.by_blocks(documents, split, name, reader)
    return splits.by_position(documents, split, name, reader)


def _tokenizer(
    params: TokenizerParams, reader: DocumentReader, train: list[Document], several: bool, raw: Path, name: str
) -> Tokenizer:
    if isinstance(params, ByteTokenizer):
        return Bytes(several)
    in_order = sorted(train, key=lambda document: document.source)
    texts = (text for _, text in reader.pieces(in_order))
    if isinstance(params, CharacterTokenizer):
        return Characters("".join(sorted(set(chain.from_iterable(map(set, texts))))), several)
    if isinstance(params, BpeTokenizer):
        return _learned(params.vocab_size, texts, sum(document.utf8_bytes for document in in_order), name)
    return BytePairs.gpt2(raw / Path(params.vocab.path).name, raw / Path(params.merges.path).name)


def _learned(vocab_size: int, texts: Iterator[str], size: int, name: str) -> BytePairs:
    """The trained tokenizer; it shows its progress, and says when the text has not enough for the vocabulary."""
    with bytes_progress(f"read {name} for its tokenizer", size) as advance:

        def told() -> Iterator[str]:
            for text in texts:
                yield text
                advance(len(text.encode("utf-8")))

        with waiting(f"{name}: learning a vocabulary of {vocab_size} from {size / 1e6:.1f} MB"):
            tokenizer = BytePairs.train(told(), vocab_size)
    if tokenizer.vocab_size < vocab_size:
        sys.stderr.write(
            f"{name}: tokenizer.vocab_size {vocab_size} was asked for, the training text gives {tokenizer.vocab_size}\n"
        )
    return tokenizer


def write_shards(
    reader: DocumentReader, parts: Splits, tokenizer: Tokenizer, folder: Path, name: str
) -> dict[str, Places]:
    """Tokenize every document and write `<split>.bin`; returns the token span of each document by split.

    A document is encoded on its own, so a span's tokens depend on no other document; the end of text follows it
    where the tokenizer has one, outside the span. Peak memory does not grow with the corpus.
    """
    order = sorted(chain.from_iterable(parts.values()), key=lambda document: (document.source, document.start))
    unordered = folder / "unordered.part"
    with unordered.open("wb") as file:
        lengths = _encode(reader, order, tokenizer, file.write, f"tokenize {name}")
    ends = np.cumsum(lengths)
    place = {
        id(document): (int(end - length), int(end)) for document, end, length in zip(order, ends, lengths, strict=True)
    }
    with unordered.open("rb") as file:
        spans = {
            split: _write_split(folder / f"{split}.bin", file, [place[id(e)] for e in documents], tokenizer)
            for split, documents in parts.items()
        }
    unordered.unlink()
    return spans


def _encode(
    reader: DocumentReader, order: list[Document], tokenizer: Tokenizer, write: Callable[[bytes], int], what: str
) -> np.ndarray:
    """Encode `order` and write its tokens; reading goes on in a thread while the cores encode."""
    lengths = np.zeros(len(order), dtype=np.int64)
    total = sum(document.utf8_bytes for document in order)
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


def _write_split(path: Path, source: BinaryIO, places: Places, tokenizer: Tokenizer) -> Places:
    """Copy documents from `places` of the file `source`; plain reads, so that no mapped page counts as memory."""
    size = tokenizer.dtype.itemsize
    end = b"" if tokenizer.end_of_text is None else tokenizer.dtype.type(tokenizer.end_of_text).tobytes()
    spans: Places = []
    place = 0
    with path.open("wb") as file:
        for first, last in places:
            source.seek(first * size)
            file.write(source.read((last - first) * size))
            file.write(end)
            spans.append((place, place + last - first))
            place += last - first + bool(end)
        file.flush()
        os.fsync(file.fileno())
    return spans


def write_tables(raw: Path, out: Path, parts: Splits, spans: dict[str, Places], tokenizer: Tokenizer) -> None:
    """Write the tables that `bdh.corpora.tokens` reads into `out`.

    Planted concepts and floors come from `raw`; of a part of a document neither is known.
    """
    rows = [(split, document) for split, documents in parts.items() for document in documents]
    places = [place for split in parts for place in spans[split]]
    floors, labels = read_floors(raw), read_spans(raw)
    columns: dict[str, list[Any]] = {
        "split": [split for split, _ in rows],
        "token_start": [start for start, _ in places],
        "token_end": [end for _, end in places],
        "floor_nats": [None if floors is None or one.part else floors[one.source] for _, one in rows],
    }
    for name in tokens.DOCUMENT_COLUMNS.keys() - columns.keys():
        columns[name] = [getattr(document, name) for _, document in rows]
    pq.write_table(_table(columns, tokens.DOCUMENT_COLUMNS), out / tokens.DOCUMENTS)
    if any(document.part for _, document in rows) and len(rows) > len(parts):
        pq.write_table(_table(columns, tokens.SEGMENT_COLUMNS), out / tokens.SEGMENTS)
    planted = [[] if labels is None or one.part else labels.get(one.source, []) for _, one in rows]
    speakers = [_speakers(document, own) for (_, document), own in zip(rows, planted, strict=True)]
    shards = {split: np.memmap(out / f"{split}.bin", dtype=tokenizer.dtype, mode="r") for split in parts}
    placed = [(split, start, shards[split][start:end]) for (split, _), (start, end) in zip(rows, places, strict=True)]
    for name, kinds, found in (
        (tokens.SPEAKERS, tokens.SPEAKER_COLUMNS, speakers),
        (tokens.LABELS, tokens.LABEL_COLUMNS, planted),
    ):
        if any(found):
            _write_spans(out / name, placed, found, tokenizer, kinds)


def _table(columns: dict[str, list[Any]], kinds: dict[str, pa.DataType]) -> pa.Table:
    return pa.table({name: pa.array(columns[name], kind) for name, kind in kinds.items()})


def _speakers(document: Document, planted: list[PlantedSpan]) -> list[PlantedSpan]:
    """Who speaks where: the turns that the source tells, else the planted classes of speakers."""
    if document.turns:
        return spans_of(document.turns)
    return [PlantedSpan(p.concept.removeprefix(CLASS), p.start, p.end) for p in planted if p.concept.startswith(CLASS)]


def _write_spans(
    path: Path,
    documents: list[tuple[str, int, np.ndarray]],
    spans: list[list[PlantedSpan]],
    tokenizer: Tokenizer,
    kinds: dict[str, pa.DataType],
) -> None:
    """Write byte spans of every document as token spans of its split's array, some thousand rows at a time.

    `documents`: split, first place in its array, and ids of each.
    """
    found: list[tuple[int, str, str, int, int]] = []
    with pq.ParquetWriter(path, pa.schema(kinds)) as writer:
        for row, (split, start, ids) in enumerate(documents):
            if spans[row]:
                for name, first, last in token_spans(spans[row], ids, tokenizer):
                    found.append((row, split, name, start + first, start + last))
            if found and (len(found) >= ROWS_AT_ONCE or row == len(documents) - 1):
                writer.write_table(_table(dict(zip(kinds, map(list, zip(*found, strict=True)), strict=True)), kinds))
                found = []
