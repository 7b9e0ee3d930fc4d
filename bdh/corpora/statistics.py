"""Numbers about a tokenized corpus: counts per split, the known floor, and the unigram baseline.

The baseline is what every model must beat: how often each token occurs, and nothing else.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from bdh.corpora.splits import Splits
from bdh.corpora.tokenizer import Tokenizer
from bdh.corpora.tokens import DOCUMENTS

BLOCK = 1 << 24


def counts_of(path: Path, tokenizer: Tokenizer) -> np.ndarray:
    """How often each id occurs in a shard, int64 of shape (V,), without holding the tokens in memory."""
    counts = np.zeros(tokenizer.vocab_size, dtype=np.int64)
    with path.open("rb") as file:
        while len(block := np.fromfile(file, dtype=tokenizer.dtype, count=BLOCK)):
            counts += np.bincount(block, minlength=tokenizer.vocab_size)
    return counts


def scored_counts(path: Path, starts: Iterable[int], tokenizer: Tokenizer) -> np.ndarray:
    """Counts of the ids in a shard that are targets: all but the first of each document, int64 of shape (V,)."""
    counts = counts_of(path, tokenizer)
    tokens = np.memmap(path, dtype=tokenizer.dtype, mode="r")
    np.subtract.at(counts, tokens[np.fromiter(starts, dtype=np.int64)].astype(np.int64), 1)
    return counts


def digest_of(folder: Path) -> str:
    """sha256 over names and contents of all files in `folder`, in the order of their names."""
    whole = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        with path.open("rb") as file:
            whole.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return whole.hexdigest()


def statistics_of(
    folder: Path, parts: Splits, spans: dict[str, list[tuple[int, int]]], tokenizer: Tokenizer
) -> dict[str, Any]:
    """Counts per split, the unigram baseline and the entropy floor of the tokenized corpus in `folder`.

    `unigram_bits_per_byte` is of the test split; `unigram` and `entropy_floor` have every split in bits per byte,
    the floor None for a corpus that was not generated.
    """
    shards = {name: folder / f"{name}.bin" for name in parts}
    train = counts_of(shards["train"], tokenizer)
    lengths, end = tokenizer.token_bytes, tokenizer.end_of_text
    unigram = {}
    for name, path in shards.items():
        scored = scored_counts(path, (start for start, _ in spans[name]), tokenizer)
        unigram[name] = unigram_bits_per_byte(train, scored, lengths, end)
    sizes = {name: path.stat().st_size // tokenizer.dtype.itemsize for name, path in shards.items()}
    return {
        "splits": {name: _counts(parts, name, sizes[name]) for name in parts},
        "unigram_bits_per_byte": unigram["test"],
        "unigram": unigram,
        "entropy_floor": _floors(folder / DOCUMENTS, list(parts)),
    }


def _counts(parts: Splits, name: str, tokens: int) -> dict[str, Any]:
    dates = [document.date for document in parts[name] if document.date]
    return {
        "documents": len(parts[name]),
        "tokens": tokens,
        "utf8_bytes": sum(document.utf8_bytes for document in parts[name]),
        "first_date": min(dates, default=None),
        "last_date": max(dates, default=None),
        "without_sector": sum(document.sector is None for document in parts[name]),
    }


def _floors(documents: Path, names: list[str]) -> dict[str, float] | None:
    table = pq.read_table(documents, columns=["split", "floor_nats", "utf8_bytes"]).to_pylist()
    if any(row["floor_nats"] is None for row in table):
        return None
    floors = {}
    for name in names:
        rows = [row for row in table if row["split"] == name]
        nats = math.fsum(row["floor_nats"] for row in rows)
        floors[name] = nats / math.log(2.0) / sum(row["utf8_bytes"] for row in rows)
    return floors


def unigram_bits_per_byte(
    train_counts: np.ndarray, counts: np.ndarray, token_bytes: np.ndarray, end_of_text: int | None
) -> float:
    """Bits per byte of a text under the add-one unigram of the training split.

    `counts` holds the scored targets: every token of a document but its first, no end of text.
    p(token) = (count in train + 1) / (tokens in train + V).
    """
    nats = math.log(train_counts.sum() + len(train_counts)) - np.log(train_counts + 1.0)
    scored = counts.astype(np.float64)
    if end_of_text is not None:
        scored[end_of_text] = 0.0
    return float(scored @ nats / math.log(2.0) / (scored @ token_bytes))
