"""Token shards of a corpus: text streams in, memory-mapped arrays and the table of documents come out."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import BinaryIO

import numpy as np

from bdh.corpora.documents import Entry, Reader
from bdh.corpora.progress import bytes_progress
from bdh.corpora.splits import Splits
from bdh.corpora.tokenizer import Tokenizer

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
