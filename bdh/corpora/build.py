"""From the fetched files of a corpus to data/tokens/<corpus>: documents, splits, tokens, tables, statistics."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from bdh.corpora import splits
from bdh.corpora.bytepairs import BytePairs
from bdh.corpora.documents import Entry, Reader, drop_empty_and_repeated
from bdh.corpora.plain import PlainReader
from bdh.corpora.provenance import Provenance
from bdh.corpora.shards import write_shards
from bdh.corpora.statistics import digest_of, statistics_of
from bdh.corpora.table import TableReader, read_sectors
from bdh.corpora.tables import write_tables
from bdh.corpora.tokenizer import Bytes, Characters, Tokenizer
from bdh.corpora.tokens import STATS
from bdh.errors import CorpusError
from bdh.files import write_json
from bdh.params import (
    BpeTokenizer,
    ByteTokenizer,
    CharacterTokenizer,
    Corpus,
    PlainText,
    SeparatorPattern,
    SplitByDate,
)
from bdh.params import Tokenizer as TokenizerParams


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
